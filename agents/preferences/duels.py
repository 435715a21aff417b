"""Which of several agents writes better texts: win rates, sign test, Bradley-Terry strengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from agents.evaluation.statistics import Interval


@dataclass(frozen=True)
class Duel:
    """How often the first of two won, tied with the second, and lost."""

    wins: int
    ties: int
    losses: int

    @property
    def count(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def win_rate(self) -> Interval:
        """Wins among the pairs that were decided, with the 95 % Wilson interval (1927).

        Without any, it is 0.5 with the interval from 0 to 1.
        """
        decided = self.wins + self.losses
        if not decided:
            return Interval(0.5, 0.0, 1.0)
        bounds = binomtest(self.wins, decided).proportion_ci(method="wilson")
        return Interval(self.wins / decided, float(bounds.low), float(bounds.high))

    @property
    def p_value(self) -> float:
        """Of the two-sided exact sign test: that both are as good; ties are left out."""
        decided = self.wins + self.losses
        return float(binomtest(self.wins, decided).pvalue) if decided else 1.0


def duel(first: Sequence[float], second: Sequence[float], margin: float = 0.0) -> Duel:
    """The duel of two agents by their scores ``[N]`` on the same prompts; differences up to
    ``margin`` are ties."""
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    wins, losses = int((difference > margin).sum()), int((difference < -margin).sum())
    return Duel(wins, len(difference) - wins - losses, losses)


def bradley_terry_strengths(wins: np.ndarray) -> np.ndarray:
    """Log-strengths θ of K competitors, with mean 0: P(i beats j) = σ(θ_i − θ_j).

    The maximum-likelihood fit by minorisation-maximisation (Hunter 2004, eq. 3). Half a win for
    either side is added to each pair that met, so that nobody's strength is infinite. Who met
    nobody has the strength 0. ``wins`` is how often i beat j ``[K, K]``, a tie half a win for both.
    """
    met = (wins + wins.T) > 0
    table = wins + 0.5 * met
    games, strength = table + table.T, np.ones(len(wins))
    np.fill_diagonal(games, 0)
    won, played = table.sum(axis=1) - np.diag(table), games.sum(axis=1) > 0
    for _ in range(10_000):  # it ends earlier
        expected = (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        new = np.divide(won, expected, out=np.ones(len(wins)), where=played)
        new[played] /= np.exp(np.log(new[played]).mean())
        change, strength = np.abs(np.log(new / strength)).max(), new
        if change < 1e-10:
            break
    return np.log(strength)


def tournament(
    scores: Mapping[str, Sequence[float]], margin: float = 0.0, seed: int = 0, resamples: int = 500
) -> dict[str, Interval]:
    """The log-strength of each competitor, with its 95 % bootstrap interval over the prompts, by
    the scores ``[N]`` of each on the same prompts; differences up to ``margin`` are ties."""
    table = np.array([list(values) for values in scores.values()], dtype=float)
    difference = table[:, None] - table[None, :]
    better = (difference > margin) + 0.5 * (np.abs(difference) <= margin)  # [K, K, N]
    return _strengths(list(scores), better, seed, resamples)


@dataclass(frozen=True)
class Judgement:
    """What people say about two texts, by the names of those who wrote them.

    ``margin`` is how many people prefer the first text, minus how many prefer the second. The
    majority decides, so that a pair counts once however many people see it.
    """

    first: str
    second: str
    margin: int


def judged_duel(judgements: Sequence[Judgement], first: str, second: str) -> Duel:
    """The duel of two by the judgements on pairs of theirs; other judgements are left out."""
    signs = [np.sign(j.margin) for j in judgements if (j.first, j.second) == (first, second)]
    signs += [-np.sign(j.margin) for j in judgements if (j.first, j.second) == (second, first)]
    return Duel(signs.count(1), signs.count(0), signs.count(-1))


def judged_tournament(
    names: Sequence[str], judgements: Sequence[Judgement], seed: int = 0, resamples: int = 500
) -> dict[str, Interval]:
    """The log-strength of each competitor, with its 95 % bootstrap interval over the pairs, by at
    least one judgement on pairs of theirs."""
    better = np.zeros((len(names), len(names), len(judgements)))
    for number, judgement in enumerate(judgements):
        one, other = names.index(judgement.first), names.index(judgement.second)
        share = (1 + np.sign(judgement.margin)) / 2
        better[one, other, number], better[other, one, number] = share, 1 - share
    return _strengths(names, better, seed, resamples)


def _strengths(
    names: Sequence[str], better: np.ndarray, seed: int, resamples: int
) -> dict[str, Interval]:
    """Strengths and intervals from how often i beat j in each comparison ``[K, K, N]``."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(better.shape[2], size=(resamples, better.shape[2]))
    drawn = np.array([bradley_terry_strengths(better[:, :, row].sum(axis=2)) for row in rows])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    fitted = bradley_terry_strengths(better.sum(axis=2))
    return {
        name: Interval(float(fitted[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(names)
    }
