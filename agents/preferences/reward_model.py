"""A reward model from preferences: r(prompt, response) with P(a is preferred to b) = σ(r_a − r_b).

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Christiano et al. 2017, eq. 1;
Stiennon et al. 2020, section 3.3). The model is a transformers sequence classifier with one label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import logsigmoid

from agents import files
from agents.evaluation.statistics import Interval
from agents.preferences.calibration import Calibration, agreement, calibration
from agents.preferences.pairs import Preference, ceiling, render, split
from agents.training import presets
from agents.training.console import console
from agents.training.device import find_device
from agents.training.optimization import check_finite, set_learning_rate
from textenv.arguments import Range, check_ranges
from textenv.lm.classifier import new_classifier
from textenv.lm.loading import without_bars
from textenv.rewards.classifier_reward import ClassifierReward

MIN_HELD_OUT = 8  # pairs, below which an accuracy says nothing
MAX_GRAD_NORM = 1.0
TEXTS_AT_ONCE = 16  # in a forward pass


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(r_chosen − r_rejected) of each pair ``[N]``."""
    return -logsigmoid(chosen - rejected)


@dataclass(frozen=True, repr=False)
class RewardModel:
    """A trained reward model, and how it did on the pairs that it has not seen."""

    reward: ClassifierReward  # normalised to mean 0 and deviation 1 on the texts it learned from
    losses: list[float]  # of each update
    differences: np.ndarray  # r_chosen − r_rejected of the held-out pairs, in units of the logits
    ceiling: float | None  # the accuracy of a perfect judge on them; None if it is not known

    def __repr__(self) -> str:
        return (
            f"RewardModel after {len(self.losses)} updates: accuracy {self.accuracy} on "
            f"{len(self.differences)} held-out pairs"
        )

    @property
    def accuracy(self) -> Interval:
        """Of the held-out pairs (`agreement`)."""
        return agreement(self.differences)

    @property
    def calibration(self) -> Calibration:
        """Of the held-out pairs."""
        return calibration(self.differences)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer to a new or empty folder, which then is a reward,
        ``reward="FOLDER"``."""
        with files.new_folder(folder) as new:
            with without_bars():
                self.reward.model.save_pretrained(new)
            self.reward.tokenizer.save_pretrained(new)


class Training:
    """The training of a reward model, with AdamW whose learning rate falls linearly to 0.

    Args:
        preferences: of `agents.preferences.pairs.load_preferences`.
        model: the source of a causal language model whose body it begins with.
        n_epochs: passes over the pairs.
        learning_rate, adam_epsilon: of AdamW, the first learning rate; None takes those of
            `agents.training.presets`.
        batch_size: pairs per update.
        max_length: pairs with a text of more tokens are left out. None leaves none out, and
            refuses a text that is longer than the model can read.
        held_out: the share of the pairs that measures the accuracy, and is not learned from.
        eval_preferences: other pairs that measure the accuracy; all of the first are learned from.
        seed: the seed of the split, the order and the new head.
        device: "auto" uses an accelerator if there is one.

    Attributes:
        left_out: the number of ``preferences`` that ``max_length`` has left out.

    Raises:
        ValueError: an argument is out of its range, a text is too long, or there are too few pairs.
    """

    def __init__(
        self,
        preferences: Sequence[Preference],
        model: Any = "bundled",
        *,
        n_epochs: Annotated[int, Range(1)] = 2,
        learning_rate: Annotated[float | None, Range(above=0)] = None,
        adam_epsilon: Annotated[float | None, Range(above=0)] = None,
        batch_size: Annotated[int, Range(1)] = 32,
        max_length: Annotated[int | None, Range(1)] = None,
        held_out: Annotated[float, Range(above=0, below=1)] = 0.1,
        eval_preferences: Sequence[Preference] | None = None,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        device: str = "auto",
    ):
        check_ranges(Training.__init__, locals())
        preset = presets.reward_model(model)
        self.learning_rate: float = learning_rate or preset["learning_rate"]
        self.adam_epsilon: float = adam_epsilon or preset["adam_epsilon"]
        self.n_epochs, self.batch_size = n_epochs, batch_size
        self.rng = np.random.default_rng(seed)
        classifier, tokenizer = new_classifier(model, seed, find_device(device))
        self.reward = ClassifierReward(classifier, tokenizer)
        learned, unseen = self.readable(preferences, max_length), []
        self.left_out = len(preferences) - len(learned)
        if eval_preferences is None:
            wanted = round(held_out * len(learned))
            found = f"held_out={held_out} of {len(learned)} preferences leaves {wanted}"
            order, count = split([preference for preference, _ in learned], wanted, self.rng)
            unseen = [learned[index] for index in order[:count]]
            learned = [learned[index] for index in order[count:]]
        else:
            unseen = self.readable(eval_preferences, max_length)
            wanted = len(unseen)
            found = f"eval_preferences has {wanted}"
        if wanted < MIN_HELD_OUT:
            raise ValueError(
                f"{found} to measure the accuracy, and {MIN_HELD_OUT} are needed: give more."
            )
        if not learned:
            raise ValueError(
                f"The {len(unseen)} preferences are on so few different pairs that none is left to "
                "learn from: give more pairs."
            )
        self.learned = [texts for _, texts in learned]
        self.unseen = [texts for _, texts in unseen]
        self.ceiling = ceiling([preference for preference, _ in unseen])

    def readable(
        self, preferences: Sequence[Preference], max_length: int | None
    ) -> list[tuple[Preference, tuple[str, str]]]:
        """The preferences that are not left out, each with its two texts."""
        tokenizer, limit = self.reward.tokenizer, self.reward.max_length or np.inf
        if max_length is not None and max_length > limit:
            raise ValueError(
                f"max_length={max_length} is more than the model reads: give {limit} at most."
            )
        kept = []
        for index, preference in enumerate(preferences):
            where = preference.where or f"preferences[{index}]"
            pair = render(preference, tokenizer)
            lengths = [len(self.reward.token_ids(text)) for text in pair]
            if min(lengths) == 0:
                raise ValueError(f"{where} has a text without a token: remove it.")
            if max_length is None and max(lengths) > limit:
                raise ValueError(
                    f"{where} has a text of {max(lengths)} tokens, and the model reads {limit}: "
                    f"shorten it, or leave such pairs out with max_length={limit}."
                )
            if max_length is None or max(lengths) <= max_length:
                kept.append((preference, pair))
        return kept

    def run(self, progress_bar: bool = False) -> RewardModel:
        """Learn, and measure."""
        losses = self.fit(progress_bar)
        config = self.reward.model.config
        logits = self.logits(self.learned)
        config.reward_mean = float(logits.mean())
        config.reward_deviation = max(float(logits.std()), 1e-6)
        unseen = self.logits(self.unseen)
        return RewardModel(self.reward, losses, unseen[:, 0] - unseen[:, 1], self.ceiling)

    def fit(self, progress_bar: bool) -> list[float]:
        """Minimise the loss; returns that of each update."""
        parameters = list(self.reward.model.parameters())
        optimizer = torch.optim.AdamW(
            parameters, self.learning_rate, eps=self.adam_epsilon, weight_decay=0.01
        )
        batches = [
            order[begin : begin + self.batch_size]
            for order in (self.rng.permutation(len(self.learned)) for _ in range(self.n_epochs))
            for begin in range(0, len(self.learned), self.batch_size)
        ]
        losses: list[float] = []
        shown = track(batches, "learning", console=console, disable=not progress_bar)
        for number, batch in enumerate(shown):
            set_learning_rate(optimizer, self.learning_rate * (1 - number / len(batches)))
            chosen, rejected = self.read([self.learned[index] for index in batch])
            loss = preference_loss(chosen, rejected).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            check_finite(parameters, number + 1)
            losses.append(loss.item())
        return losses

    def read(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """The logits of both texts of each pair ``[2, N]``."""
        texts = [text for side in zip(*pairs, strict=True) for text in side]
        # Texts of similar lengths are read together, so that there is little padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = [
            self.reward.logits([texts[index] for index in order[begin : begin + TEXTS_AT_ONCE]])
            for begin in range(0, len(order), TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)[np.argsort(order), 0].view(2, -1)

    @torch.no_grad()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """As `read`, in batches; ``[N, 2]``."""
        begins = range(0, len(pairs), self.batch_size)
        parts = [self.read(pairs[begin : begin + self.batch_size]) for begin in begins]
        return torch.cat(parts, dim=1).T.cpu().numpy()


def train_reward_model(
    preferences: Sequence[Preference], model: Any = "bundled", **settings: Any
) -> RewardModel:
    """Train a reward model on preferences; the arguments are those of `Training`."""
    return Training(preferences, model, **settings).run()
