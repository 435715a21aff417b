"""``watch``: episodes of an agent token by token, with value, KL and advantage in colour."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agents.cli.errors import checking_options
from agents.cli.parsing import parsed
from agents.cli.sources import OfSavedAgent, prompts_of_evaluations
from agents.evaluation.traces import TracedEpisode, shades, trace_episodes
from agents.saving import agent_folder
from agents.training.console import console, text_of
from textenv.arguments import Range
from textenv.prompts.chat import asked
from textenv.shown import printable

TOKEN_WIDTH = 22
CELL_WIDTH = 11
# One sign each, so that a token stays on its line.
SIGNS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥"})
REPLY = "dim italic"  # the style of what the environment replied
INDENT = " " * 11  # of the texts below the names of the numbers


@dataclass
class Watch(OfSavedAgent):
    """Sample episodes from a saved agent, and show them token by token.

    Each token has its probability, the critic's value before it, its KL to the reference in nats,
    and its advantage. Blue numbers are above 0, orange ones below; the strength of the colour is
    relative to the largest number of the episode. Values and advantages are in units of the return.
    """

    path: tyro.conf.Positional[Path]
    """The folder of a run, whose newest agent is watched, or of an agent."""
    episodes: Annotated[int, Range(1)] = 3
    """Number of episodes."""
    prompt: str | None = None
    """The text to begin with, instead of prompts of the run."""
    speed: Annotated[float, Range(0)] = 12.0
    """Tokens per second; 0 shows everything at once, as always without a terminal."""
    deterministic: bool = False
    """Always take the most likely token."""
    seed: int = 0
    """Seed of prompts and sampling."""


def main(arguments: list[str]) -> None:
    """Sample episodes, and play them back."""
    options = parsed(Watch, arguments, "watch")
    with checking_options():
        agent, given = options.load(options.path), options.prompt
        prompts = prompts_of_evaluations(options.path) if given is None else [given]
        episodes = trace_episodes(
            agent, options.episodes, options.seed, prompts, options.deterministic
        )
    title = f"{type(agent).__name__}, {agent.num_timesteps:,} tokens learned"
    console.print(
        text_of((title, "bold"), "  ", (agent_folder.find(options.path), "dim")), soft_wrap=True
    )
    if console.color_system is not None:
        above, below = map(style, shades([1, -1]))
        console.print(text_of((" above 0 ", above), "  ", (" below 0 ", below)), soft_wrap=True)
    pause = 1 / options.speed if options.speed > 0 and console.is_terminal else 0.0
    for number, episode in enumerate(episodes, start=1):
        play(episode, f"episode {number} of {len(episodes)}", pause)


def play(episode: TracedEpisode, title: str, pause: float) -> None:
    """Print an episode token by token, then its text under each kind of number, and its score."""
    console.print()
    console.rule(text_of((title, "bold")), align="left", style="dim")
    console.print(text_of((asked(episode.prompt), "italic")), soft_wrap=True)
    columns = episode.columns
    head = Text(set_cell_size("  token", TOKEN_WIDTH) + f"{'prob.':>8}", style="dim")
    for name in columns:
        head.append(f"{name:>{CELL_WIDTH - 1}} ")
    console.print(head)
    for line in token_lines(episode, columns):
        console.print(line)
        if pause:
            time.sleep(pause)
    console.print()
    print_texts(episode, columns)
    console.print(text_of(("   ".join(episode.summary), "bold")), soft_wrap=True)


def token_lines(episode: TracedEpisode, columns: dict[str, np.ndarray]) -> Iterator[Text]:
    """A line for each token: its text, its probability, and its numbers on their colours."""
    grounds = {name: shades(values) for name, values in columns.items()}
    for t, piece in enumerate(episode.pieces):
        name = shortened(printable(piece).translate(SIGNS), TOKEN_WIDTH - 3)
        line = Text("  ")
        line.append(set_cell_size(name, TOKEN_WIDTH - 2), style="bold")
        line.append(f"{episode.probabilities[t]:>8.1%}", style="dim")
        for label, values in columns.items():
            line.append("  ")
            line.append(f"{values[t]:+z{CELL_WIDTH - 3}.3f} ", style=style(grounds[label][t]))
        yield line
        if episode.replies[t]:
            yield text_of("  ", (replied(episode.replies[t]), REPLY))


def print_texts(episode: TracedEpisode, columns: dict[str, np.ndarray]) -> None:
    """The response coloured by each kind of number; once and plain if there are no colours."""
    if console.color_system is None:
        spoken = zip(episode.pieces, episode.replies, strict=True)
        said = [text for piece, reply in spoken for text in (piece, replied(reply))]
        whole = "".join(said) if any(episode.replies) else episode.response
        console.print(text_of(whole.strip()), soft_wrap=True)
        return
    for name, values in columns.items():
        text = Text(f"{name:<{len(INDENT)}}", style="")
        for piece, reply, colour in zip(
            episode.pieces, episode.replies, shades(values), strict=True
        ):
            text.append(printable(piece).replace("\n", "⏎"), style=style(colour))
            text.append(replied(reply), style=REPLY)
        for number, line in enumerate(text.wrap(console, console.width - len(INDENT))):
            console.print(Text(INDENT if number else "").append_text(line))


def replied(reply: str) -> str:
    """A reply of the environment, as it is shown among the policy's own tokens."""
    return f"‹{printable(reply).replace(chr(10), '⏎')}›" if reply else ""


def style(colour: int | None) -> str:
    """Black text on a colour; plain without one."""
    return "" if colour is None else f"color(16) on color({colour})"


def shortened(text: str, width: int) -> str:
    """The text in at most this many columns of a terminal."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
