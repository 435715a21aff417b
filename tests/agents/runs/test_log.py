"""The log of a run: bounded, thinned evenly, and the same after a break."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.evaluation.plots import TOKENS, read_progress
from agents.runs import RunFolder, RunRecorder
from agents.runs.log import MB, Completions, ProgressTable, TensorBoard

LIMIT = 0.02 * MB
EXCLUDED = {TOKENS: (), "rollout/kl": ()}


def table_steps(path) -> np.ndarray:
    return read_progress(path / "progress.csv")[TOKENS]


def completion_steps(path) -> np.ndarray:
    lines = (path / "completions.jsonl").read_text().splitlines()
    return np.unique([json.loads(line)["step"] for line in lines])


def event_steps(path) -> np.ndarray:
    found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return np.array([event.step for event in found.Scalars("rollout/kl")])


def table(path, at, rollouts):
    log = ProgressTable(path / "progress.csv", at, rollouts, LIMIT)
    return log, lambda step: log.write({TOKENS: step, "rollout/kl": 0.5}, EXCLUDED, step)


def completions(path, at, rollouts):
    log = Completions(path / "completions.jsonl", at, rollouts, LIMIT)
    return log, lambda step: log.write(step, [{"response": "x" * 20}] * 2)


def events(path, at, rollouts):
    log, values = TensorBoard(path, at, rollouts, LIMIT), {"rollout/kl": 0.5}
    return log, lambda step: log.write(values, {"rollout/kl": ()}, step)


@pytest.mark.parametrize(
    ("output", "steps"),
    [(table, table_steps), (completions, completion_steps), (events, event_steps)],
)
def test_it_is_thinned_evenly_and_stays_below_its_size(output, steps, tmp_path, capsys):
    log, write = output(tmp_path, 0, 0)
    for number in range(1, 1501):
        write(10 * number)
    log.close()
    log, write = output(tmp_path, 15_000, 1500)  # after a break
    for number in range(1501, 3001):
        write(10 * number)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1.1 * LIMIT
    found = steps(tmp_path)
    assert len(found) > 20 and len({*np.diff(found)}) == 1  # evenly
    assert found[0] == 10 and found[-1] > 30_000 - 2 * np.diff(found)[0]
    assert "every second rollout" in capsys.readouterr().out


def test_what_is_small_is_whole(tmp_path):
    for output, steps in ((table, table_steps), (completions, completion_steps)):
        log, write = output(tmp_path, 0, 0)
        for step in (10, 20, 30):
            write(step)
        log.close()
        log, write = output(tmp_path, 20, 1000)  # of a run that logs only some rollouts
        write(40)
        log.close()
        assert steps(tmp_path).tolist() == [10, 20, 40]


def test_memory_does_not_grow_with_the_table(tmp_path):
    log = ProgressTable(tmp_path / "progress.csv", 0)
    row = {TOKENS: 1} | {f"train/{number}": 1.0 for number in range(30)}
    excluded = dict.fromkeys(row, ())

    def write(count):
        for step in range(count):
            log.write(row | {TOKENS: step}, excluded, step)

    write(10)
    tracemalloc.start()
    write(500)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 50_000
    log.write(row | {"rollout/new": 2.0}, excluded | {"rollout/new": ()})
    found = read_progress(tmp_path / "progress.csv")
    assert len(found["rollout/new"]) == 511 and np.isnan(found["rollout/new"][:-1]).all()


def test_a_recorder_keeps_to_its_megabytes(make_agent, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    agent = make_agent("REINFORCE").learn(1500, RunRecorder(folder.path, log_megabytes=0.02))
    assert folder.completions.stat().st_size < 10_000 and folder.progress.stat().st_size < 5_000
    assert agent.num_rollouts > len(completion_steps(folder.path)) > 1
    assert len(table_steps(folder.path)) > 1 and folder.has_checkpoint
    assert capsys.readouterr().out.count("completions.jsonl has reached 0.01 MB") == 1
    with pytest.raises(ValueError, match="log_megabytes=0 must be a number above 0"):
        RunRecorder(tmp_path / "other", log_megabytes=0)


def test_the_option_is_one_of_the_run(model_folder, tmp_path):
    import agents

    run = agents.train(
        "reinforce", model=model_folder, prompts="bundled", reward="length(3)", n_envs=8,
        total_timesteps=20, eval_episodes=4, reference_episodes=0, max_new_tokens=3,
        folder=tmp_path / "run", log_megabytes=3, device="cpu",
    )  # fmt: skip
    assert run.folder.settings()["options"]["log_megabytes"] == 3


def test_files_of_one_second_are_read_in_their_order(tmp_path):
    """TensorBoard sorts their names, by which the tenth file of a program is before the ninth."""
    for number in range(12):
        log, write = events(tmp_path, 10 * number, number)
        write(10 * (number + 1))
        log.close()
    assert event_steps(tmp_path).tolist() == [10 * (number + 1) for number in range(12)]


def test_files_of_others_are_left_alone(tmp_path):
    other = tmp_path / "events.out.tfevents.1700000000.host.12.0.v2"
    other.write_bytes(b"of TensorFlow")
    log, write = events(tmp_path, 0, 0)
    for number in range(1, 1501):
        write(10 * number)
    log.close()
    assert other.read_bytes() == b"of TensorFlow"
