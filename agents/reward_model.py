"""A reward model from preferences: r(prompt, response) with P(a is preferred to b) = σ(r_a − r_b).

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Christiano et al. 2017, eq. 1;
Stiennon et al. 2020, section 3.3). The model is a transformers sequence classifier with one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import logsigmoid

from agents import presets, storage
from agents.construction import find_device
from agents.optimization import check_finite, set_learning_rate
from agents.progress import console
from agents.statistics import Interval
from textenv.lm.classifier import new_classifier, render
from textenv.preferences import Preference, ceiling
from textenv.ranges import COUNT, COUNT_OR_NONE, POSITIVE_OR_NONE, Range, check_numbers
from textenv.rewards.classifier import ClassifierReward

BINS = 10  # of the calibration curve
MIN_HELD_OUT = 8  # pairs, below which an accuracy says nothing
MAX_GRAD_NORM = 1.0
RANGES = {
    "n_epochs": COUNT,
    "learning_rate": POSITIVE_OR_NONE,
    "batch_size": COUNT,
    "max_length": COUNT_OR_NONE,
    "held_out": Range(0, 1, above=True, below=True),
    "seed": Range(0, 2**32 - 1, whole=True),
}


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(r_chosen − r_rejected) of each pair ``[N]``."""
    return -logsigmoid(chosen - rejected)


@dataclass(frozen=True)
class Calibration:
    """How often the preferred response was the one that a model gave a certain probability.

    Attributes:
        predicted: mean σ(|Δr|) of each bin ``[K]``, from 0.5 to 1.
        observed: the share of its pairs in which the label agrees ``[K]``.
        counts: pairs of each bin ``[K]``; empty bins are left out.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray


def calibration(differences: np.ndarray, bins: int = BINS) -> Calibration:
    """The calibration of r_chosen − r_rejected ``[N]`` on held-out pairs."""
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    used = np.unique(place)
    means = [(confidence[place == k].mean(), (differences[place == k] > 0).mean()) for k in used]
    predicted, observed = np.array(means).reshape(-1, 2).T
    return Calibration(predicted, observed, np.bincount(place)[used])


def agreement(differences: np.ndarray) -> Interval:
    """The share of pairs whose chosen response scores higher, with its 95 % Wilson interval.

    Equal scores count as wrong.
    """
    right, count = int((differences > 0).sum()), len(differences)
    bounds = binomtest(right, count).proportion_ci(method="wilson")
    return Interval(right / count, float(bounds.low), float(bounds.high))


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model, and how it did on the pairs that it has not seen.

    Attributes:
        reward: scores episodes, normalised to mean 0 and deviation 1 on the texts it learned from.
        losses: of each update.
        differences: r_chosen − r_rejected of the held-out pairs, in units of the logits.
        ceiling: the accuracy that a perfect judge would have on them; None if their noise is
            not known.
    """

    reward: ClassifierReward
    losses: list[float]
    differences: np.ndarray
    ceiling: float | None

    @property
    def accuracy(self) -> Interval:
        """Of the held-out pairs (`agreement`)."""
        return agreement(self.differences)

    @property
    def calibration(self) -> Calibration:
        """Of the held-out pairs."""
        return calibration(self.differences)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer; the folder is then a reward, ``reward="FOLDER"``.

        Raises:
            FileExistsError: the folder is not empty.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"The folder {str(folder)!r} is not empty: choose another one.")
        with storage.replacing(folder) as new:
            self.reward.model.save_pretrained(new)
            self.reward.tokenizer.save_pretrained(new)


def split(
    preferences: Sequence[Preference], count: int, rng: np.random.Generator
) -> tuple[list[int], int]:
    """A random order whose first preferences are held out, and their number.

    What several people say about the same two texts stays on one side, so that nothing that is held
    out has been learned from; there may be a few more than ``count`` for that.
    """
    pairs = [
        (repr(each.prompt), frozenset((repr(each.chosen), repr(each.rejected))))
        for each in preferences
    ]
    order = [int(index) for index in rng.permutation(len(preferences))]
    first: dict[Any, int] = {}
    for place, index in enumerate(order):
        first.setdefault(pairs[index], place)
    order.sort(key=lambda index: first[pairs[index]])  # stable: alone, a preference keeps its place
    while 0 < count < len(order) and pairs[order[count - 1]] == pairs[order[count]]:
        count += 1
    return order, count


class Training:
    """The training of a reward model, with AdamW whose learning rate falls linearly to 0.

    Args:
        preferences: of `textenv.preferences.load_preferences`.
        model: the source of a causal language model whose body it begins with.
        n_epochs: passes over the pairs.
        learning_rate: the first learning rate; None takes that of `agents.presets`.
        batch_size: pairs per update.
        max_length: pairs with a text of more tokens are left out. None leaves none out, and
            refuses a text that is longer than the model can read.
        held_out: the share of the pairs that measures the accuracy, and is not learned from.
        seed: the seed of the split, the order and the new head.
        device: "auto" uses an accelerator if there is one.

    Attributes:
        left_out: the number of pairs that ``max_length`` has left out.

    Raises:
        ValueError: an argument is out of its range, a text is too long, or there are too few pairs.
    """

    def __init__(
        self,
        preferences: Sequence[Preference],
        model: Any = "bundled",
        *,
        n_epochs: int = 2,
        learning_rate: float | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
        held_out: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ):
        check_numbers(locals(), RANGES)
        if learning_rate is None:
            learning_rate = presets.reward_model(model)["learning_rate"]
        self.n_epochs, self.learning_rate, self.batch_size = n_epochs, learning_rate, batch_size
        self.rng = np.random.default_rng(seed)
        classifier, tokenizer = new_classifier(model, seed, find_device(device))
        self.reward = ClassifierReward(classifier, tokenizer)
        texts = [render(preference, tokenizer) for preference in preferences]
        kept = self.readable(preferences, texts, max_length)
        self.left_out = len(preferences) - len(kept)
        count = round(held_out * len(kept))
        if count < MIN_HELD_OUT:
            raise ValueError(
                f"held_out={held_out} of {len(kept)} preferences leaves {count} to measure "
                f"the accuracy, and {MIN_HELD_OUT} are needed: give more of them."
            )
        order, count = split([preferences[index] for index in kept], count, self.rng)
        if count == len(kept):
            raise ValueError(
                f"The {count} preferences are on so few different pairs that none is left to learn "
                "from: give more pairs."
            )
        order = [kept[index] for index in order]
        self.unseen = [texts[index] for index in order[:count]]
        self.learned = [texts[index] for index in order[count:]]
        self.ceiling = ceiling([preferences[index] for index in order[:count]])

    def readable(
        self,
        preferences: Sequence[Preference],
        texts: Sequence[tuple[str, str]],
        max_length: int | None,
    ) -> list[int]:
        """The indices of the pairs that can be read whole, and are not left out.

        Raises:
            ValueError: a text has no token, or more than the model reads.
        """
        limit = self.reward.max_length or np.inf
        if max_length is not None and max_length > limit:
            raise ValueError(
                f"max_length={max_length} is more than the model reads: give {limit} at most."
            )
        kept = []
        for index, (preference, pair) in enumerate(zip(preferences, texts, strict=True)):
            where = preference.where or f"preferences[{index}]"
            lengths = [len(ids) for ids in self.reward.tokenizer(list(pair))["input_ids"]]
            if min(lengths) == 0:
                raise ValueError(f"{where} has a text without a token: remove it.")
            if max_length is None and max(lengths) > limit:
                raise ValueError(
                    f"{where} has a text of {max(lengths)} tokens, and the model reads {limit}: "
                    f"shorten it, or leave such pairs out with max_length={limit}."
                )
            if max_length is None or max(lengths) <= max_length:
                kept.append(index)
        return kept

    def run(self, progress_bar: bool = False) -> RewardModel:
        """Learn, and measure.

        Raises:
            FloatingPointError: the loss is no finite number.
        """
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
        optimizer = torch.optim.AdamW(parameters, self.learning_rate, weight_decay=0.01)
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
        return self.reward.logits(texts)[:, 0].view(2, -1)

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
