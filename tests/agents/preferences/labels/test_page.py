"""The page in a real Chromium: answers by keyboard, kills, several windows, any text.

It needs Chromium and its driver (Debian's ``chromium`` and ``chromium-driver``), Gradio, Selenium.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.preferences.labels import Labelling
from agents.preferences.labels.labelling import files
from agents.preferences.pairs import Pair, load_preferences

pytest.importorskip("gradio", reason="gradio is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed"),
]

ROOT = Path(__file__).parents[4]
SEEN = 0.3  # seconds, after which the page takes a key for a pair that is new on the screen
KEYS = {
    Keys.ARROW_LEFT: "left", Keys.ARROW_RIGHT: "right", "a": "left", "b": "right", "t": "tie",
    "s": "skip", "u": "undo",
}  # fmt: skip


def wait(condition, seconds=30.0):
    """What ``condition`` gives as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "the page does not change"
        time.sleep(0.01)
    return found


class Window:
    """A window of a browser at the address of a page."""

    def __init__(self, address: str, size=(1200, 800)):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        service = webdriver.ChromeService(DRIVER)
        self.driver = webdriver.Chrome(options=options, service=service)
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(address)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.driver.quit()

    def state(self) -> dict:
        """What is on the screen now; empty before there is a view."""
        return self.driver.execute_script(
            """const view = document.getElementById("view");
            if (!view) return {};
            const texts = (path) => [...view.querySelectorAll(path)].map((e) => e.textContent);
            return {shown: view.dataset.shown, token: JSON.parse(view.dataset.token),
                prompt: texts(".prompt .text"), responses: texts("article .text"),
                notice: texts(".notice").join(), finished: view.className === "finished"}"""
        )

    def press(self, *keys: str) -> None:
        """Press keys at once after another."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def answer(self, key: str) -> dict:
        """Press a key as a person does who has seen the pair; the next state."""
        before = self.state()["shown"]
        time.sleep(SEEN)
        self.press(key)
        return wait(lambda: (s := self.state()) and s["shown"] != before and s)

    def addresses(self) -> set[str]:
        """Where it has sent requests."""
        messages = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }


@pytest.fixture
def open_window():
    """``open_window(address)``: a window that is closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Window(*arguments))


class Command:
    """``python -m agents ...`` in a process of its own, until its page is there."""

    def __init__(self, line: str, folder: Path):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        self.log = folder / "log.txt"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents", *line.split()],
                cwd=folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        wait(lambda: "open " in self.log.read_text() or self.process.poll() is not None, 180)
        assert self.process.poll() is None, self.log.read_text()
        self.address = self.log.read_text().split("open")[1].split()[0]

    def end(self, number: int) -> str:
        """Send a signal and wait for the end; what was printed."""
        self.process.send_signal(number)
        self.process.wait(30)
        return self.log.read_text()


@pytest.fixture
def command(tmp_path):
    """``command(line)``: a `Command` that is ended at the end of the test."""
    started = []

    def start(line):
        started.append(Command(line, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_thirty_pairs_by_keyboard_and_kills_in_the_middle(command, open_window, port, tmp_path):
    """The script keeps its own record of what it saw and pressed, and compares it at the end."""
    line = f"label --pairs 30 --output labels.jsonl --labeller ada --port {port} --device cpu"
    server, path, rng = command(line), tmp_path / "labels.jsonl", random.Random(0)
    pairs = files(path)[1].read_bytes()
    window = open_window(server.address)
    state = wait(window.state)
    pressed: dict[tuple, str] = {}  # what stands, by the texts on the screen
    killed = 0
    while not state["finished"]:
        asked = (*state["prompt"], *state["responses"])
        key = rng.choice([k for k in KEYS if KEYS[k] != "undo" or pressed])
        if killed < 3 and len(pressed) >= (8, 15, 22)[killed]:
            # A key and a kill: nobody knows which is first, the file does.
            time.sleep(SEEN)
            window.press(Keys.ARROW_LEFT)
            time.sleep(killed * 0.01)
            server.end(signal.SIGKILL)
            killed += 1
            server = command(line)
            window.driver.get(server.address)
            state = wait(window.state)
            if (*state["prompt"], *state["responses"]) != asked:
                pressed[asked] = "left"
        elif KEYS[key] == "undo":
            state = window.answer(key)
            undone, _ = pressed.popitem()
            assert (*state["prompt"], *state["responses"]) == undone
        else:
            state = window.answer(key)
            pressed[asked] = KEYS[key]
        assert not state["notice"]
    assert killed == 3 and len(pressed) == 30
    assert {url.split("/")[2] for url in window.addresses() if "://" in url} == {
        f"127.0.0.1:{port}"
    }
    with pytest.raises(OSError):  # it listens at one address of this machine, and at no other
        socket.create_connection(("127.0.0.2", port), timeout=2)
    text = server.end(signal.SIGINT)
    assert "ada: 30 of 30 pairs answered" in text and server.process.returncode == 0

    assert files(path)[1].read_bytes() == pairs
    labelling = Labelling(path)
    assert labelling.counts()["ada"] == {
        choice: list(pressed.values()).count(choice) for choice in ("left", "right", "tie", "skip")
    }
    found = {}
    for preference in load_preferences(path):
        responses = (preference.chosen.strip(), preference.rejected.strip())
        found[(preference.prompt, *sorted(responses))] = responses[0]
    expected = {
        (prompt, *sorted((left, right))): left if choice == "left" else right
        for (prompt, left, right), choice in pressed.items()
        if choice in ("left", "right")
    }
    assert found == expected and len(load_preferences(path)) == len(expected)


def test_two_people_at_once_and_two_windows_of_one(open_window, port, tmp_path):
    from agents.preferences.labels.page import serving

    path = tmp_path / "labels.jsonl"
    labelling = Labelling.create(
        path, [Pair(f"p{i}", (f"l{i}", f"r{i}"), (0, 0)) for i in range(8)], {}
    )
    with serving(labelling, port) as address:
        ada, bob = open_window(address + "?labeller=ada"), open_window(address)
        name = wait(
            lambda: bob.driver.find_elements(By.CSS_SELECTOR, "#name textarea, #name input")
        )
        wait(name[0].is_displayed)
        name[0].send_keys("bob", Keys.ENTER)  # letters of a name are no answers
        wait(bob.state)
        wait(lambda: bob.driver.current_url.endswith("?labeller=bob"))
        other = open_window(bob.driver.current_url)
        wait(ada.state), wait(other.state)
        for _ in range(4):
            time.sleep(SEEN)
            ada.press("a")
            bob.press("b")
        wait(lambda: labelling.view("ada").answered == labelling.view("bob").answered == 4)
        # The second window of one person still shows the first pair: its answer does not count.
        assert "Nothing was stored" in other.answer("a")["notice"]
        assert other.state()["token"]["turn"] == 4
        time.sleep(SEEN)
        other.press("b", "b", "b")  # in the same moment
        wait(lambda: labelling.view("bob").answered == 5)
        time.sleep(1)
        assert labelling.view("bob").answered == 5
        ada.answer("a")
        ada.press("a")  # the second press of a double one, for a pair that nobody can have read
        time.sleep(1)
        assert labelling.view("ada").answered == 5
        assert "no answer to undo" not in other.answer("u")["notice"]
        assert labelling.view("bob").answered == 4
        counts = Labelling(path).counts()
        assert (counts["ada"]["left"], counts["bob"]["right"]) == (5, 4)


def test_a_page_that_was_left_open_does_not_answer_other_pairs(open_window, port, tmp_path):
    from agents.preferences.labels.page import serving

    def new(name):
        pairs = [Pair(f"{name} {i}", ("l", "r"), (0, 0)) for i in range(3)]
        return Labelling.create(tmp_path / name, pairs, {})

    one, other = new("one"), new("other")
    with serving(one, port, "ada") as address:
        window = open_window(address)
        wait(window.state)
    with serving(other, port, "ada"):
        state = window.answer("a")
        assert "another labelling" in state["notice"] and state["prompt"][0].startswith("other")
    assert one.view("ada").turn == other.view("ada").turn == 0


def test_any_text_is_shown_as_it_is_and_fits_a_narrow_window(open_window, port, tmp_path):
    from agents.preferences.labels.page import serving

    texts = [
        "<script>document.title = 'no'</script>", "</div><img src=x onerror=document.title='no'>",
        "${document.title = 'no'} {{value}}", "one\n  two\n\nthree", "word " * 300, "x" * 500,
    ]  # fmt: skip
    pairs = [Pair(text, (text, "other"), (0, 0)) for text in texts]
    messages = tuple({"role": role, "content": texts[3]} for role in ("system", "user"))
    pairs.append(Pair("", (texts[3], texts[4]), (0, 0), ("", ""), messages))
    labelling = Labelling.create(tmp_path / "labels.jsonl", pairs, {})
    with serving(labelling, port, "ada") as address:
        window = open_window(address, (400, 800))
        state = wait(window.state)
        seen = []
        while not state["finished"]:
            seen += [
                (text, response) for text in state["prompt"] for response in state["responses"]
            ]
            widths = window.driver.execute_script(
                "return [document.documentElement.scrollWidth, innerWidth]"
            )
            assert widths[0] <= widths[1] == 400
            buttons = window.driver.find_elements(By.CSS_SELECTOR, "#keys button")
            boxes = [button.rect for button in buttons]
            assert len(boxes) == 5 and all(0 <= box["x"] for box in boxes)
            assert all(box["x"] + box["width"] <= 400 for box in boxes)
            state = window.answer("s")
        assert window.driver.title == "Which response is better?"
    expected = [(text, one.strip()) for text in texts for one in (text, "other")]
    expected += [(texts[3], one.strip()) for _ in messages for one in (texts[3], texts[4])]
    assert sorted(seen) == sorted(expected)
