"""Each diagnosis on numbers that are just beyond its threshold, and just within."""

from __future__ import annotations

import numpy as np
import pytest

from agents.reports import diagnosis as problems
from agents.reports.diagnosis import DIAGNOSES, diagnose
from agents.reports.run_numbers import NotLogged, RunNumbers
from agents.training.metrics import groups_without_spread


def record(hyperparameters=None, optimal_kl=None, n_envs=8, evaluations=None, **columns):
    """A record with these columns of the log, "rollout_kl" for "rollout/kl"."""
    progress = {
        name.replace("_", "/", 1): np.asarray(values, dtype=float)
        for name, values in columns.items()
    }
    return RunNumbers(
        progress, hyperparameters or {}, {"reward": "haiku", "max_new_tokens": 24}, n_envs,
        evaluations or {}, optimal_kl,
    )  # fmt: skip


def flat(value):
    return [value] * 8


def summary(mean, error=0.01):
    return {"mean": mean, "standard_error": error, "count": 100}


MINIBATCHES = {"batch_size": 2, "n_epochs": 1}

# For each diagnosis: records that are sick, and ones that are not, though close.
CASES = [
    (
        problems.a_single_rollout,
        [record(time_total_timesteps=[40])],
        [record(time_total_timesteps=[40, 80])],
    ),
    (
        problems.constant_reward,
        [
            record(rollout_score_std=flat(0), rollout_score_mean=flat(0)),
            record(rollout_score_std=[0.3] * 6 + [0, 0], rollout_score_mean=flat(1)),
        ],
        [record(rollout_score_std=[0] * 6 + [1e-3, 0], rollout_score_mean=flat(0))],
    ),
    (
        problems.groups_without_spread,
        [record(rollout_groups_without_spread=flat(0.6))],
        [record(rollout_groups_without_spread=[1] * 6 + [0.4, 0.4])],
    ),
    (
        problems.first_ratio,
        [record(train_first_approx_kl=flat(0.06**2 / 2))],
        [record(train_first_approx_kl=flat(kl)) for kl in (0.04**2 / 2, -1e-9)],
    ),
    (
        problems.clipping_too_much,
        [record(train_clip_fraction=flat(0.35))],
        [record(train_clip_fraction=[0.9] + [0.1] * 7)],
    ),
    (
        problems.nothing_clipped,
        [record(MINIBATCHES, train_clip_fraction=flat(0))],
        [record(MINIBATCHES, train_clip_fraction=[0.01] + [0] * 7)],
    ),
    (
        problems.trust_region_refused,
        [record(train_step_fraction=[1, 0, 0])],
        [record(train_step_fraction=[1, 0])],
    ),
    (
        problems.weak_critic,
        [record(train_explained_variance=flat(0)), record(train_explained_variance=flat(-3))],
        [
            record(train_explained_variance=[0] * 6 + [0.1, 0.1]),
            record(train_explained_variance=[0] * 7),  # it has only begun
        ],
    ),
    (
        problems.kl_running_away,
        [
            record(rollout_kl=[0] * 6 + [7, 7], optimal_kl=2),
            record(rollout_kl=flat(12), rollout_ep_len_mean=flat(14)),
        ],
        [
            record(rollout_kl=flat(5), optimal_kl=2),
            record(rollout_kl=flat(0.5), optimal_kl=0.1),
            record(rollout_kl=flat(12), rollout_ep_len_mean=flat(100)),
        ],
    ),
    (
        problems.nothing_moved,
        [record(rollout_kl=flat(0.001)), record(rollout_kl=flat(-1e-8))],
        [record(rollout_kl=flat(0.1)), record(rollout_kl=[0, 0, 0])],
    ),
    (
        problems.entropy_collapsed,
        [record(rollout_entropy=[2] + [0.1] * 7, rollout_score_mean=flat(0))],
        [record(rollout_entropy=[2] + [0.3] * 7, rollout_score_mean=flat(0))],
    ),
    (
        problems.worth_less,
        [record(evaluations={"before": {"return": summary(0.1)}, "after": {"return": summary(0)}})],
        [
            record(
                evaluations={
                    "before": {"return": summary(0.1, 0.04)}, "after": {"return": summary(0, 0.04)}
                }
            ),
            record(
                evaluations={
                    "before": {"return": summary(0.1, None)}, "after": {"return": summary(0.2)}
                }
            ),
        ],
    ),
    (
        problems.nothing_gained,
        [
            record(evaluations={"before": {"return": summary(a)}, "after": {"return": summary(b)}})
            for a, b in ((0.009, -0.039), (0.1, 0.12))
        ],
        [record(evaluations={"before": {"return": summary(0)}, "after": {"return": summary(0.1)}})],
    ),
    (
        problems.cut_at_budget,
        [record(rollout_finished=[0.9] * 6 + [0.01, 0.01])],
        [record(rollout_finished=[0] * 6 + [0.1, 0.1])],
    ),
    (
        problems.short_responses,
        [record(rollout_ep_len_mean=[14] + [2] * 7, rollout_score_mean=flat(0))],
        [record(rollout_ep_len_mean=[14] + [5] * 7, rollout_score_mean=flat(0))],
    ),
    (
        problems.turns_cut,
        [record(rollout_turns=flat(2), rollout_turns_cut=flat(1.8), rollout_ep_len_mean=flat(9))],
        [
            record(rollout_turns=flat(2), rollout_turns_cut=flat(1), rollout_ep_len_mean=flat(9)),
            record(rollout_turns=flat(2), rollout_turns_cut=flat(2), rollout_ep_len_mean=flat(2)),
        ],
    ),
    (
        problems.replies_cut,
        [record(rollout_replies_cut=flat(0.3))],
        [record(rollout_replies_cut=flat(0.01))],
    ),
    (
        problems.nothing_replied,
        [record(rollout_reply_length=flat(0), rollout_turns=flat(1))],
        [record(rollout_reply_length=flat(0.5), rollout_turns=flat(2))],
    ),
    (
        problems.responses_alike,
        [record(evaluations={"before": {"distinct_2": 0.6}, "after": {"distinct_2": 0.1}})],
        [record(evaluations={"before": {"distinct_2": 0.6}, "after": {"distinct_2": 0.3}})],
    ),
]  # fmt: skip


def test_every_diagnosis_has_its_cases():
    assert {diagnosis for diagnosis, *_ in CASES} == set(DIAGNOSES)


@pytest.mark.parametrize(
    ("diagnosis", "sick", "well"), CASES, ids=[diagnosis.__name__ for diagnosis, *_ in CASES]
)
def test_it_is_found_beyond_the_threshold_alone(diagnosis, sick, well):
    for one in sick:
        sentence = diagnosis(one)
        assert sentence and sentence.endswith(".")
        assert ":" in sentence  # the option to change comes after it
    for one in well:
        assert diagnosis(one) is None
    with pytest.raises(NotLogged):
        diagnosis(record())


def test_one_step_on_each_rollout_cannot_clip():
    with pytest.raises(NotLogged):
        problems.nothing_clipped(record({"batch_size": None}, train_clip_fraction=flat(0)))
    several = {"batch_size": None, "n_epochs": 4}
    assert problems.nothing_clipped(record(several, train_clip_fraction=flat(0)))


def test_a_diagnosis_names_the_options_as_they_are():
    kl = record({"learning_rate": 0.5}, rollout_kl=flat(0))
    assert "learning_rate (now 0.5)" in problems.nothing_moved(kl)
    assert "max_new_tokens (now 24)" in problems.cut_at_budget(record(rollout_finished=flat(0)))


def test_all_together():
    outcome = diagnose(record(rollout_kl=flat(50), rollout_finished=flat(1), optimal_kl=2.0))
    assert [finding.name for finding in outcome.findings] == ["KL running away"]
    assert set(outcome.passed) == {"nothing moved", "cut at budget"}
    assert len(outcome.skipped) == len(DIAGNOSES) - 3


def test_what_follows_from_another_problem_is_not_named():
    constant = {"rollout_score_std": flat(0), "rollout_score_mean": flat(1)}
    outcome = diagnose(record(rollout_kl=flat(0), train_explained_variance=flat(-1), **constant))
    assert [finding.name for finding in outcome.findings] == ["constant reward"]
    collapsed = record(rollout_entropy=[2] + [0] * 7, **constant)
    assert [finding.name for finding in diagnose(collapsed).findings] == ["entropy collapsed"]


def test_missing_numbers_are_left_out():
    """A column that came later in a run is nan before."""
    late = record(rollout_kl=[np.nan] * 7 + [3])
    assert late.late("rollout/kl") == 3
    with pytest.raises(NotLogged):
        record(rollout_kl=flat(np.nan)).column("rollout/kl")


def test_the_share_of_groups_without_spread():
    scores = [1, 1, 0, 1, 2, 2]
    assert groups_without_spread(scores, 2) == pytest.approx(2 / 3)
    assert groups_without_spread(scores, 3) == 0
    assert groups_without_spread(scores, 1) == 0  # all of them are one group
    assert groups_without_spread([3, 3, 3], 2) == 1  # so are these
