"""What has become of the policy and its texts."""

from __future__ import annotations

import math

from agents.reports.run_numbers import RunNumbers

KL_OF_OPTIMUM = 3.0  # times
KL_FLOOR, KL_LIMIT = 1.0, 10.0  # nats per episode
KL_PER_TOKEN = 0.5  # nats
MOVED = 0.01  # nats per episode
BEGUN = 4  # rollouts; with fewer a run has only begun
ENTROPY_LEFT = 0.1  # share of the entropy at the beginning
STANDARD_ERRORS = 3.0
STOPPED = 0.05  # share of the episodes
SHRUNK = 0.25  # share of the length, or of distinct-2, at the beginning


def kl_running_away(record: RunNumbers) -> str | None:
    """Late, the KL to the reference is far beyond what can pay.

    With a known optimum the limit is three times its KL (at least 1 nat): with the presets all
    algorithms end at 1.0 to 1.3 times. Otherwise it is 10 nats per episode, the KL of the best of
    60,000 samples (log n − (n − 1)/n), or 0.5 nats per token of longer texts.
    """
    kl = record.late("rollout/kl")
    if record.optimal_kl is not None:
        limit = max(KL_OF_OPTIMUM * record.optimal_kl, KL_FLOOR)
        far = f"the optimal policy has {record.optimal_kl:.2g}"
    else:
        limit = max(KL_LIMIT, KL_PER_TOKEN * record.late("rollout/ep_len_mean"))
        far = f"more than {limit:.2g} are seldom worth their price"
    if kl <= limit:
        return None
    return (
        f"The KL to the reference has run away to {kl:.3g} nats per episode ({far}): raise "
        f"{record.now('kl_coef')}, or lower {record.now('learning_rate')}."
    )


def nothing_moved(record: RunNumbers) -> str | None:
    """Late, the KL to the reference is below 0.01 nats per episode.

    By Pinsker's inequality the probabilities of all texts together then differ by at most
    √(KL/2) = 7 %, so that no score can have changed by more than 7 % of its range.
    """
    kl = record.late("rollout/kl")
    if kl >= MOVED or len(record.column("rollout/kl")) < BEGUN:
        return None
    return (
        f"The policy is still the reference (KL {max(kl, 0):.2g} nats per episode): raise "
        f"{record.now('learning_rate')}, or lower {record.now('kl_coef')}."
    )


def entropy_collapsed(record: RunNumbers) -> str | None:
    """Late, less than 10 % of the first rollout's entropy is left; for text only.

    Cui et al. 2025 (The entropy mechanism of RL for reasoning language models) find that score is
    paid with entropy, and that nearly all of what can be gained is gained when nearly all of the
    entropy is spent. What then acts is one text per prompt, which tries nothing new. Small networks
    may be right to be sure of their actions, so they are left out.
    """
    record.column("rollout/score_mean")  # of text alone
    first, late = float(record.column("rollout/entropy")[0]), record.late("rollout/entropy")
    if first <= 0 or late >= ENTROPY_LEFT * first:
        return None
    return (
        f"The entropy has collapsed from {first:.2g} to {late:.2g} nats per token, so nothing new "
        f"is tried: raise {record.now('kl_coef')} or ent_coef, or lower "
        f"{record.now('learning_rate')}."
    )


def worth_less(record: RunNumbers) -> str | None:
    """The return after learning is below that before by more than three standard errors.

    By chance alone this happens in 1 of 700 runs.
    """
    before, after = record.measure("return")
    errors = [one["standard_error"] or 0.0 for one in (before, after)]
    if before["mean"] - after["mean"] <= STANDARD_ERRORS * math.hypot(*errors):
        return None
    return (
        f"The agent is worth less than before: its return is {after['mean']:.3g}, that of the "
        f"untouched model {before['mean']:.3g}: lower {record.now('learning_rate')}, or learn "
        "from larger rollouts (n_envs)."
    )


def cut_at_budget(record: RunNumbers) -> str | None:
    """Late, fewer than 5 % of the episodes stop by themselves.

    A text that is cut has no end: the stop token is hardly ever sampled, so that it cannot be
    learned, and the score is that of a fragment. With the presets 95 to 100 % stop.
    """
    stopped = record.late("rollout/finished")
    if stopped >= STOPPED:
        return None
    return (
        f"{1 - stopped:.0%} of the episodes are cut at the token budget before they stop: raise "
        f"{record.now('max_new_tokens')}, name a stop string (stop), or make it cost something "
        "(no_stop_penalty)."
    )


def short_responses(record: RunNumbers) -> str | None:
    """Late, responses have less than a quarter of the tokens that they had in the first rollout.

    An empty text is the cheapest way to avoid a negative score or KL, whose sum grows with the
    length. With the presets lengths stay within 10 %.
    """
    record.column("rollout/score_mean")  # of text alone
    first, late = record.column("rollout/ep_len_mean")[0], record.late("rollout/ep_len_mean")
    if late >= SHRUNK * first:
        return None
    return (
        f"Responses have shrunk from {first:.0f} to {late:.1f} tokens: raise "
        f"{record.now('min_new_tokens')}, or pay for length (reward)."
    )


def responses_alike(record: RunNumbers) -> str | None:
    """distinct-2, different word pairs by all, is less than a quarter of that before learning.

    With the presets it falls from 0.57 to 0.47. A quarter of it is far below what any change of
    the subject or of the style does, and means that sentences are repeated word by word.
    """
    before, after = record.measure("distinct_2")
    if after >= SHRUNK * before:
        return None
    return (
        f"The responses have become alike (distinct-2 from {before:.2f} to {after:.2f}): raise "
        f"{record.now('kl_coef')} or ent_coef, or lower {record.now('learning_rate')}."
    )
