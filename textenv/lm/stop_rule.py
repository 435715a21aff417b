"""When a response ends: stop tokens, and stop strings, searched only at the end of the text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from textenv.lm.loading import end_tokens
from textenv.lm.vocabulary import vocabulary_size


class StopRule:
    """Which tokens end an episode at once, and which strings end it when the text contains them.

    The end-of-sequence tokens of tokenizer and model always stop (`end_tokens`). There may be
    several stop tokens, and one of them may equal the padding token: only tokens that were chosen
    as actions are checked. Nothing stops a response before it has ``min_new_tokens``.

    Of ``stop``, a string that is a special token of the tokenizer is a stop token; any other is
    searched in the text of the response.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str | int] | str | int | None = None,
        min_new_tokens: int = 0,
    ):
        self.tokenizer, self.min_new_tokens = tokenizer, min_new_tokens
        vocabulary = vocabulary_size(tokenizer)
        tokens = {token for token in end_tokens(tokenizer) if 0 <= token < vocabulary}
        strings: list[str] = []
        special = set(tokenizer.all_special_tokens)
        several: Any = () if stop is None else stop
        if isinstance(stop, str | bytes | Mapping) or not isinstance(several, Iterable):
            several = [stop]
        for entry in several:
            if isinstance(entry, str) and entry in special:
                tokens.add(tokenizer.convert_tokens_to_ids(entry))
            elif isinstance(entry, str) and entry:
                strings.append(entry)
            elif (
                isinstance(entry, int | np.integer)
                and not isinstance(entry, bool)
                and 0 <= entry < vocabulary
            ):
                tokens.add(int(entry))
            else:
                raise ValueError(
                    f"stop contains {entry!r}: give strings that are not empty, or token ids "
                    f"from 0 to {vocabulary - 1}."
                )
        self.tokens = sorted(tokens)
        self.strings = strings
        self.is_stop_token = np.zeros(vocabulary, dtype=bool)
        self.is_stop_token[self.tokens] = True
        # Only a token that has the last character of a stop string can complete one. A token that
        # is a part of a character (decoded as U+FFFD, or as nothing) can complete one, too.
        self.may_complete = np.zeros(vocabulary, dtype=bool)
        if strings:
            last = {string[-1] for string in strings} | {"�"}
            pieces = tokenizer.batch_decode([[token] for token in range(vocabulary)])
            # A space may appear between two tokens without being a part of either token.
            self.may_complete[:] = [
                " " in last or not piece or not last.isdisjoint(piece) for piece in pieces
            ]
        # A token adds at least one byte, and a character has at most four.
        self.tail = 4 * max(map(len, strings), default=0)

    @property
    def first_stops(self) -> tuple[list[int], int] | None:
        """The stop tokens and ``min_new_tokens``, if they must not be chosen from the start on."""
        some_come_too_early = self.tokens and self.min_new_tokens > 1
        return (self.tokens, self.min_new_tokens) if some_come_too_early else None

    def text_ends(self, tokens: Sequence[int], before: Sequence[int] = ()) -> bool:
        """Whether the last of these response tokens, which may be only the last ``self.tail`` ones,
        completes a stop string.

        ``before`` is the token before these. SentencePiece tokenizers drop the space of the first
        token that they decode, so it is decoded with them, and its text cut off.
        """
        decode, begin = self.tokenizer.decode, len(self.tokenizer.decode(list(before)))
        text, shorter = (decode([*before, *part])[begin:] for part in (tokens, tokens[:-1]))
        return any(text.count(string) > shorter.count(string) for string in self.strings)

    def without_stop_string(self, text: str) -> str:
        """The text of a stopped response, cut where its stop string begins."""
        cut = max((text.rfind(string) for string in self.strings), default=-1)
        if cut < 0:
            return text
        for string in self.strings:  # the last token may contain the stop string several times
            while text[:cut].endswith(string):
                cut -= len(string)
        return text[:cut]
