"""Duet-v0: begin sentences that a second, frozen model finishes in a positive way.

The policy gets the opening of a film review and writes a few tokens more; the bundled model, which
does not learn, finishes the sentence, by its likeliest token at each step, and gives another
opening. What the partner writes is scored, so that the policy has to bring it to say something
nice: a simulated user in the smallest form.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from textenv.dialogues import Reply
from textenv.episode import Episode
from textenv.tasks.drawing import Row
from textenv.tasks.sentiment import HELD_OUT_OPENINGS, OPENINGS
from textenv.tasks.spec import TaskSpec

TURNS, TURN_TOKENS, PARTNER_TOKENS = 2, 6, 16
# What the openings with a subject alone, of one or of many, may go on with.
SUBJECTS = ("The ", "This ")
GOES_ON = (
    *("", " had", " never", " seemed", " will", " may be", " could have been"),
    *(" in this one", " that we saw", " and the rest", " at least"),
)
STRIDE = 13  # has no divisor in common with the numbers of rows


def rows(openings: Sequence[str]) -> list[Row]:
    """Rows with the columns ``prompt``, an opening that goes on, and ``then``, that of the second
    sentence."""
    begun = [
        opening + more
        for more in GOES_ON
        for opening in openings
        if not more or opening.startswith(SUBJECTS)
    ]
    # In another order, so that the two are seldom about the same.
    following = [begun[(STRIDE * place + 1) % len(begun)] for place in range(len(begun))]
    return [
        {"prompt": opening, "then": then} for opening, then in zip(begun, following, strict=True)
    ]


def respond(episodes: Sequence[Episode]) -> list[Reply]:
    """The ends of the sentences, each paid with its sentiment, and the next openings."""
    from textenv.rewards.library.sentiment_reward import sentiment_of

    ends = _go_on([_begun(episode) for episode in episodes])
    return [
        Reply(f"{end} {episode.data['then']}", sentiment_of(end))
        for episode, end in zip(episodes, ends, strict=True)
    ]


def _begun(episode: Episode) -> str:
    """The last sentence so far."""
    opening = episode.prompt if len(episode.turns) == 1 else episode.data["then"]
    return opening + episode.turns[-1].text


@cache
def _partner() -> tuple[Any, Any]:
    from textenv.lm import load_model, load_tokenizer

    return load_model("bundled"), load_tokenizer("bundled")


def _go_on(texts: Sequence[str]) -> list[str]:
    """The end of each sentence, by the likeliest token at each step; "" of one that has ended."""
    import torch

    from textenv.lm.decoder import Decoder

    model, tokenizer = _partner()
    distinct = list(dict.fromkeys(texts))  # equal ones go on in the same way
    rows = [tokenizer(text)["input_ids"] for text in distinct]
    lengths = torch.tensor([len(row) for row in rows])
    begins, width = lengths.clone(), int(lengths.max()) + PARTNER_TOKENS
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for tokens, row in zip(ids, rows, strict=True):
        tokens[: len(row)] = torch.tensor(row)
    decoder, going = Decoder(model, len(rows), width), torch.ones(len(rows), dtype=torch.bool)
    for _ in range(PARTNER_TOKENS):
        on = going.nonzero()[:, 0]
        logits, _ = decoder.next(ids, lengths, rows=on)
        chosen = logits.argmax(1)
        ids[on, lengths[on]] = chosen
        lengths[on] += 1
        going[on] = chosen != tokenizer.eos_token_id
        if not going.any():
            break
    written = [row[a:b] for row, a, b in zip(ids, begins, lengths, strict=True)]
    found = dict(
        zip(distinct, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True)
    )
    return [found[text] for text in texts]


TASK = TaskSpec(
    id="Duet-v0",
    description="Begin sentences of a film review that a frozen model finishes positively.",
    prompts=rows(OPENINGS),
    held_out=rows(HELD_OUT_OPENINGS),
    reward="nothing",
    max_new_tokens=TURNS * TURN_TOKENS,
    respond="textenv.tasks.duet:respond",
    max_turns=TURNS,
    max_turn_tokens=TURN_TOKENS,
    max_reply_tokens=32,
    kl_coef=0.03,  # what helps depends on the opening, and costs many nats
)
