"""Small networks for other Gymnasium environments, with discrete or continuous actions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from agents.policies.base import Evaluation, Policy, Steps
from agents.policies.distributions import TorchDistribution, draw
from textenv.arguments import Range


class MlpPolicy(nn.Module, Policy):
    """Two separate multilayer perceptrons: π over discrete or continuous actions, and V.

    Discrete actions are Categorical; a Box is a diagonal Normal whose log standard deviation is a
    parameter that does not depend on the state. Weights are orthogonal at first, with a small last
    layer of π (Engstrom et al. 2020; the defaults of stable-baselines3).

    Args:
        observation_space: Box or Discrete (one-hot); Boxes are flattened.
        action_space: Discrete or Box. Actions of a Box are clipped by the agent, not here, so that
            log π stays that of what was drawn.
        net_arch: sizes of the hidden layers, of both networks.
        log_std_init: the initial log standard deviation of the Normal, nats.
        learn_std: whether the standard deviation is learned.
        seed: the seed of the weights.
        device: the device of the networks.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        net_arch: Sequence[int] = (64, 64),
        log_std_init: float = 0.0,
        learn_std: bool = True,
        seed: int | None = None,
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        _check_spaces(observation_space, action_space)
        _check_sizes(net_arch)
        self.observation_space, self.device = observation_space, torch.device(device)
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        self.action_shape: tuple[int, ...] = tuple(action_space.shape or ())
        outputs = int(gym.spaces.flatdim(action_space))
        size = gym.spaces.flatdim(observation_space)
        with torch.random.fork_rng(devices=[]):  # the global random state does not change
            torch.manual_seed(torch.seed() if seed is None else seed)
            self.actor = _mlp([size, *net_arch, outputs], last_gain=0.01)
            self.critic = _mlp([size, *net_arch, 1], last_gain=1.0)
        if not self.discrete:
            self.log_std = nn.Parameter(
                torch.full((outputs,), float(log_std_init), dtype=torch.float32),
                requires_grad=learn_std,
            )
        self.generator = torch.Generator(device=self.device)
        self.to(device)

    def actor_parameters(self) -> list[nn.Parameter]:
        critic = {id(p) for p in self.critic.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in critic]

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.critic.parameters())

    def features(self, observation: Any) -> Tensor:
        """Observations ``[N, ...]`` as rows of numbers ``[N, F]``, float32."""
        tensor = torch.as_tensor(observation, device=self.device)
        if isinstance(self.observation_space, gym.spaces.Discrete):
            index = tensor.long() - int(self.observation_space.start)
            return nn.functional.one_hot(index, int(self.observation_space.n)).float()
        return tensor.float().reshape(len(tensor), -1)  # a Box may be a single number

    def distribution(self, features: Tensor) -> Distribution:
        """π(·|s) for features ``[..., F]``."""
        outputs = self.actor(features)
        if self.discrete:
            return Categorical(logits=outputs, validate_args=False)
        normal = Normal(outputs, self.log_std.exp().expand_as(outputs), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        state: None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Choose actions ``[B, ...]``; see `CausalLMPolicy.act`. There is no state."""
        features = self.features(observation)
        outputs = self.actor(features)
        values = self.critic(features)[:, 0]
        if self.discrete:
            log_probs = outputs.log_softmax(dim=-1)
            actions = log_probs.argmax(-1) if deterministic else draw(log_probs, self.generator)
            return actions, log_probs.gather(1, actions[:, None])[:, 0], values, None
        noise = torch.zeros_like(outputs)
        if not deterministic:
            noise.normal_(generator=self.generator)
        log_probs = (-0.5 * noise.square() - self.log_std - 0.5 * np.log(2 * np.pi)).sum(dim=-1)
        actions = outputs + noise * self.log_std.exp()
        return actions.reshape(-1, *self.action_shape), log_probs, values, None

    @torch.no_grad()
    def predict_values(self, observation: Any) -> Tensor:
        """V(s) ``[B]``."""
        return self.critic(self.features(observation))[:, 0]

    def evaluate_values(self, batch: Steps) -> Tensor:
        """V ``[B, T]``, with gradients to the critic."""
        return self.critic(self.features_of_steps(batch))[..., 0]

    def features_of_steps(self, batch: Steps) -> Tensor:
        """The features ``[B, T, F]`` of all steps. Those that do not count are computed as well:
        with such small networks this is faster than selecting the others, and the reductions ignore
        them."""
        return self.features(batch.observations.flatten(end_dim=1)).unflatten(0, batch.mask.shape)

    def evaluate(self, batch: Steps, entropy: bool = False) -> Evaluation:
        """The steps of a batch with gradients; see `CausalLMPolicy.evaluate`."""
        features = self.features_of_steps(batch)
        distribution = TorchDistribution(self.distribution(features))
        shape = batch.mask.shape
        flat = batch.actions if self.discrete else batch.actions.reshape(*shape, -1)
        log_probs, entropies = distribution.log_probs(flat, entropy)
        return Evaluation(log_probs, self.critic(features)[..., 0], entropies, distribution)

    def is_batched(self, observation: Any) -> bool:
        return np.ndim(observation) > len(self.observation_space.shape or ())


def _mlp(sizes: Sequence[int], last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        linear = nn.Linear(inputs, outputs, dtype=torch.float32)
        last = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_gain if last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


def _check_spaces(observations: gym.Space, actions: gym.Space) -> None:
    """Raise an error for spaces that these networks do not suit."""
    if isinstance(observations, gym.spaces.Dict) and "input_ids" in observations.spaces:
        raise ValueError(
            "MlpPolicy reads no tokens, and this environment generates text: use 'CausalLMPolicy'."
        )
    if not isinstance(observations, gym.spaces.Box | gym.spaces.Discrete):
        raise ValueError(
            f"MlpPolicy reads Box and Discrete observations, not {observations}: wrap the "
            "environment in gymnasium.wrappers.FlattenObservation."
        )
    if isinstance(observations, gym.spaces.Box) and len(observations.shape) > 2:
        raise ValueError(
            f"MlpPolicy reads vectors, but the observations {observations} look like images: pass "
            "a policy class of your own with a convolutional network (see agents.policies.base), "
            "or wrap the environment in gymnasium.wrappers.FlattenObservation."
        )
    if isinstance(actions, gym.spaces.Discrete) and actions.start != 0:
        raise ValueError(f"MlpPolicy counts actions from 0, but this is {actions}.")
    if not isinstance(actions, gym.spaces.Box | gym.spaces.Discrete):
        raise ValueError(f"MlpPolicy knows Discrete and Box actions, not {actions}.")
    if isinstance(actions, gym.spaces.Box) and not np.issubdtype(actions.dtype, np.floating):
        raise ValueError(
            f"MlpPolicy draws real numbers, but the actions {actions} are whole ones: wrap the "
            "environment in gymnasium.wrappers.TransformAction, with a Discrete space."
        )


def _check_sizes(net_arch: Any) -> None:
    """Raise an error for anything but sizes of layers."""
    sizes = () if isinstance(net_arch, Mapping | str) else net_arch
    whole = isinstance(sizes, Iterable) and all(size in Range(1, whole=True) for size in sizes)
    if not whole or sizes is not net_arch:
        raise ValueError(
            f"net_arch={net_arch!r} must be the sizes of the hidden layers, of both networks, such "
            "as (64, 64)."
        )
