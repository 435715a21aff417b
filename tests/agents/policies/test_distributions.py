"""Drawing actions, and the KL of distributions, against plain sums and torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from agents.policies.distributions import BLOCK, TorchDistribution, draw

VOCABULARY = 49_152  # of SmolLM2; 192 blocks


@pytest.fixture
def draw_at(monkeypatch):
    """``draw_at(log_probs, uniforms)``: the action that each chosen random number draws."""

    def at(log_probs: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
        numbers = uniforms[:, None].double()
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: numbers)
        rows = log_probs.expand(len(uniforms), -1)
        actions = draw(rows, torch.Generator()).tolist()
        monkeypatch.undo()
        return actions

    return at


def middles(probabilities: torch.Tensor, actions: list[int]) -> torch.Tensor:
    """The numbers u for which 1 − u falls into the middle of each action's share."""
    shares = probabilities.double()
    upper = shares.cumsum(dim=0)
    return 1 - ((upper - shares / 2) / upper[-1])[actions]


def with_long_tail(vocabulary: int) -> torch.Tensor:
    """log π: the first token takes all but 1e-4, which the others share evenly."""
    probabilities = torch.full((vocabulary,), 1e-4 / (vocabulary - 1))
    probabilities[0] = 1 - 1e-4
    return probabilities.log()


def test_in_float32_the_sums_of_a_long_tail_are_all_alike():
    """Which is why a search in such sums could never draw most of its tokens."""
    sums = with_long_tail(VOCABULARY).exp().double().cumsum(dim=0)
    assert sums.unique().numel() == VOCABULARY
    assert sums.float().unique().numel() < VOCABULARY / 20


def test_each_token_of_a_long_tail_is_drawn_where_its_share_lies(draw_at):
    log_probs = with_long_tail(VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, VOCABULARY, (200,), generator=generator).tolist()
    chosen += [0, 1, BLOCK - 1, BLOCK, VOCABULARY - BLOCK, VOCABULARY - 1]
    assert draw_at(log_probs, middles(log_probs.exp(), chosen)) == chosen


def test_the_tail_is_drawn_as_often_as_it_should_be():
    """Half of the probability on 49,151 tokens: in which sixteenth of the vocabulary they fall."""
    logits = torch.full((VOCABULARY,), 0.0)
    logits[0] = np.log(VOCABULARY - 1)
    log_probs = logits.log_softmax(-1).expand(250, -1)
    generator = torch.Generator().manual_seed(0)
    actions = torch.cat([draw(log_probs, generator) for _ in range(8)]).numpy()
    counts = np.bincount(actions // (VOCABULARY // 16), minlength=16)
    counts[0] -= (actions == 0).sum()
    assert (actions == 0).mean() == pytest.approx(0.5, abs=0.04)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("actions", [1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 777])
def test_every_action_is_drawn_where_its_share_lies(actions, draw_at):
    generator = torch.Generator().manual_seed(actions)
    log_probs = torch.randn(actions, generator=generator).log_softmax(-1)
    every = list(range(actions))
    assert draw_at(log_probs, middles(log_probs.exp(), every)) == every
    # Not beyond the last action, nor before the first, at the ends of the uniform's range.
    ends = draw_at(log_probs, torch.tensor([0.0, 1 - 2**-53]))
    assert ends == [actions - 1, 0]


@pytest.mark.parametrize("actions", [6, BLOCK + 44])
def test_draws_have_the_probabilities_of_the_distribution(actions):
    logits = torch.randn(actions, generator=torch.Generator().manual_seed(1))
    probabilities = logits.softmax(-1).double().numpy()
    drawn = draw(logits.log_softmax(-1).expand(30_000, -1), torch.Generator().manual_seed(2))
    counts = np.bincount(drawn.numpy(), minlength=actions)
    expected = probabilities / probabilities.sum() * len(drawn)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.01
    assert scipy.stats.chisquare(counts).pvalue < 1e-6  # the test can tell


@pytest.mark.parametrize("actions", [8, 2 * BLOCK + 3])
def test_banned_actions_are_never_drawn(actions, draw_at):
    """Not at the edges of their neighbours' shares either, nor at the ends of the row."""
    logits = torch.zeros(actions)
    borders = [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]
    banned = [0, 3, 4, actions - 1, *(action for action in borders if action < actions)]
    logits[banned] = -torch.inf
    log_probs = logits.log_softmax(-1)
    edges = 1 - log_probs.exp().double().cumsum(dim=0)
    uniforms = torch.cat([edges, edges + 1e-12, edges - 1e-12, torch.tensor([0.0, 1 - 2**-53])])
    drawn = draw_at(log_probs, uniforms.clamp(0, 1 - 2**-53))
    assert not set(drawn) & set(banned)
    assert set(range(1, 3)) < set(drawn)


@pytest.mark.parametrize("rare", [1e-9, 1e-12, 1e-14])
def test_rounding_at_the_border_of_a_block_draws_no_banned_action(rare, draw_at):
    """Nearly all probability is in the first block; the second one begins with a banned action."""
    probabilities = torch.zeros(3 * BLOCK, dtype=torch.float64)
    probabilities[[0, 1, BLOCK + 1, BLOCK + 2]] = torch.tensor([0.3, 0.7, rare, rare]).double()
    log_probs = probabilities.log().float()
    masses = log_probs.exp().unflatten(0, (3, BLOCK)).sum(dim=1).double()
    border = masses[0] / masses.sum()
    uniforms = 1 - (border + torch.arange(-50.0, 50.0).double() * 2.0**-54)
    drawn = draw_at(log_probs, uniforms.clamp(0, 1 - 2**-53))
    assert set(drawn) <= {1, BLOCK + 1, BLOCK + 2}
    assert {1, BLOCK + 1} <= set(drawn)


def test_rows_of_nan_do_not_crash_and_leave_the_others_alone():
    log_probs = torch.full((3, 300), torch.nan)
    log_probs[1] = torch.full((300,), -torch.inf)
    log_probs[1, 7] = 0.0
    actions = draw(log_probs, torch.Generator().manual_seed(0))
    assert actions[1] == 7
    assert ((actions >= 0) & (actions < 300)).all()


# KL


def test_the_kl_of_normals_is_the_closed_form():
    """Σ_i log σ'/σ + (σ² + (μ − μ')²) / 2σ'² − ½, over the dimensions of an action."""
    mean, std = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[1.0, 0.5]]])
    other_mean, other_std = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[2.0, 0.8]]])
    one, other = (
        TorchDistribution(Independent(Normal(*parameters), 1))
        for parameters in ((mean, std), (other_mean, other_std))
    )
    by_hand = (
        (other_std / std).log() + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5
    ).sum(-1)
    assert by_hand.shape == (1, 1) and by_hand > 0.5
    assert_close(one.kl(other), by_hand)
    assert (other.kl(one) - by_hand).abs() > 0.5  # the order matters


@pytest.mark.parametrize("discrete", [True, False])
def test_a_detached_distribution_stays_as_it_is(discrete):
    parameter = torch.zeros(2, 3, 4, requires_grad=True)
    if discrete:
        distribution = TorchDistribution(Categorical(logits=parameter))
    else:
        distribution = TorchDistribution(Independent(Normal(parameter, parameter.exp()), 1))
    fixed = distribution.detach()
    assert type(fixed.distribution) is type(distribution.distribution)
    assert_close(kl_divergence(fixed.distribution, distribution.distribution), torch.zeros(2, 3))
    divergence = fixed.kl(distribution).sum()
    (gradient,) = torch.autograd.grad(divergence, parameter, retain_graph=True)
    assert_close(gradient, torch.zeros_like(gradient))  # a minimum
    (actions,) = (distribution.distribution.sample(),)
    assert not fixed.log_probs(actions)[0].requires_grad
    assert distribution.log_probs(actions)[0].requires_grad
