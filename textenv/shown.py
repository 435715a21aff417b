"""Foreign text as people see it: prompts, answers, names and errors, whoever wrote them."""

import unicodedata

# What a terminal obeys (Cc), what changes the order of other signs or is not seen (Cf), halves of
# signs, which cannot be encoded (Cs), and breaks of lines that are not "\n" (Zl, Zp).
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
LONGEST_MESSAGE = 1200  # characters: a few lines of a terminal


def printable(text: str) -> str:
    """The text with visible escapes for all that is not seen or changes what is seen, except line
    breaks and tabs.

    Such signs could set the terminal's title or colours, erase what stands above, or turn the order
    of letters round.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in HIDDEN
        else _escaped(ord(character))
        for character in text
    )


def message(text: object) -> str:
    """A message of a few lines at most, `printable`, however long the values in it are."""
    shown = str(text)
    if len(shown) > LONGEST_MESSAGE:
        shown = f"{shown[: LONGEST_MESSAGE // 2]} … {shown[-LONGEST_MESSAGE // 2 :]}"
    return printable(shown)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else (
        f"\\U{code:08x}"
    )  # fmt: skip
