"""How the policy of a language model is written to a folder, and read from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from agents import distributed, files
from textenv.lm.adapters import merged
from textenv.lm.vocabulary import own_tokenizer


class LMFiles:
    """A part of `agents.policies.causal_lm.CausalLMPolicy`."""

    model: Any
    value_head: Any
    critic_body: nn.Module | None

    def save(self, folder: Path, tokenizer: Any = None) -> None:
        """Write the model as `from_pretrained` reads it, its tokenizer, and the critic."""
        # Embeddings that do not learn need not be saved, nor looked for in the base model's files.
        adapted = hasattr(self.model, "peft_config")
        self.model.save_pretrained(folder, **{"save_embedding_layers": False} if adapted else {})
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        save_file(self._critic().state_dict(), folder / "critic.safetensors")

    def load(self, folder: Path) -> None:
        """Load the critic (the model is loaded by the constructor)."""
        self._critic().load_state_dict(load_file(folder / "critic.safetensors"))

    def _critic(self) -> nn.ModuleDict:
        """What only the critic has, as one module."""
        parts = {"value_head": self.value_head, "critic_body": self.critic_body}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def merge(self, folder: str | Path) -> None:
        """Write the model with its adapters merged into its weights, and without the critic.

        Of several processes the first one writes.

        Raises:
            FileExistsError: the folder is not empty.
        """
        if not distributed.is_main():
            return
        tokenizer = own_tokenizer(self.model)
        with files.new_folder(Path(folder)) as new:
            merged(self.model).save_pretrained(new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)

    @staticmethod
    def kwargs_for(folder: Path) -> dict[str, Any]:
        """The constructor's arguments that load a saved policy's weights, adapters included."""
        return {"model": str(folder), "lora": None}

    @staticmethod
    def env_kwargs(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The tokenizer of the model, for an environment that is made for it."""
        model = policy_kwargs.get("model", "bundled")
        tokenizer = model if isinstance(model, str | Path) else own_tokenizer(model)
        return {} if tokenizer is None else {"tokenizer": tokenizer}
