"""The best that any policy can reach in E[score] − β·KL(π‖π_ref), and what best-of-n reaches.

For each prompt the objective has a known maximum over all policies:

    π*(y) = π_ref(y)·e^{s(y)/β} / Z,    J* = β·log Z,    Z = E_ref[e^{s(y)/β}]

(Ziebart 2010, chapter 5; Levine 2018, section 2; Korbak et al. 2022, equation 5). Scores of samples
of the reference are enough to estimate it: no policy has to be trained. Prompts are drawn
independently of the policy, so the optimum of a task is the mean over its prompts.

``scores`` are those of one prompt, ``[N]``, finite: of samples of the reference, or, with their
``log_probs`` log π_ref ``[N]``, of a complete list of its responses. Functions with the argument
``prompts`` take one such array for each prompt and average over them. ``kl_coef`` is β, above 0, in
units of the score per nat. Anything else is a ValueError.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FEW_SAMPLES = 10.0  # effective samples per prompt, below which an estimate is called too low


@dataclass(frozen=True)
class Optimum:
    """The optimal policy's return J* and what it consists of: J* = score − β·KL."""

    kl_coef: float  # β, units of the score per nat
    value: float  # J*, units of the score; an estimate from samples is too low on average
    score: float  # E_{π*}[s]
    kl: float  # KL(π*‖π_ref), nats per episode
    start: float  # E_ref[s], the return of the reference itself
    samples: int  # number of samples per prompt (of the prompt with the fewest)
    # 1/Σ w² of the weights w ∝ e^{s/β}, the mean over the prompts: how many samples it rests on.
    effective_samples: float
    standard_error: float  # of ``value``, to first order; 0 for complete lists
    bias: float  # of ``value``, to second order, at most 0 (`estimation_error`)

    @property
    def warning(self) -> str | None:
        """One sentence if the samples are too few for this β, and None if they suffice."""
        if self.standard_error == 0 or self.effective_samples >= FEW_SAMPLES:
            return None
        return (
            f"The optimum is estimated from {self.effective_samples:.1f} effective samples per "
            f"prompt (of {self.samples}), which is few: it is probably higher by about "
            f"{-self.bias:.2g} or more. Draw more samples of the reference to know."
        )

    def share(self, value: float) -> float:
        """The share of the way from the reference's return to J* at the return ``value``.

        nan if the reference is already optimal.
        """
        way = self.value - self.start
        return (value - self.start) / way if way > 1e-9 else math.nan


@dataclass(frozen=True)
class BestOf:
    """Best-of-n of the reference: draw n responses, keep the one with the highest score."""

    n: int
    score: float  # the expected highest score
    kl: float  # an upper bound of its KL to the reference, nats per episode


# --- one prompt ---------------------------------------------------------------------------------


def optimal_log_weights(
    scores: np.ndarray, kl_coef: float, log_probs: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """log π*(y) ``[N]`` of each response, in nats, and J*, in units of the score.

    log π*(y) = log π_ref(y) + (s(y) − J*)/β, with J* = β·log Σ_y π_ref(y)·e^{s(y)/β}. Samples count
    as responses of probability 1/N.
    """
    if not kl_coef > 0:
        raise ValueError(
            f"kl_coef={kl_coef} must be above 0: without a cost of KL the optimum is the highest "
            "score of all possible responses, which no samples tell."
        )
    scores = checked(scores)
    if log_probs is None:
        log_probs = np.full(len(scores), -math.log(len(scores)))
    joint = np.asarray(log_probs, np.float64) + scores / kl_coef
    log_z = float(np.logaddexp.reduce(joint))
    return joint - log_z, kl_coef * log_z


def estimation_error(log_weights: np.ndarray, kl_coef: float) -> tuple[float, float]:
    """The standard error and the bias of J* = β·log Ẑ from samples with the `optimal_log_weights`
    log w.

    With ESS = 1/Σ w², the relative variance of Ẑ is 1/ESS − 1/N. So the standard error of β·log Ẑ
    is β·√(1/ESS − 1/N), and by Jensen's inequality its bias is negative, −β/2·(1/ESS − 1/N) to
    second order. Both need several effective samples.
    """
    relative_variance = max(float(np.exp(2 * log_weights).sum()) - 1 / len(log_weights), 0.0)
    return kl_coef * math.sqrt(relative_variance), -kl_coef / 2 * relative_variance


def best_of_n(scores: np.ndarray, n: int, log_probs: np.ndarray | None = None) -> float:
    """The expected highest score of n responses, n at most N for samples, without resampling.

    From N samples it is the mean of the maximum over all subsets of size n, which is unbiased: the
    i-th smallest score is the maximum of a random subset with the probability C(i−1, n−1)/C(N, n)
    (Nakano et al. 2021, appendix I, has the same estimator). From a complete list it is Σ
    s_(i)·(F_i^n − F_{i−1}^n), with F the cumulative distribution of the sorted scores.
    """
    scores = checked(scores)
    if n < 1 or (log_probs is None and n > len(scores)):
        raise ValueError(
            f"n={n} must be from 1 to the number of samples of a prompt, {len(scores)}."
        )
    order = np.argsort(scores)
    if log_probs is not None:
        cumulative = np.cumsum(np.exp(np.asarray(log_probs, np.float64)[order]))
        return float(np.diff((cumulative / cumulative[-1]) ** n, prepend=0.0) @ scores[order])
    # From the largest to the smallest: C(i−1, n−1)/C(i, n−1) = (i − n + 1)/i.
    i = np.arange(len(scores) - 1, 0, -1)
    weights = n / len(scores) * np.cumprod(np.r_[1.0, np.maximum(i - n + 1, 0) / i])
    return float(weights @ scores[order][::-1])


def best_of_n_kl(n: int) -> float:
    """log n − (n − 1)/n, nats: an upper bound of KL(best-of-n‖π_ref).

    Stiennon et al. 2020, appendix G.3, give it as the KL; Beirami et al. 2024, theorem 3.1, prove
    that it is a bound, which is close if no response is likely.
    """
    return math.log(n) - (n - 1) / n


# --- a task: the mean over its prompts ----------------------------------------------------------


def optimum(
    prompts: Sequence[np.ndarray], kl_coef: float, log_probs: Sequence[np.ndarray] | None = None
) -> Optimum:
    """The optimum of a task, the mean over its prompts; ``log_probs`` has one array for each of
    them."""
    lists = [None] * len(prompts) if log_probs is None else log_probs
    rows = []
    for scores, known in zip(prompts, lists, strict=True):
        log_weights, value = optimal_log_weights(scores, kl_coef, known)
        weights = np.exp(log_weights)
        error, bias = estimation_error(log_weights, kl_coef) if known is None else (0.0, 0.0)
        start = np.average(scores, weights=None if known is None else np.exp(known))
        mean, effective = weights @ checked(scores), 1 / float(weights @ weights)
        rows.append((value, mean, start, effective, error, bias))
    values, means, starts, effectives, errors, biases = zip(*rows, strict=True)
    value, score = float(np.mean(values)), float(np.mean(means))
    return Optimum(
        kl_coef, value, score, kl=(score - value) / kl_coef, start=float(np.mean(starts)),
        samples=min(map(len, prompts)), effective_samples=float(np.mean(effectives)),
        standard_error=float(np.linalg.norm(errors)) / len(errors), bias=float(np.mean(biases)),
    )  # fmt: skip


def frontier(prompts: Sequence[np.ndarray], kl_coefs: Iterable[float]) -> list[Optimum]:
    """The optimum at each β, from samples: the highest score that any policy can have at its KL.
    Large β are close to the reference."""
    return [optimum(prompts, kl_coef) for kl_coef in kl_coefs]


def best_of_n_curve(prompts: Sequence[np.ndarray], ns: Iterable[int]) -> list[BestOf]:
    """Best-of-n of the reference for several n, from at least as many samples of each prompt."""
    return [
        BestOf(n, float(np.mean([best_of_n(scores, n) for scores in prompts])), best_of_n_kl(n))
        for n in ns
    ]


def checked(scores: np.ndarray) -> np.ndarray:
    """Scores as float64 ``[N]``."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(
            f"The scores of a prompt must be a list of finite numbers with at least one entry; "
            f"these have the shape {scores.shape}."
        )
    return scores
