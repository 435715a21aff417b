"""Texts in a report: samples before and after side by side, and token heat maps."""

from collections.abc import Sequence

from agents.evaluation import TextEvaluation
from agents.evaluation.traces import TracedEpisode, shades
from agents.reports.gathering import ReportedRun
from agents.reports.tables import run_title, shown
from textenv.prompts.chat import asked
from textenv.rendering.ansi import rgb

SAMPLES = 8  # of each evaluation


def samples(runs: Sequence[ReportedRun]) -> str:
    """The first episodes of the evaluations; runs with the same ones before share a table."""
    together: dict[tuple, list[int]] = {}
    for place, run in enumerate(runs):
        if run.before is not None:
            first = (*run.before.prompts[:SAMPLES], *run.before.responses[:SAMPLES])
            together.setdefault(first, []).append(place)
    several = len(runs) > 1
    tables = [sample_table(runs, places, several) for places in together.values()]
    return "".join(tables) or "<p>No evaluation was written yet.</p>"


def sample_table(runs: Sequence[ReportedRun], places: Sequence[int], several: bool) -> str:
    """A row for each prompt: the text before, and that of each run after."""
    before = runs[places[0]].before
    assert before is not None
    present = [("before", before)]
    for place in places:
        if (after := runs[place].after) is not None:
            title = run_title(place, runs[place], several) if several else "after"
            present.append((title, after))
    rows = []
    for row in range(min(SAMPLES, *(len(evaluation.scores) for _, evaluation in present))):
        cells = "".join(sample(title, evaluation, row) for title, evaluation in present)
        rows.append(
            f'<div class="sample"><p class="prompt">{shown(asked(before.prompts[row]))}</p>'
            f'<div class="answers">{cells}</div></div>'
        )
    return "".join(rows)


def sample(title: str, evaluation: TextEvaluation, row: int) -> str:
    """One response with its score."""
    text = shown(evaluation.texts[row].strip()) or "<em>(no text)</em>"
    score = evaluation.scores[row]
    sign = "good" if score > 0 else "bad" if score < 0 else "even"
    return (
        f'<div class="answer"><p class="of">{title} <b class="{sign}">{score:+z.2f}</b></p>'
        f'<p class="text">{text}</p></div>'
    )


def heat_maps(runs: Sequence[ReportedRun]) -> str:
    """Episodes of each run as it is now, the same prompts beside each other."""
    several = len(runs) > 1
    notes = "".join(
        f"<p>{run_title(place, run, several)}: {shown(run.note)}</p>"
        for place, run in enumerate(runs)
        if run.note
    )
    rows = []
    for index in range(max(len(run.episodes) for run in runs)):
        cards = "".join(
            card(run.episodes[index], run_title(place, run, several) if several else "")
            for place, run in enumerate(runs)
            if index < len(run.episodes)
        )
        rows.append(f'<div class="cards">{cards}</div>')
    if not rows:
        return notes or "<p>No episode was sampled.</p>"
    return legend() + "".join(rows) + notes


def legend() -> str:
    """What the colours and the numbers of the heat maps are."""
    above, below = shades([1, -1])
    return (
        f'<p class="legend">{token("above 0", above, "")} {token("below 0", below, "")} The '
        "strength of a colour is relative to the largest number of its line. The value is the "
        "critic's V(s) before the token, KL is log π − log π_ref in nats, the advantage is that of "
        "the algorithm, in units of the return. Point at a token to see its numbers.</p>"
    )


def card(episode: TracedEpisode, title: str) -> str:
    """One episode: its prompt, and its response coloured by each kind of number."""
    lines = []
    for name, numbers in episode.columns.items():
        tokens = "".join(
            token(piece, colour, f"{name} {value:+z.3f}, probability {probability:.1%}")
            + replied(reply)
            for piece, reply, colour, value, probability in zip(
                episode.pieces, episode.replies, shades(numbers), numbers, episode.probabilities,
                strict=True,
            )
        )  # fmt: skip
        lines.append(f'<dt>{name}</dt><dd class="tokens">{tokens}</dd>')
    head = f'<p class="of">{title}</p>' if title else ""
    summary = "".join(f"<span>{shown(part)}</span>" for part in episode.summary)
    return (
        f'<article class="card">{head}<p class="prompt">{shown(asked(episode.prompt))}</p>'
        f'<dl>{"".join(lines)}</dl><p class="summary">{summary}</p></article>'
    )


def token(piece: str, colour: int | None, title: str) -> str:
    """A token on its colour; a line break is shown, and breaks the line."""
    style = "" if colour is None else ' style="background:#{:02x}{:02x}{:02x}"'.format(*rgb(colour))
    about = f' title="{shown(title)}"' if title else ""
    text = shown(piece).replace("\n", "⏎\n")
    return f"<span{style}{about}>{text}</span>"


def replied(reply: str) -> str:
    """What the environment replied, which has no numbers."""
    text = shown(reply).replace("\n", "⏎\n")
    return f'<i class="reply" title="the environment\'s reply">{text}</i>' if reply else ""
