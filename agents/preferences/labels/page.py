"""The page on which people compare two texts, a thin layer over `labelling`.

It needs Gradio (the optional extra ``label``), listens on this machine only, answers no other page
(`guard`), and loads nothing from elsewhere. What the buttons send is the turn of the view on the
screen; the labelling decides whether it counts.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agents import files
from agents.preferences.labels.answers import UNDO
from agents.preferences.labels.guard import Guard
from agents.preferences.labels.labelling import Labelling
from agents.preferences.labels.markup import as_html

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
import gradio as gr
from starlette.middleware import Middleware

HOST = "127.0.0.1"
FOLDER = Path(__file__).parent
FONTS = ["system-ui", "sans-serif"]
BUTTONS = {
    "left": "← A is better", "right": "B is better →", "tie": "Tie (T)", "skip": "Skip (S)",
    "undo": "Undo (U)",
}  # fmt: skip
READ_NAME = "() => new URLSearchParams(location.search).get('labeller') ?? ''"
READ_TOKEN = "() => document.getElementById('view').dataset.token"
ANSWERED_ELSEWHERE = "Nothing was stored: this view was answered before, perhaps in another window."
OTHER_PAIRS = "Nothing was stored: this page was left open from another labelling."
NOTHING_TO_UNDO = "There is no answer to undo."


def build(labelling: Labelling) -> gr.Blocks:
    """The page of a labelling; it asks for a name, unless its address has ``?labeller=NAME``."""

    def show(name: str) -> tuple[Any, Any, str]:
        """The first page, or the pair of a person."""
        if not name:
            return gr.update(visible=True), gr.update(visible=False), ""
        try:
            page = as_html(labelling.view(name))
        except (ValueError, OSError) as error:
            raise gr.Error(_in_words(error)) from error
        return gr.update(visible=False), gr.update(visible=True), page

    def act(choice: str, token: str) -> str:
        """Store an answer, and show the next pair."""
        try:
            notice = store(labelling, choice, json.loads(token))
        except (ValueError, OSError) as error:
            notice = _in_words(error)
        try:
            return as_html(labelling.view(json.loads(token)["labeller"]), notice)
        except (ValueError, OSError) as error:  # the pair stays on the screen
            raise gr.Error(_in_words(error)) from error

    with gr.Blocks(title="Which response is better?", analytics_enabled=False) as page:
        with gr.Column(visible=False, elem_id="welcome") as welcome:
            gr.Markdown("### Which response is better?\nYour answers are kept under your name.")
            name = gr.Textbox(label="Your name", autofocus=True, elem_id="name")
            start = gr.Button("Start", variant="primary", elem_id="start")
        with gr.Column(visible=False) as asking:
            view = gr.HTML(elem_id="pair")
            # What the browser sends with a key: see READ_TOKEN and READ_NAME.
            sent = gr.Textbox(elem_classes="sent", container=False)
            with gr.Row(elem_id="keys"):
                buttons = {
                    choice: gr.Button(
                        text, elem_id=choice, elem_classes="choice",
                        variant="primary" if choice in ("left", "right") else "secondary",
                    )
                    for choice, text in BUTTONS.items()
                }  # fmt: skip
        quick: dict[str, Any] = {
            "show_progress": "hidden", "queue": False, "api_visibility": "private",
        }  # fmt: skip
        everything = [welcome, asking, view]
        page.load(show, sent, everything, js=READ_NAME, **quick)
        gr.on([start.click, name.submit], show, name, everything, **quick)
        for choice, button in buttons.items():
            pressed = partial(act, choice)
            button.click(pressed, sent, view, js=READ_TOKEN, **quick)
    return page


def store(labelling: Labelling, choice: str, asked: Mapping[str, Any]) -> str:
    """Store what was pressed, a choice or `UNDO`; what to tell the person, which is nothing if it
    was stored. ``asked`` is the view that was on the screen, as `as_html` writes it."""
    name, turn = asked["labeller"], asked["turn"]
    if asked["labelling"] != labelling.fingerprint:
        return OTHER_PAIRS
    if choice != UNDO:
        return "" if labelling.answer(name, turn, choice) else ANSWERED_ELSEWHERE
    if labelling.undo(name, turn):
        return ""
    return NOTHING_TO_UNDO if turn == labelling.view(name).turn else ANSWERED_ELSEWHERE


@contextmanager
def serving(labelling: Labelling, port: int, labeller: str | None = None) -> Iterator[str]:
    """Within it the page is there, for this machine alone, at the address that it gives: that of
    ``labeller``, or one that asks for a name. An OSError says that the port is in use."""
    check_port(port)
    page = build(labelling)
    page.launch(
        server_name=HOST, server_port=port, prevent_thread_lock=True, share=False, quiet=True,
        ssr_mode=False, footer_links=[], app_kwargs={"middleware": [Middleware(Guard)]},
        theme=gr.themes.Default(primary_hue="indigo", font=FONTS, font_mono=FONTS),
        css_paths=FOLDER / "page.css",
        head=f"<script>{(FOLDER / 'page.js').read_text(encoding='utf-8')}</script>",
    )  # fmt: skip
    try:
        yield f"http://{HOST}:{port}/" + (f"?labeller={quote(labeller)}" if labeller else "")
    finally:
        page.close(verbose=False)


def check_port(port: int) -> None:
    """Raise an error if something listens at a port of this machine already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(
                f"--port {port} cannot be used ({error.strerror}): if a page of these labels is "
                "open there, use it, else choose another --port."
            ) from error


def _in_words(error: Exception) -> str:
    return files.in_words(error) if isinstance(error, OSError) else str(error)
