"""What is wrong with a run, from the numbers that it has logged; nothing is trained or sampled.

    from agents.reports.diagnosis import diagnose
    from agents.reports.run_numbers import RunNumbers

    for finding in diagnose(RunNumbers.read("runs/ppo-bundled-0")).findings:
        print(finding.sentence)

learning    what the algorithm learns from: the reward, the ratio, the clip, the critic
behaviour   what has become of the policy and its texts

Each diagnosis is a pure function of a `RunNumbers`: a sentence with the option to change, or None
if all is well. Its docstring says why its threshold is where it is. They are chosen to be silent on
healthy runs (all algorithms with their presets), and so leave out what is only unusual. "Late"
means the mean over the last quarter of the rollouts, which says where a run has ended and has less
noise than its last rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.reports.diagnosis import behaviour, learning
from agents.reports.run_numbers import NotLogged, RunNumbers

DIAGNOSES = (
    learning.constant_reward, learning.groups_without_spread, learning.first_ratio,
    learning.clipping_too_much, learning.nothing_clipped, learning.trust_region_refused,
    learning.weak_critic, behaviour.kl_running_away, behaviour.nothing_moved,
    behaviour.entropy_collapsed, behaviour.worth_less, behaviour.cut_at_budget,
    behaviour.short_responses, behaviour.responses_alike,
)  # fmt: skip

# What follows from another problem, which alone is then named: its cure is another one.
FOLLOWS = {
    "groups without spread": {"constant reward"},
    "weak critic": {"constant reward"},
    "nothing moved": {"constant reward", "groups without spread", "trust region refused"},
    "constant reward": {"entropy collapsed"},
    "responses alike": {"entropy collapsed"},
}


@dataclass(frozen=True)
class Finding:
    """A problem of a run.

    Attributes:
        name: of the diagnosis, such as "constant reward".
        sentence: what is wrong, and the option to change.
    """

    name: str
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of all diagnoses.

    Attributes:
        findings: the problems, without those that follow from another one.
        passed: names of the diagnoses that found none.
        skipped: names of those whose numbers are not logged, or do not apply to the algorithm.
    """

    findings: list[Finding]
    passed: list[str]
    skipped: list[str]


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
