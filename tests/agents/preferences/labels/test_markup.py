"""What the page shows: the texts as they are, and not who wrote them."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from agents.preferences.labels import View
from agents.preferences.labels.markup import as_html
from agents.preferences.pairs import Pair


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= dict(attributes)

    def handle_data(self, data):
        self.text += data


def page(pair, notice="", name="ada"):
    return Page(as_html(View("f00", name, 7, 2, 9, pair), notice))


PLAIN = page(Pair("p", ("l", "r"), (0, 0), ("runs/a", "runs/b")))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>", "</div></main><img src=x onerror=alert(1)>", "a & b &amp; c",
        "${1 + 1} {{value}} `x`", "\"quoted\" 'twice'", "line\n  line\n\nline",
    ],
)  # fmt: skip
def test_texts_are_shown_as_they_are(text):
    messages = ({"role": text, "content": text},)
    for pair in (
        Pair(text, (text, text), (0, 0)), Pair("", (text, text), (0, 0), ("", ""), messages)
    ):  # fmt: skip
        shown = page(pair, text, text)
        assert shown.text.count(text) == (6 if pair.messages else 5)
        extra = ["div", "span", "p"]
        assert [t for t in shown.tags if t not in extra] == [
            t for t in PLAIN.tags if t not in extra
        ]
    raw = as_html(View("f00", "ada", 7, 2, 9, Pair(text, (text, text), (0, 0))))
    assert "${" not in raw and "{{" not in raw and "`" not in raw  # placeholders of templates


def test_the_view_is_sent_back_but_not_who_wrote_the_texts():
    token = json.loads(PLAIN.attributes["data-token"])
    assert token == {"labelling": "f00", "labeller": "ada", "turn": 7}
    assert "2 of 9" in PLAIN.text
    raw = as_html(View("f00", "ada", 7, 2, 9, Pair("p", ("l", "r"), (0, 0), ("runs/a", "runs/b"))))
    assert "runs" not in raw


def test_no_text_is_said_to_be_none():
    assert page(Pair("p", (" \n ", "r"), (0, 0))).text.count("(no text)") == 1


def test_the_end_thanks():
    shown = page(None)
    assert "All pairs are answered" in shown.text and "article" not in shown.tags


def test_each_page_is_new_to_the_browser():
    view = View("f00", "ada", 7, 2, 9, None)
    assert as_html(view) != as_html(view)
