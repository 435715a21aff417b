"""What is wrong with a run, from the numbers that it has logged; nothing is trained or sampled.

    from agents.reports.diagnosis import diagnose
    from agents.reports.run_numbers import RunNumbers

    for finding in diagnose(RunNumbers.read("runs/ppo-bundled-0")).findings:
        print(finding.sentence)

Each diagnosis is a pure function of a `RunNumbers`: a sentence with the option to change, or None
if all is well. Its docstring says why its threshold is where it is. They are chosen to be silent on
healthy runs (all algorithms with their presets), and so leave out what is only unusual. "Late"
means the mean over the last quarter of the rollouts, which says where a run has ended and has less
noise than its last rollout.
"""

import math
from dataclasses import dataclass

import numpy as np

from agents.evaluation.plots import TOKENS
from agents.reports.run_numbers import NotLogged, RunNumbers


@dataclass(frozen=True)
class Finding:
    """A problem of a run: its name, such as "constant reward", and what is wrong, with the option
    to change."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of all diagnoses."""

    findings: list[Finding]  # without those that follow from another one
    passed: list[str]  # names of the diagnoses that found none
    skipped: list[str]  # those whose numbers are not logged, or do not apply to the algorithm


# --- what the algorithm learns from: the reward, the ratio, the clip, the critic ------------------


def a_single_rollout(record: RunNumbers) -> str | None:
    """A run of one rollout has made one update, of whose effect nothing was logged."""
    if len(record.column(TOKENS)) > 1:
        return None
    return (
        "The run has one rollout, so that nothing shows whether it has learned: take more tokens "
        "(total_timesteps), or fewer episodes per rollout (n_envs)."
    )


def constant_reward(record: RunNumbers) -> str | None:
    """The late standard deviation of the scores within a rollout is below 1e-6.

    Equal scores have equal advantages, and the gradient of the score is exactly 0. Scores that are
    equal differ by rounding only, 1e-16 of their size; no reward of this package tells two texts
    apart by less than 1e-4. So the threshold lies far from both.
    """
    if record.late("rollout/score_std") > 1e-6:
        return None
    score = record.late("rollout/score_mean")
    if record.column("rollout/score_std")[0] <= 1e-6:
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
    if share <= 0.5:
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
    if deviation <= 0.05:
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
    if fraction <= 0.3:
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
    if fraction >= 1e-3:
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
    if share <= 0.5:
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
    if share >= 0.05 or len(record.column("train/explained_variance")) < 8:
        return None
    return (
        f"The critic explains {share:z.0%} of the variance of the returns, so it is no help as a "
        f"baseline: change {record.now('vf_learning_rate')} or {record.now('vf_coef')}, or train "
        "for longer (total_timesteps)."
    )


# --- what has become of the policy and its texts --------------------------------------------------


def kl_running_away(record: RunNumbers) -> str | None:
    """Late, the KL to the reference is far beyond what can pay.

    With a known optimum the limit is three times its KL (at least 1 nat): with the presets all
    algorithms end at 1.0 to 1.3 times. Otherwise it is 10 nats per episode, the KL of the best of
    60,000 samples (log n − (n − 1)/n), or 0.5 nats per token of longer texts.
    """
    kl = record.late("rollout/kl")
    if record.optimal_kl is not None:
        limit = max(3.0 * record.optimal_kl, 1.0)
        far = f"the optimal policy has {record.optimal_kl:.2g}"
    else:
        limit = max(10.0, 0.5 * record.late("rollout/ep_len_mean"))
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
    if kl >= 0.01 or len(record.column("rollout/kl")) < 4:
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
    if first <= 0 or late >= 0.1 * first:
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
    if before["mean"] - after["mean"] <= 3.0 * math.hypot(*errors):
        return None
    return (
        f"The agent is worth less than before: its return is {after['mean']:.3g}, that of the "
        f"untouched model {before['mean']:.3g}: lower {record.now('learning_rate')}, or learn "
        "from larger rollouts (n_envs)."
    )


def nothing_gained(record: RunNumbers) -> str | None:
    """The return after learning is not above that before by more than two standard errors.

    An agent that has learned nothing passes this in 1 of 40 runs. With the presets a run has gained
    three standard errors of 512 episodes after some 10,000 tokens.
    """
    before, after = record.measure("return")
    errors = [one["standard_error"] or 0.0 for one in (before, after)]
    if after["mean"] - before["mean"] > 2.0 * math.hypot(*errors):
        return None
    return (
        "Nothing shows that the agent has learned: its return is "
        f"{after['mean']:z.3f} ± {errors[1]:.3f}, that of the untouched model "
        f"{before['mean']:z.3f} ± {errors[0]:.3f}: take more tokens (total_timesteps), raise "
        f"{record.now('learning_rate')}, or evaluate more episodes (eval_episodes)."
    )


def cut_at_budget(record: RunNumbers) -> str | None:
    """Late, fewer than 5 % of the episodes stop by themselves.

    A text that is cut has no end: the stop token is hardly ever sampled, so that it cannot be
    learned, and the score is that of a fragment. With the presets 95 to 100 % stop.
    """
    stopped = record.late("rollout/finished")
    if stopped >= 0.05:
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
    if late >= 0.25 * first:
        return None
    return (
        f"Responses have shrunk from {first:.0f} to {late:.1f} tokens: raise "
        f"{record.now('min_new_tokens')}, or pay for length (reward)."
    )


def turns_cut(record: RunNumbers) -> str | None:
    """Late, more than 80 % of the turns of dialogues end at their token budget.

    A turn that is cut has no end of its own, so that replies interrupt it. Where a turn is one
    token, as in a game of single moves, that is its length.
    """
    share = record.late("rollout/turns_cut") / record.late("rollout/turns")
    length = record.late("rollout/ep_len_mean") / record.late("rollout/turns")
    if share <= 0.8 or length <= 1.01:
        return None
    return (
        f"{share:.0%} of the turns are cut before they stop: raise "
        f"{record.now('max_turn_tokens')} or {record.now('max_new_tokens')}, or name a stop string "
        "(stop)."
    )


def replies_cut(record: RunNumbers) -> str | None:
    """Late, more than one reply in 20 episodes is cut to its token budget.

    The policy then reads a part of what the environment answers, and cannot learn from the rest.
    """
    cut = record.late("rollout/replies_cut")
    if cut <= 0.05:
        return None
    return (
        f"Of each episode {cut:.2g} replies are cut: raise {record.now('max_reply_tokens')}, or "
        "let respond answer in fewer words."
    )


def nothing_replied(record: RunNumbers) -> str | None:
    """Late, dialogues have no token of a reply, though more than one turn is allowed.

    So a tool is never called, or the first turn ends each dialogue, and the task is one without
    replies.
    """
    tokens = record.late("rollout/reply_length")
    if tokens > 0 or record.task.get("max_turns", 2) == 1:
        return None
    turns = record.late("rollout/turns")
    return (
        f"Nothing is ever replied: episodes have {turns:.2g} turns and no token of a reply, so "
        "show what a turn that is answered looks like in the prompts, and change "
        f"{record.now('respond')}."
    )


def responses_alike(record: RunNumbers) -> str | None:
    """distinct-2, different word pairs by all, is less than a quarter of that before learning.

    With the presets it falls from 0.57 to 0.47. A quarter of it is far below what any change of
    the subject or of the style does, and means that sentences are repeated word by word.
    """
    before, after = record.measure("distinct_2")
    if after >= 0.25 * before:
        return None
    return (
        f"The responses have become alike (distinct-2 from {before:.2f} to {after:.2f}): raise "
        f"{record.now('kl_coef')} or ent_coef, or lower {record.now('learning_rate')}."
    )


# --- all of them --------------------------------------------------------------------------------

DIAGNOSES = (
    a_single_rollout, constant_reward, groups_without_spread, first_ratio, clipping_too_much,
    nothing_clipped, trust_region_refused, weak_critic, kl_running_away, nothing_moved,
    entropy_collapsed, worth_less, nothing_gained, cut_at_budget, short_responses,
    responses_alike, turns_cut, replies_cut, nothing_replied,
)  # fmt: skip

# What follows from another problem, which alone is then named: its cure is another one.
FOLLOWS = {
    "groups without spread": {"constant reward"},
    "weak critic": {"constant reward"},
    "nothing moved": {"constant reward", "groups without spread", "trust region refused"},
    "constant reward": {"entropy collapsed"},
    "responses alike": {"entropy collapsed"},
    "nothing gained": {"worth less", "a single rollout", "constant reward", "nothing moved"},
}


def diagnose(record: RunNumbers) -> Diagnosis:
    """Apply every diagnosis to a run."""
    outcome = Diagnosis([], [], [])
    found: list[Finding] = []
    for diagnosis in DIAGNOSES:
        name = diagnosis.__name__.replace("_", " ").replace("kl ", "KL ")
        try:
            sentence = diagnosis(record)
        except NotLogged:
            outcome.skipped.append(name)
            continue
        if sentence is None:
            outcome.passed.append(name)
        else:
            found.append(Finding(name, sentence))
    names = {finding.name for finding in found}
    outcome.findings.extend(one for one in found if not FOLLOWS.get(one.name, set()) & names)
    return outcome
