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
    """The episodes of the N ``rows`` of a token table that have ended, with their N prompts. The
    stop string of a response, which ``stop`` finds, is removed from its text."""
    columns = map(to_tensor, (table.tokens, table.lengths, table.stopped))
    tokens, lengths, stopped = (column.numpy()[rows] for column in to_host(*columns))
    whole = [row[:length].copy() for row, length in zip(tokens, lengths, strict=True)]

    def decode(sequences: list[np.ndarray]) -> list[str]:
        return stop.tokenizer.batch_decode(sequences, skip_special_tokens=True)

    # SentencePiece tokenizers drop the space before the first token that they decode,
    # so a response is decoded together with its prompt.
    texts, heads = decode(whole), decode([prompt.ids for prompt in prompts])
    episodes = []
    for ids, prompt, text, head, by_a_stop in zip(
        whole, prompts, texts, heads, stopped, strict=True
    ):
        split = len(prompt.ids)
        response = text[len(head) :] if text.startswith(head) else decode([ids[split:]])[0]
        if by_a_stop and not stop.is_stop_token[ids[-1]]:
            response = stop.without_stop_string(response)
        reason = "stop" if by_a_stop else "length"
        episodes.append(
            Episode(prompt.text, response, ids[:split], ids[split:], reason, prompt.data)
        )
    return episodes


def texts_of_turns(
    stop: StopRule, tokens: Sequence[np.ndarray], begins: np.ndarray, stopped: np.ndarray
) -> list[str]:
    """The texts of N turns, which are the ends of ``tokens`` from the columns ``begins`` ``[N]``
    on, without the stop string where a stop has ended them. A few tokens before a turn are decoded
    with it, as the prompt is in `transcribe`."""
    firsts = np.maximum(begins - DECODED_BEFORE, 0)
    whole = [row[first:] for row, first in zip(tokens, firsts, strict=True)]
    before = [row[first:at] for row, first, at in zip(tokens, firsts, begins, strict=True)]
    decoded = stop.tokenizer.batch_decode([*whole, *before], skip_special_tokens=True)
    texts = []
    for row, begin, by_a_stop, text, head in zip(
        tokens, begins, stopped, decoded[: len(whole)], decoded[len(whole) :], strict=True
    ):
        text = (
            text[len(head) :]
            if text.startswith(head)
            else stop.tokenizer.decode(row[begin:], skip_special_tokens=True)
        )
        if by_a_stop and not stop.is_stop_token[row[-1]]:
            text = stop.without_stop_string(text)
        texts.append(text)
    return texts
