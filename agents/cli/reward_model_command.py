"""``reward-model``: train a reward model on preferences."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from agents.cli.errors import ENDINGS, checking_options, exit_code, in_words
from agents.cli.parsing import parsed
from agents.preferences.calibration import draw_calibration
from agents.preferences.pairs import load_preferences
from agents.preferences.reward_model import Training
from agents.training.console import console, drawing


@dataclass
class RewardModelOptions:
    """Train a reward model on preferences: a folder that train takes as its --reward."""

    preferences: tuple[Path, ...]
    """Files (.jsonl, .json, .csv, .parquet, also as .gz) with the columns prompt, chosen and
    rejected, or in another public format (agents.preferences.formats)."""
    model: str = "bundled"
    """The language model whose body it begins with, as for train."""
    output: Path = Path("runs/reward-model")
    """Folder of the model, which must be new."""
    n_epochs: int = 2
    """Passes over the pairs."""
    learning_rate: float | None = None
    """Of AdamW; it falls linearly to 0. Not given, it suits the model."""
    adam_epsilon: float | None = None
    """Of AdamW. Not given, it suits the model."""
    batch_size: int = 32
    """Pairs per update."""
    max_length: int | None = None
    """Leave out pairs with a text of more tokens. Not given, none is left out, and a text that is
    longer than the model can read is refused."""
    held_out: float = 0.1
    """Share of the pairs that measures the accuracy, and is not learned from."""
    eval_preferences: Path | None = None
    """Other pairs that measure the accuracy; all of --preferences are then learned from."""
    seed: int = 0
    """Seed of the split, the order and the new head."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""


def main(arguments: list[str]) -> None:
    """Read, train, save, and print how well it does."""
    options = parsed(RewardModelOptions, arguments, "reward-model")
    with checking_options():
        if options.output.is_dir() and any(options.output.iterdir()):
            raise FileExistsError(
                f"The folder {str(options.output)!r} is not empty: choose another --output."
            )
        preferences = [each for path in options.preferences for each in load_preferences(path)]
        settings = dataclasses.asdict(options)
        for name in ("preferences", "model", "output"):
            del settings[name]
        if options.eval_preferences is not None:
            settings["eval_preferences"] = load_preferences(options.eval_preferences)
        training = Training(preferences, options.model, **settings)
    if training.left_out:
        console.say(
            f"{training.left_out} of {len(preferences)} preferences are left out, because they "
            f"have more than {options.max_length} tokens"
        )
    console.say((f"learning from {len(training.learned)} preferences", "dim"))
    try:
        model = training.run(progress_bar=True)
        model.save(options.output)
    except ENDINGS as error:
        console.say(in_words(error))
        raise SystemExit(exit_code(error)) from None
    plot = options.output / "calibration.png"
    with drawing("plot"):
        draw_calibration(model.calibration, plot)
    accuracy, known = model.accuracy, model.ceiling
    of_ceiling = f"; a perfect judge {known:.1%}" if known is not None else ""
    console.say(
        f"accuracy on {len(model.differences)} held-out pairs  {accuracy.mean:.1%} "
        f"[{accuracy.low:.1%}, {accuracy.high:.1%}]{of_ceiling}"
    )
    console.say(
        f"model  {options.output}\nplot   {plot}\n"
        f"next   python -m agents train --reward {options.output}"
    )
