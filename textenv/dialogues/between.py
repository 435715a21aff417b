"""The tokens between two turns: a reply, and what a chat template writes around it.

Tokens are appended to a dialogue and never rendered and encoded again: a second encoding may split
the policy's own text in another way, and then log-probabilities belong to other tokens than those
that were chosen. So what a template writes between two messages is found once, by rendering
conversations that differ in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenv.prompts.chat import answered, render_conversation

# Contents that no template changes, and that occur in none.
SAID, REPLIED = ("Qzorvimp", "Kweldarn"), ("Vuxplomi", "Jatherbo")
ANCHORS = "\n", "a", "."  # what may stand before a reply of a plain text
KEPT = 1000  # replies whose tokens are kept
LETTERS = 100  # of a token, at most; more of a reply need not be read to cut it


@dataclass(frozen=True)
class Between:
    """What a chat template writes between two turns; nothing for plain texts."""

    end: str = ""  # of a turn, up to its stop token
    before: str = ""  # the reply
    after: str = ""
    strips: bool = False  # whether the space around a reply is left out


class Replies:
    """Encodes replies for one tokenizer.

    Args:
        tokenizer: of transformers.
        is_stop_token: bool ``[V]``.
        messages: a conversation that the prompts begin with, and the other columns of its row;
            None if they are plain texts.
        role: who replies in a conversation; "user" where the template knows no other.
    """

    def __init__(
        self,
        tokenizer: Any,
        is_stop_token: np.ndarray,
        messages: tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        role: str = "user",
    ):
        self.tokenizer, self.is_stop_token = tokenizer, is_stop_token
        self.special = {
            str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
        } | set(tokenizer.all_special_tokens)
        self.between = Between() if messages is None else self._find(*messages, role)
        self.end_token = self._ids(self.between.end)[-1] if self.between.end else None
        self._known: dict[tuple[str, bool], list[int]] = {}
        # The most tokens that are appended beside a reply.
        self.frame = max(len(self._encode("", stopped)) for stopped in (False, True))

    def encode(self, reply: str, last_token: int, limit: int) -> tuple[np.ndarray, str]:
        """The tokens that follow a turn, int64 ``[M]``, and the reply, cut to ``limit`` tokens of
        its own. Where the ``last_token`` of the turn is not the one that ends it in the
        template, that follows first.

        A ValueError if the reply contains a special token, by which it would end a message.
        """
        stopped = last_token == self.end_token
        reply = reply.strip() if self.between.strips else reply
        reply = reply[: LETTERS * limit]
        for token in self.special:
            if token and token in reply:
                raise ValueError(f"the reply contains the special token {token!r}")
        ids = self._encode(reply, stopped)
        allowed = limit + len(self._encode("", stopped))
        own = limit
        while len(ids) > allowed and own >= 0:
            reply, own = self.tokenizer.decode(self._ids(reply)[:own]), own - 1
            ids = self._encode(reply, stopped)
        return np.array(ids, np.int64), reply

    def _encode(self, reply: str, stopped: bool) -> list[int]:
        if (reply, stopped) not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            between = self.between
            if between.after or between.before:
                before = between.before if stopped else between.end + between.before
                ids = self._ids(before + reply + between.after)
            else:
                ids = self._following(reply) if reply else []
            self._known[reply, stopped] = ids
        return self._known[reply, stopped]

    def _ids(self, text: str) -> list[int]:
        # What is longer than the model reads is cut, so that nobody need be warned of it.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _following(self, text: str) -> list[int]:
        """The tokens of a text that follows another one. A SentencePiece tokenizer would put a
        space before a text that stands alone."""
        decode, alone = self.tokenizer.decode, self._ids(text)
        for anchor in ANCHORS:
            begin = self._ids(anchor)
            if not begin:
                continue
            if decode(begin + alone) == decode(begin) + text:
                return alone
            whole = self._ids(anchor + text)
            following = whole[len(begin) :]
            if whole[: len(begin)] == begin and decode(whole) == decode(begin) + text:
                return following
        return alone

    def _find(
        self, messages: Sequence[Mapping[str, Any]], data: Mapping[str, Any], role: str
    ) -> Between:
        """What the template writes between two turns of a conversation."""
        if role != "user":
            try:
                return self._find_for(messages, data, role)
            except ValueError:
                pass  # the template has no such role, or writes its messages in another place
        return self._find_for(messages, data, "user")

    def _find_for(
        self, messages: Sequence[Mapping[str, Any]], data: Mapping[str, Any], role: str
    ) -> Between:
        """The same where this ``role`` replies; a ValueError if tokens cannot be appended so."""

        def render(dialogue: Sequence[Mapping[str, Any]]) -> str:
            return str(render_conversation(dialogue, self.tokenizer, "a dialogue", data))

        begun, text, parts = [*messages], render(messages), []
        for said, replied in zip(SAID, REPLIED, strict=True):
            begun = [*answered(begun, said), {"role": role, "content": replied}]
            before, text = text, render(begun)
            # A template may write a space that the policy writes itself.
            if not text.startswith(before) or not text[len(before) :].lstrip().startswith(said):
                raise ValueError(
                    f"The chat template of the tokenizer {self._name!r} writes earlier messages of "
                    "a dialogue in another way than they were generated, as those do that leave "
                    "out thinking, so that tokens cannot be appended: take another template, or "
                    "plain texts."
                )
            written = text[text.index(said, len(before)) + len(said) :]
            parts.append(tuple(written.partition(replied)[::2]))
        if parts[0] != parts[1]:
            raise ValueError(
                f"The chat template of the tokenizer {self._name!r} does not write the same "
                f"between all turns of a dialogue ({parts[0]}, then {parts[1]}): take another "
                "template, or plain texts."
            )
        spaced = [*answered(messages, SAID[0]), {"role": role, "content": f" {REPLIED[0]} "}]
        before, after = parts[0]
        return Between(*self._split(before), after, f" {REPLIED[0]} " not in render(spaced))

    @property
    def _name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "")

    def _split(self, written: str) -> tuple[str, str]:
        """What the template writes after the assistant's text, up to its end, and the rest."""
        ends = [
            (place + len(token))
            for token in self.special
            if (place := written.find(token)) >= 0
            and self.is_stop_token[self.tokenizer.convert_tokens_to_ids(token)]
        ]
        if not ends:
            raise ValueError(
                f"The chat template writes {written!r} after the assistant's message, in which no "
                "token stops it, so that no turn would end: name the token that ends a turn "
                "(stop), or take another template."
            )
        return written[: min(ends)], written[min(ends) :]
