"""The score of a trained model: a sentiment classifier, a toxicity filter, a reward model."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch

from textenv.episode import Episode
from textenv.prompts.chat import Rendered, answered, render_conversation

# Settings of a reward model that make its scores comparable with those of others, with their
# defaults: mean and standard deviation of its logits.
NORMALIZATION = {"reward_mean": 0.0, "reward_deviation": 1.0}


class ClassifierReward:
    """Score texts with a transformers sequence-classification model.

    A model with one label gives its logit, as reward models do; minus `config.reward_mean`, divided
    by `config.reward_deviation`, where these exist. A model with several gives the probability of
    one of them: the softmax, or the sigmoid where its config says `multi_label_classification`.

    The model stays on its device and is put into eval mode. It has its own tokenizer, not the
    policy's: it reads the text of an episode, whichever model wrote it. A conversation is rendered
    by its own chat template, and where it has none, the contents of the messages are read. Texts
    longer than the limit are cut at the beginning, with a warning, so that the response is still
    read.

    Args:
        model: A transformers sequence-classification model.
        tokenizer: The tokenizer that the model was trained with.
        label: The label whose score is used, as its number or its name. Default: the label named
            POSITIVE (in any case) if there is one, else the last.
        activation: `"logit"` or `"probability"`. Default: the logit of a model with one label, the
            probability of a model with several.
        batch_size: Texts per forward pass. A model whose config and tokenizer do not agree on a
            padding token reads one text at a time, since padding would change its result.
        max_length: The largest number of tokens read of a text. Default: the model's own limit.
        text: `"full"` scores the prompt directly followed by the response; `"response"` scores
            only the response.

    Raises:
        ValueError: If the model has no such label, the tokenizer is of another model, or an
            argument is out of its range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        label: int | str | None = None,
        activation: Literal["logit", "probability"] | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
        text: Literal["full", "response"] = "full",
    ):
        if activation not in (None, "logit", "probability"):
            raise ValueError(f"activation={activation!r} is unknown: use 'logit' or 'probability'.")
        if text not in ("full", "response"):
            raise ValueError(f"text={text!r} is unknown: use 'full' or 'response'.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is too small: use at least 1.")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} is too small: use at least 1, or None.")
        self.model = model.eval()  # With dropout the score of a text would be random.
        self.label = _label_index(model, label)
        self.activation = activation or ("logit" if model.config.num_labels == 1 else "probability")
        self.max_length = max_length or _own_limit(model, tokenizer)
        self.text = text
        # A copy, since its sides are set here: padding on the right, truncation on the left.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.padding_side = "right"
        self.tokenizer.truncation_side = "left"
        # Models built on a decoder find a text's last token by the padding token of their config.
        padding_id = model.config.get_text_config().pad_token_id
        same_padding = padding_id is not None and padding_id == tokenizer.pad_token_id
        self.batch_size = batch_size if same_padding else 1
        self.name = model.config.name_or_path or type(model).__name__
        ends = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._nothing = next((token for token in ends if token is not None), 0)
        known = model.get_input_embeddings().weight.shape[0]
        if tokenizer.vocab_size > known:
            raise ValueError(
                f"reward {self.name!r} knows {known} tokens, and its tokenizer has "
                f"{tokenizer.vocab_size}: it is that of another model, so pass the model's own one."
            )

    @torch.no_grad()
    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        texts = [self._read(episode) for episode in episodes]
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            logits = self.logits(texts[start : start + self.batch_size])
            scores += self._activate(logits)[:, self.label].tolist()
        return scores

    def _read(self, episode: Episode) -> str:
        """The text of an episode; a conversation as the classifier's own template writes it, or
        without one the contents of its messages."""
        messages = episode.data.get("prompt")
        if self.text == "response":
            return episode.response
        if not isinstance(messages, list | tuple):
            return episode.prompt + episode.response
        whole = answered(messages, episode.response)
        if not getattr(self.tokenizer, "chat_template", None):
            return "\n".join(message["content"] for message in whole)
        return render_conversation(whole, self.tokenizer, "an episode", episode.data, whole=True)

    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """The model's logits `[N, labels]`, float32, with gradients where these are enabled."""
        return self.model(**self._encode(texts).to(self.model.device)).logits.float()

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text, of which a rendered conversation has its special ones already."""
        return self.tokenizer(text, **self._special(text), verbose=False)["input_ids"]

    def _special(self, text: str) -> dict[str, bool]:
        return {"add_special_tokens": not isinstance(text, Rendered)}

    def _encode(self, texts: Sequence[str]) -> Any:
        limit = self.max_length
        longest = max(len(self.token_ids(text)) for text in texts)
        too_long = limit is not None and longest > limit
        if too_long:
            warnings.warn(
                f"reward {self.name!r} reads {limit} tokens at most, and a text has "
                f"{longest}: its beginning is cut off.",
                stacklevel=2,
            )
        rows = [
            self.tokenizer(
                text, **self._special(text), truncation=too_long,
                max_length=limit if too_long else None,
            )
            for text in texts
        ]  # fmt: skip
        for row in rows:
            if not row["input_ids"]:  # an empty text, for a tokenizer that begins with nothing
                row.update({key: [int(key == "attention_mask")] for key in row})
                row["input_ids"] = [self._nothing]
        return self.tokenizer.pad(
            {key: [row[key] for row in rows] for key in rows[0]},
            padding=len(texts) > 1, return_tensors="pt",
        )  # fmt: skip

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[N, labels]` to scores `[N, labels]`."""
        config = self.model.config
        if self.activation == "logit":
            # Reward models of `agents.preferences.reward_model` name the logits of typical texts.
            mean, deviation = (getattr(config, name, one) for name, one in NORMALIZATION.items())
            return (logits - mean) / deviation
        if config.num_labels == 1 or config.problem_type == "multi_label_classification":
            return logits.sigmoid()
        return logits.softmax(dim=-1)


def _label_index(model: Any, label: int | str | None) -> int:
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if label is None:
        upper_names = [str(name).upper() for name in names]
        return upper_names.index("POSITIVE") if "POSITIVE" in upper_names else len(names) - 1
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise ValueError(
        f"label={label!r} is not a label of the model: use one of {names}, or its number, "
        f"0 to {len(names) - 1}."
    )


def _own_limit(model: Any, tokenizer: Any) -> int | None:
    """The largest number of tokens that both model and tokenizer accept, or None for no limit."""
    limits = [tokenizer.model_max_length]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from the one behind that of padding on.
        tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
        padding = next((getattr(table, "padding_idx", None) for table in tables), None)
        limits.append(positions if padding is None else positions - padding - 1)
    limit = min(limits)
    return limit if limit < 1e9 else None  # transformers writes "no limit" as 10**30.
