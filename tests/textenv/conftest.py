"""Environments of a tiny tokenizer, the ways to drive them, and policies that act in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode

from textenv import ActionRecord, TextGenEnv, TextGenVectorEnv
from textenv.lm.decoder import Decoder
from textenv.lm.log_probs import Sampling

BATCH = {"autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch"}


# --- ways of driving ----------------------------------------------------------------------------


@pytest.fixture(params=list(AutoresetMode), ids=lambda mode: mode.name)
def mode(request):
    """Each autoreset mode of Gymnasium in turn."""
    return request.param


@pytest.fixture(params=["numpy", "torch"])
def array(request):
    """Each kind of array in turn."""
    return request.param


@pytest.fixture(params=[{}, BATCH], ids=["step", "batch"])
def driving(request):
    """The arguments of step scoring and of batch scoring in turn."""
    return request.param


@pytest.fixture
def batch():
    """The arguments of batch scoring."""
    return BATCH


# --- environments -------------------------------------------------------------------------------


def lengths_of_texts(prompt, response):
    return len(prompt) + 0.1 * len(response)


@pytest.fixture(scope="session")
def arguments(tokenizer):
    """Of an environment whose score tells prompts and lengths of responses apart."""
    return {
        "tokenizer": tokenizer,
        "prompts": ["a", "bcd", "ef", "ghijk"],
        "reward": lengths_of_texts,
        "max_new_tokens": 5,
    }


@pytest.fixture(scope="session")
def make_envs(arguments):
    """A vector environment of these arguments, with changes."""
    return lambda num_envs=4, **changes: TextGenVectorEnv(num_envs, **{**arguments, **changes})


@pytest.fixture(scope="session")
def make_small(tokenizer):
    """A vector environment of two rows and three tokens; ``num_envs=None`` makes the single one."""

    def make(num_envs: int | None = 2, **changes):
        arguments = {
            "tokenizer": tokenizer,
            "prompts": ["ab", "longer"],
            "reward": lambda episodes: [1.0] * len(episodes),
            "max_new_tokens": 3,
            **changes,
        }
        if num_envs is None:
            return TextGenEnv(**arguments)
        return TextGenVectorEnv(num_envs, **arguments)

    return make


@pytest.fixture(scope="session")
def refuses(make_small):
    """Construction fails, in both environments unless only one has the argument."""

    def check(match: str, *, single: bool = True, **arguments):
        for num_envs in (2, None) if single else (2,):
            with pytest.raises(ValueError, match=match):
                make_small(num_envs, **arguments)

    return check


@pytest.fixture(scope="session")
def run_out():
    """Drive an environment of `make_small` until every budget is spent; the last step's result."""

    def run(envs, num_envs=2):
        envs.reset(seed=0)
        for _ in range(3):
            result = envs.step(np.full(num_envs, 50))
        return result

    return run


class Recorder:
    """A reward that keeps the episodes it was given; the score is the response's characters."""

    name = "recorder"

    def __init__(self):
        self.calls = []

    def __call__(self, episodes):
        self.calls.append(list(episodes))
        return [float(len(episode.response)) for episode in episodes]

    @property
    def last(self):
        return self.calls[-1][-1]


@pytest.fixture
def reward():
    """A reward that keeps the episodes it was given."""
    return Recorder()


@pytest.fixture
def make_env(tokenizer, reward):
    """The single environment, scored by the fixture ``reward``."""

    def make(**changes):
        arguments = {
            "tokenizer": tokenizer,
            "prompts": ["Say: ", "Now: go"],
            "reward": reward,
            "max_new_tokens": 4,
        }
        return TextGenEnv(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def ids(tokenizer):
    """The token ids of a text."""
    return lambda text: tokenizer(text).input_ids


@pytest.fixture(scope="session")
def write():
    """Reset to the first prompt and take these actions; all that ``step`` returned, in order."""

    def take(env, tokens):
        env.reset(options={"prompt_index": 0})
        return [env.step(np.int64(token)) for token in tokens]

    return take


@pytest.fixture(scope="session")
def ends():
    """Whether each of the steps of `write` ended its episode."""
    return lambda steps: [terminated for _, _, terminated, _, _ in steps]


@pytest.fixture(scope="session")
def random_actions():
    """Actions ``[steps, rows]``, of which a share is the end-of-sequence token."""

    def draw(seed, steps, rows=4, stop=0.2):
        random = np.random.default_rng(seed)
        actions = random.integers(60, 250, (steps, rows))
        return np.where(random.random((steps, rows)) < stop, 0, actions)

    return draw


# --- policies -----------------------------------------------------------------------------------


class ModelPolicy:
    """Acts with a model and leaves what an environment reads of a bound policy."""

    action_record = None

    def __init__(self, model, env, sampling):
        self.model, self.sampling = model, sampling.limited_to(int(env.single_action_space.n))
        self.decoder = Decoder(model, env.num_envs, env.max_length)
        self.generator = torch.Generator().manual_seed(0)

    def act(self, observation, actions=None):
        """Draw actions, or take those that are given, as if they had been drawn."""
        lengths = torch.as_tensor(observation["attention_mask"]).sum(1, dtype=torch.int64)
        logits, _ = self.decoder.next(torch.as_tensor(observation["input_ids"]), lengths)
        logits = self.sampling.apply(logits)
        if actions is None:
            actions = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)[:, 0]
        actions = torch.as_tensor(actions)
        log_probs = -F.cross_entropy(logits, actions, reduction="none")
        self.action_record = ActionRecord(actions.clone(), log_probs)
        return actions


@pytest.fixture(scope="session")
def policy_of():
    """``policy_of(model, env)``: a policy for the rows of a vector environment, not bound."""
    return lambda model, env, sampling=None: ModelPolicy(model, env, sampling or Sampling())


@pytest.fixture(scope="session")
def bound(policy_of):
    """``bound(env, model)``: a policy for the rows of a vector environment, bound to it."""

    def bind(env, model, sampling=None):
        policy = policy_of(model, env, sampling)
        env.bind(policy)
        return policy

    return bind


@pytest.fixture(scope="session")
def play_batch():
    """One batch of episodes; their actions ``[T, B]``, the last step's rewards and its infos."""

    def play(env, policy, seed=0):
        observation, _ = env.reset(seed=seed)
        taken, infos = [], {}
        while "token_rewards" not in infos:
            actions = policy.act(observation)
            taken.append(actions)
            sent = actions if env.array == "torch" else actions.numpy()
            observation, rewards, _, _, infos = env.step(sent)
        return torch.stack(taken), rewards, infos

    return play


# --- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def count_passes():
    """The shapes ``[rows, columns]`` of what a model's body is fed from now on, in order."""

    def count(model) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        return shapes

    return count


@pytest.fixture(scope="session")
def full_forward():
    """Each row's next-token logits ``[B, V]``: one plain, unpadded pass for each row."""

    @torch.no_grad()
    def forward(model, input_ids, lengths):
        return torch.stack(
            [
                model(input_ids=ids[:length][None]).logits[0, -1]
                for ids, length in zip(input_ids, lengths, strict=True)
            ]
        )

    return forward
