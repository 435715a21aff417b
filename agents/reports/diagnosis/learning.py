"""What the algorithm learns from: the reward, the first ratio, the clip, the critic."""

from __future__ import annotations

import math

import numpy as np

from agents.reports.run_numbers import NotLogged, RunNumbers

EQUAL_SCORES = 1e-6  # deviation of the scores
WITHOUT_SPREAD = 0.5  # share of the groups
FIRST_RATIO = 0.05  # |π/π_old − 1|, root mean square
CLIPPED_HIGH, CLIPPED_LOW = 0.3, 1e-3  # share of the steps
REFUSED = 0.5  # share of the rollouts
EXPLAINED = 0.05  # share of the variance of the returns
CRITIC_LEARNS = 8  # rollouts


def constant_reward(record: RunNumbers) -> str | None:
    """The late standard deviation of the scores within a rollout is below 1e-6.

    Equal scores have equal advantages, and the gradient of the score is exactly 0. Scores that are
    equal differ by rounding only, 1e-16 of their size; no reward of this package tells two texts
    apart by less than 1e-4. So the threshold lies far from both.
    """
    if record.late("rollout/score_std") > EQUAL_SCORES:
        return None
    score = record.late("rollout/score_mean")
    if record.column("rollout/score_std")[0] <= EQUAL_SCORES:
        return (
            f"Every episode has the score {score:.3g}, so there is nothing to learn from: look at "
            f"the texts with show_samples=5, and change {record.now('reward')}."
        )
    return (
        f"All scores have become {score:.3g}, so nothing is left to learn from: take prompts that "
        "are harder (prompts), or a reward that still tells good texts from better ones (reward)."
    )


def groups_without_spread(record: RunNumbers) -> str | None:
    """In more than half of the late groups all scores are equal.

    Such a group teaches nothing, so that half of the tokens are wasted and the noise of the
    gradient is √2 times that of all groups. DAPO (Yu et al. 2025, section 3.2) replaces these
    groups for that reason.
    """
    share = record.late("rollout/groups_without_spread")
    if share <= WITHOUT_SPREAD:
        return None
    return (
        f"In {share:.0%} of the groups all scores are equal, so they teach nothing: raise "
        f"{record.now('group_size')}, or take a reward with more values than these (reward), or "
        "prompts that are neither too easy nor too hard (prompts)."
    )


def first_ratio(record: RunNumbers) -> str | None:
    """The ratio π/π_old at the first minibatch differs from 1 by more than 5 %, root mean square.

    There no step has been taken, so the ratio is 1 but for rounding: about 1e-6 in float32, at most
    1 % in bfloat16 (8 bits). "Check if ratio=1" is the first advice of Huang et al. 2022 (The 37
    implementation details of PPO). 5 % is a quarter of the usual clip range. The log has the KL,
    r − 1 − log r, which is (r − 1)²/2 for small deviations. The median ignores single rollouts.
    """
    kl = float(np.median(record.column("train/first_approx_kl")))
    deviation = math.sqrt(2 * max(kl, 0.0))
    if deviation <= FIRST_RATIO:
        return None
    return (
        f"At the first minibatch the ratio of new to old probabilities is off by {deviation:.0%}, "
        "where it has to be 1: act and evaluate of the policy differ, so look for dropout, another "
        "temperature or other tokens in one of them, or take dtype='float32' (policy_kwargs)."
    )


def clipping_too_much(record: RunNumbers) -> str | None:
    """More than 30 % of the steps are clipped, on the mean of the run.

    If log r is normal with the deviation σ, 32 % of the steps are outside of the clip range ε when
    σ = ε: the typical step is then as far away as the clip allows, and most of its gradient is
    lost. Runs with the presets clip 1 to 10 %.
    """
    fraction = float(record.column("train/clip_fraction").mean())
    if fraction <= CLIPPED_HIGH:
        return None
    return (
        f"On average {fraction:.0%} of the steps are clipped, so that most of the gradient is "
        f"lost: lower {record.now('learning_rate')} or {record.now('n_epochs')}, or raise "
        f"{record.now('clip_range')}."
    )


def nothing_clipped(record: RunNumbers) -> str | None:
    """In no rollout are more than 0.1 % of the steps clipped, with several steps on each rollout.

    The clip is there because several steps move the ratio away from 1. If it never acts, one step
    would have done, or each is too short. (Andrychowicz et al. 2021 find that the best ε is one
    that matters.) With one step on each rollout the ratio is 1 by construction, and nothing is
    found.
    """
    fraction = float(record.column("train/clip_fraction").max())
    if record.steps_per_rollout < 2:
        raise NotLogged("train/clip_fraction")
    if fraction >= CLIPPED_LOW:
        return None
    return (
        f"The {record.steps_per_rollout} steps on each rollout never reach the clip range, so they "
        f"are too short: raise {record.now('learning_rate')} or {record.now('n_epochs')}."
    )


def trust_region_refused(record: RunNumbers) -> str | None:
    """In more than half of the rollouts the line search of TRPO has found no step at all.

    A refused step wastes its rollout. The line search tries ten lengths, so that it fails only
    where the quadratic model of the KL is wrong even near π_old (Schulman et al. 2015, appendix C).
    """
    share = float((record.column("train/step_fraction") == 0).mean())
    if share <= REFUSED:
        return None
    return (
        f"In {share:.0%} of the rollouts TRPO refused its step, so nothing was learned from them: "
        f"lower {record.now('target_kl')}, or raise {record.now('cg_damping')}, "
        f"{record.now('fisher_rows')} or {record.now('n_envs')}."
    )


def weak_critic(record: RunNumbers) -> str | None:
    """Late, the critic explains less than 5 % of the variance of the returns.

    1 is a perfect critic, 0 is no better than a constant, and below 0 it adds noise to each
    advantage. A critic that starts at 0 needs some rollouts, so only the last quarter counts; with
    the presets it is above 20 % by then.
    """
    share = record.late("train/explained_variance")
    if share >= EXPLAINED or len(record.column("train/explained_variance")) < CRITIC_LEARNS:
        return None
    return (
        f"The critic explains {share:z.0%} of the variance of the returns, so it is no help as a "
        f"baseline: change {record.now('vf_learning_rate')} or {record.now('vf_coef')}, or train "
        "for longer (total_timesteps)."
    )
