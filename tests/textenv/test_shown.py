"""Foreign text, with all that a terminal would obey or hide made visible."""

import pytest

from textenv.shown import message, printable


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J\r\x08\x7f", "\\x1b[2J\\x0d\\x08\\x7f"),
        ("\x9b31m", "\\x9b31m"),  # C1, which begins a command as "\x1b[" does
        ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
        ("zero\u200bwidth\ufeff\u00ad", "zero\\u200bwidth\\ufeff\\xad"),
        ("\U000e0041", "\\U000e0041"),  # letters of tags, which nobody sees
        ("\ud83d \u2028", "\\ud83d \\u2028"),
    ],
)
def test_what_is_not_seen_or_changes_what_is_seen_is_made_visible(text, wanted):
    assert printable(text) == wanted and printable(text).isprintable()


@pytest.mark.parametrize("text", ["a b\n\tc", "[/b] [red] :smile:", "ü 漢字 😀 e\u0301 − ▸", ""])
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


def test_a_message_has_a_few_lines_however_long_its_values_are():
    long = message(f"x={'a' * 1_500_000} must be shorter.")
    assert len(long) < 1500 and long.startswith("x=aaa") and long.endswith("must be shorter.")
