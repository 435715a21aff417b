"""Files and folders are replaced as a whole, or not at all."""

from __future__ import annotations

import itertools
import os
import sys

import pytest
from forked import fork
from safetensors import SafetensorError

from agents import PPO, REINFORCE, files
from agents.saving import agent_folder, resume


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced(tmp_path):
    for text in ("one", "two"):
        with files.replacing(tmp_path / "place") as new:
            (new / text).write_text(text)
            (new / "both").write_text(text)
        assert names(tmp_path) == ["place"]
    assert names(tmp_path / "place") == ["both", "two"]
    assert (tmp_path / "place" / "both").read_text() == "two"


def test_an_error_leaves_the_old_folder(tmp_path):
    with files.replacing(tmp_path / "place") as new:
        (new / "old").write_text("old")
    with pytest.raises(OSError, match="full"), files.replacing(tmp_path / "place") as new:
        (new / "half").write_text("ha")
        raise OSError("full")
    assert names(tmp_path) == ["place"] and names(tmp_path / "place") == ["old"]


def test_what_a_killed_process_left_is_put_back_and_removed(tmp_path):
    place = tmp_path / "place"
    (tmp_path / ".place.old").mkdir()
    (tmp_path / ".place.old" / "old").write_text("old")
    (tmp_path / ".place.new-999999999-abc").mkdir()  # of a process that cannot be running
    (tmp_path / f".place.new-{os.getpid()}-abc").mkdir()
    assert names(files.current(place)) == ["old"]  # a reader moves nothing
    assert not place.exists()
    with files.replacing(place) as new:
        (new / "new").write_text("new")
    assert names(tmp_path) == [f".place.new-{os.getpid()}-abc", "place"]
    assert names(place) == ["new"] and files.current(place) == place


def test_a_kill_before_the_old_folder_is_removed_does_not_block_later_saves(tmp_path):
    for name in ("place", ".place.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    with files.replacing(tmp_path / "place") as new:
        (new / "new").write_text("new")
    assert names(tmp_path) == ["place"] and names(tmp_path / "place") == ["new"]


def test_a_reader_finds_the_old_folder_or_the_new_one_at_each_moment(tmp_path):
    """A process dies before its first change of the file system, its second, and so on."""
    place, changes = tmp_path / "place", ("open", "os.rename", "os.remove", "os.rmdir")

    def replace(last):
        count = itertools.count()

        def die(event, arguments):
            if event in changes and str(tmp_path) in str(arguments) and next(count) == last:
                os._exit(9)

        sys.addaudithook(die)
        with files.replacing(place) as new:
            (new / "new").write_text("new")

    found = set()
    for last in itertools.count():
        with files.replacing(place) as new:
            (new / "old").write_text("old")
        assert names(tmp_path) == ["log", "place"] if last else ["place"]
        process = fork(lambda at=last: replace(at), tmp_path / "log")
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            break
        (name,) = names(files.current(place))
        assert (files.current(place) / name).read_text() == name
        found.add((name, place.exists()))
    assert found == {("old", True), ("old", False), ("new", True)}


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path):
    def write():
        os.fsync = lambda handle: os._exit(9)  # killed in the middle
        files.write_text(tmp_path / "file.json", "half")

    os.waitpid(fork(write, tmp_path / "log"), 0)
    (left,) = tmp_path.glob(".file.json.new-*")
    assert left.read_text() == "half"
    files.write_text(tmp_path / "file.json", "whole")
    assert names(tmp_path) == ["file.json", "log"]


def test_other_threads_write_with_their_own_mode(tmp_path, monkeypatch):
    """The umask is one of the whole process, so it is never changed."""
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        files.write_text(tmp_path / "file", "text")
        with files.replacing(tmp_path / "place"):
            pass
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "place")]
    assert modes == [0o640, 0o750]


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path):
    file = tmp_path / "file.json"
    files.write_json(file, {"a": 1})
    file.chmod(0o600)
    files.write_json(file, {"a": 2})
    assert '"a": 2' in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UnicodeEncodeError):
        files.write_text(file, "\ud800")
    assert '"a": 2' in file.read_text() and names(tmp_path) == ["file.json"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with files.replacing(tmp_path / "link") as new:
        (new / "new").write_text("new")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "real") == ["new"]


# Agents in folders


def test_saving_over_another_agent_leaves_nothing_of_it(make_agent, on_cartpole, tmp_path):
    make_agent("PPO").learn(20).save(tmp_path / "agent")
    (tmp_path / "agent" / "notes.txt").write_text("mine")
    (tmp_path / "agent" / "plots").mkdir()
    (tmp_path / "agent" / "plots" / "one.png").write_text("mine, too")
    on_cartpole(REINFORCE).save(tmp_path / "agent", optimizer=False)
    assert names(tmp_path / "agent") == [
        "agent.json", "notes.txt", "plots", "policy.safetensors"
    ]  # fmt: skip
    assert (tmp_path / "agent" / "plots" / "one.png").read_text() == "mine, too"
    assert REINFORCE.load(tmp_path / "agent").num_timesteps == 0


def test_what_a_killed_save_has_moved_aside_is_loaded_and_kept(on_cartpole, tmp_path):
    on_cartpole(REINFORCE).save(tmp_path / "agent")
    (tmp_path / "agent" / "notes.txt").write_text("mine")
    (tmp_path / "agent").rename(tmp_path / ".agent.old")
    REINFORCE.load(tmp_path / "agent").save(tmp_path / "agent")
    assert names(tmp_path) == ["agent"]
    assert (tmp_path / "agent" / "notes.txt").read_text() == "mine"


def test_an_agent_does_not_take_the_place_of_something_else(on_cartpole, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty and holds no agent"):
        on_cartpole(REINFORCE).save(tmp_path)
    on_cartpole(REINFORCE).save(tmp_path / "agent")
    monkeypatch.chdir(tmp_path / "agent")
    with pytest.raises(FileExistsError):
        on_cartpole(REINFORCE).save(".")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="is the current one"):
        on_cartpole(REINFORCE).save(".")
    with pytest.raises(NotADirectoryError):
        on_cartpole(REINFORCE).save(tmp_path / "thesis.tex")
    assert names(tmp_path) == ["agent", "empty", "thesis.tex"]


def test_a_folder_that_is_replaced_while_it_is_read(on_cartpole, tmp_path, monkeypatch):
    on_cartpole(REINFORCE).save(tmp_path / "agent")
    newer, describe = on_cartpole(REINFORCE), agent_folder.describe
    newer.num_timesteps = 600

    def replaced_meanwhile(folder):
        description = describe(folder)
        monkeypatch.setattr(agent_folder, "describe", describe)
        newer.save(tmp_path / "agent")
        return description

    monkeypatch.setattr(agent_folder, "describe", replaced_meanwhile)
    assert REINFORCE.load(tmp_path / "agent").num_timesteps == newer.num_timesteps


def test_a_save_that_fails_leaves_the_old_agent(make_agent, tmp_path, monkeypatch):
    agent = make_agent("PPO").learn(20)
    agent.save(tmp_path / "agent")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "agent").iterdir()}
    monkeypatch.setattr(resume, "save_file", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        agent.learn(20).save(tmp_path / "agent")
    assert {path.name: path.read_bytes() for path in (tmp_path / "agent").iterdir()} == saved


def test_a_folder_in_the_place_of_a_file_is_named_and_not_the_file_beside_it(tmp_path):
    (tmp_path / "table.json").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        files.write_json(tmp_path / "table.json", {})
    said = files.in_words(error.value)
    assert f"Cannot write {str(tmp_path / 'table.json')!r}: there is a folder" in said


def test_a_full_disk_is_an_error_of_the_system(on_cartpole, tmp_path, monkeypatch):
    """Whichever library meets it."""

    def full(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(OSError) as error:
        on_cartpole(REINFORCE).save(tmp_path / "agent")
    assert "the disk is full" in files.in_words(error.value) and names(tmp_path) == []


def test_a_damaged_description_is_named(on_cartpole, tmp_path):
    on_cartpole(REINFORCE).save(tmp_path / "agent")
    (tmp_path / "agent" / "agent.json").write_text("{")
    with pytest.raises(ValueError, match=r"agent\.json' is damaged"):
        REINFORCE.load(tmp_path / "agent")


def test_learning_without_a_logger_writes_no_file(make_agent, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    make_agent("PPO").learn(40)
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, verbose=1).learn(20)
    assert names(tmp_path) == []
