"""Tiny tokenizers, models, environments and agents, small enough to enumerate and to learn."""

from __future__ import annotations

import inspect
import os
import socket
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers
from gymnasium.vector import AutoresetMode
from tokenizers import Tokenizer, models, pre_tokenizers

import agents.algorithms
from agents import CausalLMPolicy

os.fsync = lambda handle: None  # waits for the disk; a power cut cannot be tried here

GROUPED = {"GRPO", "RLOO"}
ARCHITECTURES = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2}),
    "gpt2": (transformers.GPT2Config, {"n_positions": 64}),
    "qwen3": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "gpt_neox": (transformers.GPTNeoXConfig, {}),
    "opt": (transformers.OPTConfig, {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3}),
}


@pytest.fixture(scope="session", autouse=True)
def logs_of_sb3(tmp_path_factory) -> None:
    """Loggers of stable-baselines3 that are told no folder write here, not all over /tmp."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))


# --- in turn ------------------------------------------------------------------------------------


@pytest.fixture(params=agents.algorithms.__all__)
def name(request) -> str:
    """The name of each algorithm in turn."""
    return request.param


@pytest.fixture(params=sorted(set(agents.algorithms.__all__) - GROUPED))
def ungrouped(request) -> type:
    """Each algorithm that needs no groups in turn."""
    return getattr(agents.algorithms, request.param)


@pytest.fixture(params=list(AutoresetMode), ids=lambda mode: mode.name)
def mode(request) -> AutoresetMode:
    """Each autoreset mode in turn."""
    return request.param


# --- models and their tokenizers ----------------------------------------------------------------


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable:
    """``make_tokenizer(size)``: one token a letter; id 0 is both end of sequence and padding."""

    def make(size: int = 8, backwards: bool = False) -> transformers.PreTrainedTokenizerFast:
        letters = string.ascii_lowercase[: size - 1]
        words = ["<eos>", *(reversed(letters) if backwards else letters)]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "a"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>"
        )

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable:
    """``make_model(kind, vocabulary)``: random weights, large enough that every token matters."""

    def make(
        kind: str = "llama", vocabulary: int = 8, seed: int = 0, spread: float = 0.3, **changes: Any
    ) -> transformers.PreTrainedModel:
        config_class, extra = ARCHITECTURES[kind]
        config = config_class(
            vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64, initializer_range=spread,
            bos_token_id=0, eos_token_id=0, pad_token_id=None, tie_word_embeddings=False,
            **extra, **changes,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            # Second derivatives need eager attention.
            model = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation="eager"
            )
            for name, parameter in model.named_parameters():
                if "bias" in name or "norm" in name:  # which begin at 0 or 1
                    parameter.data += spread * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def save_model(make_model, make_tokenizer) -> Callable:
    """``save_model(folder)``: a tiny model in a folder with its tokenizer; returns its path."""

    def save(folder: Path, seed: int = 0, vocabulary: int = 8, backwards: bool = False) -> str:
        make_model(vocabulary=vocabulary, seed=seed).save_pretrained(folder)
        make_tokenizer(vocabulary, backwards).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def model_folder(save_model, tmp_path_factory) -> str:
    """A saved tiny model with its tokenizer, which tests only read."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_folder(save_model, tmp_path_factory) -> str:
    """One of another tokenizer: the same letters, but the other way round."""
    return save_model(tmp_path_factory.mktemp("models") / "other", backwards=True)


# --- environments -------------------------------------------------------------------------------


def fraction_of_b(episodes: Any) -> list[float]:
    """The share of a response's tokens that are "b" (id 2)."""
    return [float(np.mean(episode.response_ids == 2)) for episode in episodes]


@pytest.fixture(scope="session")
def text_kwargs(make_tokenizer) -> Callable:
    """``text_kwargs(...)``: the arguments of a small text environment, with changes."""

    def make(vocabulary: int = 8, **changes: Any) -> dict[str, Any]:
        defaults = dict(
            tokenizer=make_tokenizer(vocabulary),
            prompts=["a b", "c", "b a c a"],
            reward=fraction_of_b,
            max_new_tokens=5,
        )
        return defaults | changes

    return make


@pytest.fixture(scope="session")
def make_text_envs(text_kwargs) -> Callable:
    """``make_text_envs(num_envs, ...)``: the native vector environment."""

    def make(num_envs: int = 6, vocabulary: int = 8, **changes: Any) -> gym.vector.VectorEnv:
        own = {"scoring", "autoreset_mode", "array", "group_size"}
        driving = {name: changes.pop(name) for name in own & set(changes)}
        kwargs = text_kwargs(vocabulary, **changes)
        return gym.make_vec("TextGen-v0", num_envs=num_envs, **kwargs, **driving)

    return make


@pytest.fixture(scope="session")
def in_batches(make_text_envs) -> Callable:
    """``in_batches(num_envs, ...)``: the same, scoring whole batches of episodes."""

    def make(num_envs: int = 6, **changes: Any) -> gym.vector.VectorEnv:
        driving = {"scoring": "batch", "autoreset_mode": "disabled", "array": "torch"}
        envs = make_text_envs(num_envs, **driving, **changes)
        envs.reset(seed=0)
        return envs

    return make


@pytest.fixture(scope="session")
def wrapped(make_text_envs) -> Callable:
    """``wrapped(num_envs, ...)``: the same in a wrapper, so that an agent drives it by steps."""

    def make(num_envs: int = 6, **changes: Any) -> gym.vector.VectorEnv:
        return gym.wrappers.vector.RecordEpisodeStatistics(make_text_envs(num_envs, **changes))

    return make


class Corridor(gym.Env):
    """Walk right (action 1) from 0 to 5; each step costs 0.1, the end pays 1."""

    observation_space = gym.spaces.Box(0, 1, (6,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = 0
        return self.observation(), {}

    def step(self, action):
        self.position = max(0, self.position + (1 if action == 1 else -1))
        ended = self.position == 5
        return self.observation(), float(ended) - 0.1, ended, False, {}

    def observation(self) -> np.ndarray:
        return np.eye(6, dtype=np.float32)[self.position]


@pytest.fixture(scope="session")
def corridor() -> Callable:
    """``corridor()``: five steps to the right, cut short after 20."""
    return lambda: gym.wrappers.TimeLimit(Corridor(), 20)


# --- policies and agents ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def policy_for() -> Callable:
    """``policy_for(envs, model, ...)``: a policy whose critic is not silent."""

    def make(envs: Any, model: Any, **kwargs: Any) -> CausalLMPolicy:
        policy = CausalLMPolicy(
            envs.single_observation_space, envs.single_action_space, model=model, **kwargs
        )
        torch.nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(1))
        policy.seed(3)
        return policy

    return make


@pytest.fixture(scope="session")
def fitting() -> Callable:
    """``fitting(name, batch_size=8, ...)``: those of the arguments that an algorithm takes."""

    def choose(name: str, **arguments: Any) -> dict[str, Any]:
        known = inspect.signature(getattr(agents.algorithms, name)).parameters
        grouped = name in GROUPED
        return {
            key: value
            for key, value in arguments.items()
            if key in known and (grouped or key != "group_size")
        }

    return choose


@pytest.fixture(scope="session")
def make_agent(make_text_envs, make_model) -> Callable:
    """``make_agent(name, num_envs, env={}, model={}, ...)``: an agent on tiny random text.

    ``envs`` takes the place of the environment that ``num_envs`` and ``env`` describe.
    """

    def make(name: str, num_envs: int = 16, env=(), model=(), envs=None, **kwargs: Any):
        env = {"stop": [5]} | dict(env)
        if name in GROUPED:
            env, kwargs = {"group_size": 4} | env, {"group_size": 4} | kwargs
        if name == "GRPO":
            env = {"reference": make_model(seed=1)} | env
            kwargs = {"kl_loss_coef": 0.04} | kwargs
        policy_kwargs = {"model": make_model(**dict(model))} | kwargs.pop("policy_kwargs", {})
        kind = getattr(agents.algorithms, name)
        quick = {"learning_rate": 1e-2, "lr_schedule": "constant", "adam_epsilon": 1e-5}
        kwargs = {"seed": 0, "device": "cpu", **quick} | kwargs
        envs = make_text_envs(num_envs, **env) if envs is None else envs
        return kind("CausalLMPolicy", envs, policy_kwargs=policy_kwargs, **kwargs)

    return make


@pytest.fixture(scope="session")
def next_logits():
    """``next_logits(policy, observation)``: of each row's next token, by the model's own forward,
    ``[B, V]``."""

    @torch.no_grad()
    def forward(policy, observation) -> torch.Tensor:
        rows = []
        for ids, mask in zip(observation["input_ids"], observation["attention_mask"], strict=True):
            prefix = torch.as_tensor(ids)[None, : int(mask.sum())]
            rows.append(policy.model(input_ids=prefix).logits[0, -1])
        return torch.stack(rows)

    return forward


@pytest.fixture(scope="session")
def weights() -> Callable:
    """``weights(agent)``: a copy of the policy's parameters by their names."""
    return lambda agent: {n: p.detach().clone() for n, p in agent.policy.named_parameters()}


@pytest.fixture(scope="session")
def on_cartpole() -> Callable:
    """``on_cartpole(PPO, ...)``: an agent with a small network on CartPole."""

    def make(kind: type, policy: Any = "MlpPolicy", **kwargs: Any):
        kwargs = {"n_envs": 2, "n_steps": 32, "seed": 0, "device": "cpu"} | kwargs
        return kind(policy, "CartPole-v1", **kwargs)

    return make


# --- pages --------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
