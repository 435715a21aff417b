"""What a person sees, as HTML: the pair, the progress, nothing about who wrote the texts."""

import html
import json
import time
from collections.abc import Mapping

from agents.preferences.labels.labelling import View
from agents.preferences.pairs import Pair

# Besides the signs of HTML, those that begin a placeholder in Gradio's own templates.
OF_TEMPLATES = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


def escape(text: str) -> str:
    """Text that a browser shows as it is, within an element or in an attribute with quotes."""
    return html.escape(text).translate(OF_TEMPLATES)


def as_html(view: View, notice: str = "") -> str:
    """The page of one view of a person, below a sentence of notice.

    Its outermost element holds which view it is. That is sent back with an answer, which so belongs
    to what was on the screen.
    """
    token = json.dumps(
        {"labelling": view.labelling, "labeller": view.labeller, "turn": view.turn}
    )  # fmt: skip
    middle = _done(view) if view.pair is None else _pair(view.pair)
    warning = f'<p class="notice" role="alert">{escape(notice)}</p>' if notice else ""
    state = "finished" if view.pair is None else "asking"
    return (
        f'<div id="view" class="{state}" data-token="{escape(token)}" '
        f'data-labeller="{escape(view.labeller)}" '
        # The page waits for something new after each key, even if it is the same view.
        f'data-shown="{time.time_ns()}">{_progress(view)}{warning}{middle}</div>'
    )


def _progress(view: View) -> str:
    return (
        '<header><h1>Which response is better?</h1>'
        f'<span class="who"><b>{escape(view.labeller)}</b> · {view.answered} of {view.total}'
        '</span></header>'
        f'<progress value="{view.answered}" max="{view.total}" '
        f'aria-label="{view.answered} of {view.total} answered"></progress>'
    )  # fmt: skip


def _pair(pair: Pair) -> str:
    if pair.messages:
        prompt = "".join(_message(message) for message in pair.messages)
    else:
        prompt = f'<div class="text">{escape(pair.prompt)}</div>'
    cards = "".join(
        f'<article><h2>{title}</h2>{_response(text)}</article>'
        for title, text in zip("AB", pair.responses, strict=True)
    )  # fmt: skip
    return (
        f'<section class="prompt" tabindex="0" aria-label="Prompt">{prompt}</section>'
        f'<section class="pair">{cards}</section>'
    )


def _message(message: Mapping[str, str]) -> str:
    role = ROLES.get(message["role"], message["role"])
    return (
        f'<div class="message"><span class="role">{escape(role)}</span>'
        f'<div class="text">{escape(message["content"])}</div></div>'
    )


def _response(text: str) -> str:
    shown = text.strip()
    if not shown:
        return '<div class="text empty">(no text)</div>'
    return f'<div class="text">{escape(shown)}</div>'


def _done(view: View) -> str:
    return (
        '<section class="done"><h2>All pairs are answered.</h2>'
        f'<p>Thank you, {escape(view.labeller)}: your {view.total} answers are stored. You may '
        'close this page, or undo the last answer.</p></section>'
    )  # fmt: skip
