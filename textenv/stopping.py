"""When a response ends: stop tokens, and stop strings that look at the tail of the text only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class StopRule:
    """Which tokens end an episode at once, and which strings end it when the text reaches them.

    The tokenizer's end-of-sequence token always stops. There may be several stop tokens, and one of
    them may equal the padding token: nothing here looks at tokens that were not chosen as actions.

    Args:
        tokenizer: of transformers.
        stop: token ids and strings. A string that is one special token of the tokenizer's is a stop
            token; any other string is looked for in the text of the response.

    Raises:
        ValueError: an entry is neither a non-empty string nor an id of the vocabulary.
    """

    def __init__(self, tokenizer, stop: Sequence[str | int] | str | int | None = None):
        self.tokenizer = tokenizer
        vocabulary = len(tokenizer)
        tokens = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
        strings: list[str] = []
        special = set(tokenizer.all_special_tokens)
        for entry in [stop] if isinstance(stop, str | int) else stop or ():
            if isinstance(entry, str) and entry in special:
                tokens.add(tokenizer.convert_tokens_to_ids(entry))
            elif isinstance(entry, str) and entry:
                strings.append(entry)
            elif isinstance(entry, int) and 0 <= entry < vocabulary:
                tokens.add(entry)
            else:
                raise ValueError(
                    f"stop contains {entry!r}: give strings that are not empty, or token ids "
                    f"from 0 to {vocabulary - 1}."
                )
        self.tokens = sorted(tokens)
        self.strings = strings
        self.is_stop_token = np.zeros(vocabulary, dtype=bool)
        self.is_stop_token[self.tokens] = True
        # Only a token that holds the last character of a stop string can complete one. A token that
        # is a piece of a character (decoded as U+FFFD) may, too.
        self.may_complete = np.zeros(vocabulary, dtype=bool)
        if strings:
            last = {string[-1] for string in strings} | {"�"}
            pieces = tokenizer.batch_decode([[token] for token in range(vocabulary)])
            # A space may come from the joint of two tokens, and then belongs to neither.
            self.may_complete[:] = [" " in last or not last.isdisjoint(piece) for piece in pieces]
        # A token writes at least one byte, and a character has at most four.
        self.tail = 4 * max(map(len, strings), default=0)

    def text_ends(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these response tokens completes a stop string.

        Args:
            tokens: the response so far, at least its last ``self.tail`` tokens.
        """
        tail = list(tokens[-self.tail :]) if self.tail else []
        text, before = self.tokenizer.decode(tail), self.tokenizer.decode(tail[:-1])
        return any(text.count(string) > before.count(string) for string in self.strings)

    def without_stop_string(self, text: str) -> str:
        """The text of a stopped response, cut where its stop string begins."""
        cut = max((text.rfind(string) for string in self.strings), default=-1)
        if cut < 0:
            return text
        for string in self.strings:  # a last token may hold the stop string several times over
            while text[:cut].endswith(string):
                cut -= len(string)
        return text[:cut]
