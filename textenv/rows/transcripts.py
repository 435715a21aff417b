"""Turn rows of tokens into the episodes that a reward function receives."""

from collections.abc import Sequence

import numpy as np

from textenv.arrays import to_host, to_tensor
from textenv.episode import Episode
from textenv.lm.stop_rule import StopRule
from textenv.prompts.load import EncodedPrompt
from textenv.rows.token_table import TokenTable

DECODED_BEFORE = 16  # tokens


def transcribe(
    table: TokenTable, rows: np.ndarray, prompts: Sequence[EncodedPrompt], stop: StopRule
) -> list[Episode]:
    """The episodes of the N ``rows`` of a token table that have ended, with their N prompts."""
    columns = map(to_tensor, (table.tokens, table.lengths, table.stopped))
    tokens, lengths, stopped = (column.numpy()[rows] for column in to_host(*columns))
    whole = [row[:length].copy() for row, length in zip(tokens, lengths, strict=True)]
    begins = np.array([len(prompt.ids) for prompt in prompts])
    texts = texts_from(begins, whole, stopped, stop)
    return [
        Episode(
            prompt.text, text, ids[:begin], ids[begin:], "stop" if by_a_stop else "length",
            prompt.data,
        )
        for ids, prompt, text, begin, by_a_stop in zip(
            whole, prompts, texts, begins, stopped, strict=True
        )
    ]  # fmt: skip


def texts_from(
    begins: np.ndarray,
    tokens: Sequence[np.ndarray],
    stopped: np.ndarray,
    stop: StopRule,
    before: int | None = None,
) -> list[str]:
    """The texts of N rows of ``tokens`` from the columns ``begins`` ``[N]`` on, without the stop
    string where a stop has ended them.

    SentencePiece tokenizers drop the space before the first token that they decode, so that all
    tokens before a text, or ``before`` of them, are decoded with it.
    """
    firsts = np.zeros_like(begins) if before is None else np.maximum(begins - before, 0)
    whole = [row[first:] for row, first in zip(tokens, firsts, strict=True)]
    heads = [row[first:at] for row, first, at in zip(tokens, firsts, begins, strict=True)]
    # Rows of a group, and short dialogues, have many tokens in common.
    distinct = {ids.tobytes(): ids for ids in (*whole, *heads)}

    def decode(sequences: Sequence[np.ndarray]) -> list[str]:
        return stop.tokenizer.batch_decode(sequences, skip_special_tokens=True)

    decoded = dict(zip(distinct, decode(list(distinct.values())), strict=True))
    texts = []
    for row, begin, by_a_stop, ids, head in zip(tokens, begins, stopped, whole, heads, strict=True):
        text, known = decoded[ids.tobytes()], decoded[head.tobytes()]
        text = text[len(known) :] if text.startswith(known) else decode([row[begin:]])[0]
        if by_a_stop and not stop.is_stop_token[row[-1]]:
            text = stop.without_stop_string(text)
        texts.append(text)
    return texts
