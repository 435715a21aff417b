"""What people answer is on the disk once, whatever happens in between."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
import time

import pytest

from agents.preferences.labels import CHOICES, Labelling
from agents.preferences.labels.answers import MAX_NAME
from agents.preferences.labels.labelling import files
from agents.preferences.pairs import Pair, load_preferences


def answer_all(labelling, name, choose=lambda pair: "left"):
    """The pairs in the order in which a person saw them."""
    seen = []
    while (view := labelling.view(name)).pair is not None:
        seen.append(view.pair)
        assert labelling.answer(name, view.turn, choose(view.pair))
    return seen


def rows(path):
    return [json.loads(line) for line in files(path)[2].read_text().split("\n")[:-1]]


def test_each_person_sees_each_pair_once_in_an_order_of_their_own(labelling, pairs):
    orders = [answer_all(labelling, name) for name in ("ada", "bob", "eve")]
    prompts = [[pair.prompt for pair in order] for order in orders]
    assert all(sorted(order) == [pair.prompt for pair in pairs] for order in prompts)
    assert len(set(map(tuple, prompts))) == 3
    with pytest.raises(ValueError, match="answered all 6"):
        labelling.answer("ada", 6, "left")


def test_it_goes_on_where_it_was(labelling, path):
    for name, count in (("ada", 4), ("bob", 1)):
        for turn in range(count):
            labelling.answer(name, turn, "right")
    again = Labelling(path)
    for name, count in (("ada", 4), ("bob", 1), ("eve", 0)):
        assert again.view(name) == labelling.view(name)
        assert again.view(name).answered == count
    assert again.pairs == labelling.pairs
    assert (again.settings, again.fingerprint) == ({"seed": 0}, labelling.fingerprint)


def test_an_answer_is_on_the_disk_before_it_counts(labelling, path, monkeypatch):
    """At the moment of fsync the line is in the file, and no other view is given yet."""
    synced = []

    def fsync(handle, original=os.fsync):
        synced.append((files(path)[2].read_bytes().count(b"\n"), os.fstat(handle).st_ino))
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for turn in range(3):
        synced.clear()
        labelling.answer("ada", turn, "tie")
        assert synced[0] == (turn + 1, files(path)[2].stat().st_ino)


def test_a_key_pressed_twice_or_in_two_windows_counts_once(labelling, path):
    view = labelling.view("ada")
    assert labelling.answer("ada", view.turn, "left")
    assert not labelling.answer("ada", view.turn, "left")
    assert not Labelling(path).answer("ada", view.turn, "right")
    assert not labelling.undo("ada", view.turn)
    assert [row["choice"] for row in rows(path)] == ["left"]
    assert labelling.view("ada").answered == 1


def test_undo_asks_the_same_pair_again_and_takes_the_preference_back(labelling, path):
    first = labelling.view("ada")
    labelling.answer("ada", 0, "left")
    second = labelling.view("ada")
    labelling.answer("ada", 1, "right")
    assert labelling.undo("ada", 2) and not labelling.undo("ada", 2)
    assert labelling.view("ada").pair == second.pair
    assert [p.chosen for p in load_preferences(path)] == [first.pair.responses[0]]
    assert labelling.undo("ada", 3)
    assert labelling.view("ada").pair == first.pair and path.read_text() == ""
    assert not labelling.undo("ada", 4)  # nothing is left to undo
    labelling.answer("ada", 4, "right")
    again = Labelling(path)
    assert [p.chosen for p in again.preferences()] == [first.pair.responses[1]]
    assert again.view("ada").answered == 1 and again.view("ada").turn == 5


def test_undo_of_one_person_leaves_the_others_alone(labelling):
    labelling.answer("ada", 0, "left")
    labelling.answer("bob", 0, "left")
    labelling.undo("ada", 1)
    assert (labelling.view("ada").answered, labelling.view("bob").answered) == (0, 1)


def test_preferences_hold_what_was_chosen_ties_and_skips_make_none(labelling, path, pairs):
    choices = dict(zip((pair.prompt for pair in pairs), [*CHOICES, "right", "left"], strict=True))
    answer_all(labelling, "ada", lambda pair: choices[pair.prompt])
    found = {p.prompt: p for p in load_preferences(path)}
    assert set(found) == {prompt for prompt, c in choices.items() if c in ("left", "right")}
    for number, pair in enumerate(pairs):
        if pair.prompt in found:
            better = choices[pair.prompt] == "right"
            preference = found[pair.prompt]
            assert preference.chosen == pair.responses[better]
            assert preference.rejected == pair.responses[not better]
            assert preference.data == {
                "labeller": "ada", "pair": number, "chosen_by": pair.sources[better],
                "rejected_by": pair.sources[not better],
            }  # fmt: skip
    assert labelling.counts() == {"ada": {"left": 2, "right": 2, "tie": 1, "skip": 1}}


def test_judgements_are_those_of_the_majority_without_skips(labelling):
    votes = {"ada": "left left tie skip right tie", "bob": "left right left skip right tie"}
    for name, choices in votes.items():
        by_prompt = dict(enumerate(choices.split()))
        answer_all(labelling, name, lambda pair, c=by_prompt: c[int(pair.prompt[7:-1])])
    assert [j.margin for j in labelling.judgements()] == [2, 0, 1, -2, 0]
    assert {(j.first, j.second) for j in labelling.judgements()} == {("runs/a", "runs/b")}


def test_several_people_in_several_processes_lose_and_mix_nothing(path, pairs):
    """Two objects, as two processes have them, each with the threads of four people."""
    Labelling.create(path, pairs * 5, {})
    opened = [Labelling(path), Labelling(path)]
    names = [f"person {i}" for i in range(4)]
    stored = []

    def work(labelling, name):
        while (view := labelling.view(name)).pair is not None:
            choice = "left" if name in names[:2] else "right"
            if labelling.answer(name, view.turn, choice):
                stored.append((name, view.turn))

    threads = [threading.Thread(target=work, args=(one, name)) for one in opened for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == sorted((name, turn) for name in names for turn in range(30))
    assert len(rows(path)) == 120
    counts = Labelling(path).counts()
    assert [counts[name]["left"] for name in names] == [30, 30, 0, 0]
    assert len(load_preferences(path)) == 120


def test_half_a_line_of_a_killed_process_does_not_count(labelling, path):
    labelling.answer("ada", 0, "left")
    whole = files(path)[2].read_bytes()
    for end in range(1, len(whole)):
        files(path)[2].write_bytes(whole + whole[:end].replace(b'"turn": 0', b'"turn": 1'))
        again = Labelling(path)
        assert again.view("ada").turn == 1
    again.answer("ada", 1, "tie")
    assert [row["choice"] for row in rows(path)] == ["left", "tie"]
    assert Labelling(path).view("ada").turn == 2


@pytest.mark.parametrize(
    "line",
    [
        '{"labeller": "ada", "turn": 0, "pair": 1, "choice": "left"}',  # the turn is stored already
        '{"labeller": "bob", "turn": 0, "pair": 6, "choice": "left"}',  # there is no such pair
        '{"labeller": "bob", "turn": 0, "pair": 1, "choice": "middle"}',
        '{"labeller": "bob", "turn": 0, "pair": 1, "choice": "undo"}',
        '{"labeller": "bob"}',
        "[]",
        "left",
    ],
)
def test_a_line_that_does_not_fit_is_named(labelling, path, line):
    labelling.answer("ada", 0, "left")
    with open(files(path)[2], "a") as file:
        file.write(line + "\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"answers\.jsonl', line 2, does not fit"):
            labelling.view("ada")
    with pytest.raises(ValueError, match="line 2"):
        Labelling(path)


def test_answers_that_were_taken_away_are_noticed(labelling, path):
    labelling.answer("ada", 0, "left")
    files(path)[2].write_text("")
    with pytest.raises(ValueError, match="shorter"):
        labelling.answer("ada", 1, "left")


def test_a_write_that_fails_halfway_stores_nothing(labelling, path):
    """A limit on the size of files stops the write after ten bytes, as a full disk does."""
    labelling.answer("ada", 0, "left")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = files(path)[2].stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError):
            labelling.answer("ada", 1, "right")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert labelling.view("ada").turn == 1
    assert labelling.answer("ada", 1, "tie")
    assert [row["choice"] for row in rows(path)] == ["left", "tie"]


def test_kills_at_random_moments_lose_nothing_and_double_nothing(path, pairs):
    """A process answers, undoes, and says so; it is killed with -9, again and again."""
    Labelling.create(path, pairs * 10, {})
    rng, said, before, kills, in_vain = random.Random(0), 0, 0, 0, 0
    while True:
        receive, send = os.pipe()
        process = os.fork()
        if not process:
            try:
                _label_in_a_process(path, send)
            finally:
                os._exit(0)
        os.close(send)
        # Longer on a busy machine, where nothing was answered before the last kills.
        time.sleep(rng.uniform(0.002, 0.02) * 2**in_vain)
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        kills += os.WIFSIGNALED(status)
        with os.fdopen(receive, "rb") as file:
            said += len(file.read())
        turn = Labelling(path).view("ada").turn
        # What was said is stored; at most one answer was stored without having been said.
        assert said <= turn <= said + 1
        in_vain = 0 if turn > before else in_vain + 1
        said = before = turn
        if Labelling(path).view("ada").pair is None:
            break
    assert kills > 8
    counts = Labelling(path).counts()["ada"]
    assert sum(counts.values()) == 60
    found = load_preferences(path)
    assert len(found) == len({p.data["pair"] for p in found}) == counts["left"]
    assert [row["turn"] for row in rows(path)] == list(range(turn))


def _label_in_a_process(path, send):
    """Every fifth answer is undone; a byte is sent after each."""
    labelling = Labelling(path)
    while (view := labelling.view("ada")).pair is not None:
        if view.turn % 5 == 4 and view.answered:
            labelling.undo("ada", view.turn)
        else:
            labelling.answer("ada", view.turn, "tie" if view.turn % 3 else "left")
        os.write(send, b".")


def test_conversations_and_any_text_survive_the_files(tmp_path):
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "u\n\u2028v"})
    pair = Pair("<|im|>u\r\n", ("a\n\nb\u2028", " \t"), (1, 2), ("x", "y"), messages)
    path = tmp_path / "new" / "labels.jsonl"
    Labelling.create(path, [pair], {}).answer("Zoë 李", 0, "left")
    again = Labelling(path)
    kept = again.pairs[0]
    assert (kept.prompt, kept.responses, kept.sources, kept.messages) == (
        pair.prompt, pair.responses, pair.sources, pair.messages,
    )  # fmt: skip
    (preference,) = load_preferences(path)
    assert (preference.prompt, preference.chosen) == (pair.prompt, pair.responses[0])
    assert preference.data["labeller"] == "Zoë 李"


def test_what_is_refused(labelling, path, tmp_path, pairs):
    with pytest.raises(ValueError, match="choice='up' is unknown"):
        labelling.answer("ada", 0, "up")
    for name in ("", "  ", "a" * (MAX_NAME + 1), "a\x00b", None):
        with pytest.raises(ValueError, match=r"labeller=.* must be a name"):
            labelling.view(name)
    assert labelling.view("  ada \n").labeller == "ada"
    with pytest.raises(FileNotFoundError, match="no labelling"):
        Labelling(tmp_path / "other.jsonl")
    for file in files(path):
        if file.exists():
            with pytest.raises(FileExistsError, match="exists"):
                Labelling.create(path, pairs, {})
            file.unlink()
    assert Labelling.create(path, pairs, {}).view("ada").turn == 0
    files(path)[1].write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="damaged"):
        Labelling(path)
