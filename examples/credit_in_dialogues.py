"""Which way of sharing the credit among turns has the gradient of the expected return?

A dialogue of at most two turns is small enough to enumerate. In the first turn the policy says x,
then whether it goes on (y); the environment replies with some chance r, and in the second turn the
policy says z. The first turn is paid, and so is the whole dialogue. For each credit Ψ_t of an
action the expected Σ_t Ψ_t·∇log π(a_t|s_t) is computed over all dialogues, or over all pairs of
them, and compared with the gradient of the expected return, which autograd takes of the sum itself.

The credits themselves are functions of `agents.functional.advantages`. What compares turns by their
position is right if a turn is compared with those of the *others* (leave-one-out): whether they
have such a turn does not depend on its own actions. The mean of all, its own return included,
shrinks an advantage by a factor that depends on how many have come so far, so that the sum over
turns points elsewhere; and a division by the standard deviation does so in any case.

    python examples/credit_in_dialogues.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from agents.functional import advantages as psi

GAMMA, LAMBDA = 1.0, 0.5
RIGHT, SCALED, OTHER = "the gradient of J", "in proportion to it", "another direction"


@dataclass
class Game:
    """All dialogues, as rows [B, T] of actions, with what the policy is in each state."""

    logits: Tensor  # [states, 2], the parameters of the policy
    states: Tensor  # [B, T]
    actions: Tensor  # [B, T]
    chance: Tensor  # [B], of the replies
    rewards: Tensor  # [B, T], of turns at their last steps and of the dialogue at its end
    mask: Tensor  # [B, T]
    turn_end: Tensor  # [B, T]
    episode_end: Tensor  # [B, T]

    def log_probs(self) -> Tensor:
        """log π(a_t|s_t) [B, T], 0 where there is no action."""
        every = self.logits.log_softmax(-1)[self.states]
        chosen = every.gather(2, self.actions[:, :, None])[:, :, 0]
        return torch.where(self.mask, chosen, 0.0)

    def probabilities(self) -> Tensor:
        """Of the dialogues [B]."""
        return self.log_probs().sum(1).exp() * self.chance

    def values(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """V(s_t) and V(s_{t+1}) [B, T] of a table of values of states."""
        values = torch.where(self.mask, table[self.states], 0.0)
        following = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)
        return values, torch.where(self.episode_end, 0.0, following)


def play(seed: int = 0) -> Game:
    """The game with random rewards and a random policy; float64, so that zero is zero."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    # States: the beginning; after x; after x and r.
    begun, after_x, after_r = 0, (1, 2), ((3, 4), (5, 6))
    of_turn, of_end, chance = draw(2), 2 * draw(2, 3, 2), torch.sigmoid(draw(2))
    rows = []
    for x, y in product((0, 1), (0, 1)):
        if y == 0:  # the policy ends the dialogue
            rows.append(
                ([begun, after_x[x], 0], [x, y, 0], 1.0, [0, of_turn[x] + of_end[x, 2, 0], 0], 2)
            )
            continue
        for r, z in product((0, 1), (0, 1)):
            p = chance[x] if r else 1 - chance[x]
            rewards = [0, of_turn[x], of_end[x, r, z]]
            rows.append(([begun, after_x[x], after_r[x][r]], [x, y, z], float(p), rewards, 3))
    states, actions, chances, rewards, lengths = zip(*rows, strict=True)
    length = torch.tensor(lengths)[:, None]
    step = torch.arange(3)
    return Game(
        draw(7, 2).requires_grad_(True), torch.tensor(states), torch.tensor(actions),
        torch.tensor(chances, dtype=torch.float64), torch.tensor(rewards, dtype=torch.float64),
        mask=step < length, turn_end=(step == 1) | (step == length - 1),
        episode_end=step == length - 1,
    )  # fmt: skip


def true_values(game: Game) -> Tensor:
    """V^π of each state: the mean return-to-go of the dialogues that pass it."""
    togo = psi.discounted_returns(game.rewards, game.episode_end, GAMMA, mask=game.mask)
    weights = game.probabilities().detach()[:, None].expand_as(togo)
    table = torch.zeros(len(game.logits), dtype=torch.float64)
    for state in range(len(table)):
        here = (game.states == state) & game.mask
        table[state] = (weights[here] * togo[here]).sum() / weights[here].sum()
    return table


# --- the credits --------------------------------------------------------------------------------

Credit = Callable[[Game], Tensor]


def whole_return(game: Game) -> Tensor:
    return psi.trajectory_return(game.rewards, GAMMA, game.mask)


def return_to_go(game: Game) -> Tensor:
    return psi.discounted_returns(game.rewards, game.episode_end, GAMMA, mask=game.mask)


def own_turn(game: Game) -> Tensor:
    """What the turn alone is paid, as where each turn is judged by itself."""
    return psi.discounted_returns(game.rewards, game.turn_end, GAMMA, mask=game.mask)


def gae(by_turns: bool, critic: str, gae_lambda: float = LAMBDA) -> Credit:
    def credit(game: Game) -> Tensor:
        wrong = torch.linspace(-1, 2, len(game.logits), dtype=torch.float64)
        table = true_values(game) if critic == "true" else wrong
        factor = psi.once_a_turn(gae_lambda, game.turn_end) if by_turns else gae_lambda
        return psi.generalized_advantages(
            game.rewards, *game.values(table), game.episode_end, GAMMA, factor, game.mask
        )

    return credit


def of_episodes(compare: Callable[[Tensor, int], Tensor]) -> Credit:
    return lambda pairs: compare(whole_return(pairs)[:, 0], 2)[:, None].expand_as(pairs.rewards)


def of_turns(compare: Callable[[Tensor, int], Tensor], returns: Credit = return_to_go) -> Credit:
    def credit(pairs: Game) -> Tensor:
        among = lambda values: compare(values, len(values))  # noqa: E731
        return psi.over_turns(among, returns(pairs), pairs.turn_end, pairs.mask, 2)

    return credit


CREDITS: dict[str, tuple[Credit, bool]] = {  # and whether it compares the members of a pair
    "return of the episode, for all its actions": (whole_return, False),
    "return-to-go": (return_to_go, False),
    "return of the own turn alone": (own_turn, False),
    "GAE over actions, true critic": (gae(False, "true"), False),
    "GAE over actions, wrong critic": (gae(False, "wrong"), False),
    "GAE over actions, wrong critic, λ = 1": (gae(False, "wrong", 1.0), False),
    "GAE over turns, true critic": (gae(True, "true"), False),
    "GAE over turns, wrong critic": (gae(True, "wrong"), False),
    "GAE over turns, wrong critic, λ = 1": (gae(True, "wrong", 1.0), False),
    "group-centered, episodes": (of_episodes(psi.group_centered), True),
    "group-relative (÷ std), episodes": (of_episodes(psi.group_relative), True),
    "leave-one-out, episodes": (of_episodes(psi.leave_one_out), True),
    "group-centered, turns by position": (of_turns(psi.group_centered), True),
    "group-relative (÷ std), turns by position": (of_turns(psi.group_relative), True),
    "leave-one-out, turns by position": (of_turns(psi.leave_one_out), True),
    "leave-one-out, own turns by position": (of_turns(psi.leave_one_out, own_turn), True),
}


# --- their gradients ----------------------------------------------------------------------------


def exact_gradient(game: Game) -> Tensor:
    """∇J, J = Σ_τ P(τ)·R(τ)."""
    expected = (game.probabilities() * game.rewards.sum(1)).sum()
    return torch.autograd.grad(expected, game.logits)[0]


def expected_gradient(game: Game, credit: Credit, in_pairs: bool) -> Tensor:
    """E[Σ_t Ψ_t·∇log π(a_t|s_t)], over dialogues or over pairs of independent ones."""
    if in_pairs:
        index = torch.tensor(list(product(range(len(game.rewards)), repeat=2))).flatten()
        rows = {name: value[index] for name, value in vars(game).items() if name != "logits"}
        game = Game(game.logits, **rows)
        of_pair = game.probabilities().detach().reshape(-1, 2).prod(dim=1)
        weights = of_pair.repeat_interleave(2) / 2
    else:
        weights = game.probabilities().detach()
    weighed = weights[:, None] * credit(game).detach() * game.log_probs()
    return torch.autograd.grad(weighed.sum(), game.logits)[0]


def verdict(exact: Tensor, found: Tensor) -> tuple[str, float, float]:
    """Which it is, with the relative error and the cosine of the angle."""
    error = float((found - exact).norm() / exact.norm())
    cosine = float(torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0))
    if error < 1e-9:
        return RIGHT, error, cosine
    return (SCALED if cosine > 1 - 1e-9 else OTHER), error, cosine


def main() -> None:
    """Print the table."""
    game = play()
    exact = exact_gradient(game)
    print(f"{'credit':<44} {'cosine':>7}  is")
    for name, (credit, in_pairs) in CREDITS.items():
        what, _, cosine = verdict(exact, expected_gradient(game, credit, in_pairs))
        print(f"{name:<44} {cosine:7.3f}  {what}")


if __name__ == "__main__":
    main()
