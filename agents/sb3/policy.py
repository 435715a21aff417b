"""A causal language model as an actor-critic policy of stable-baselines3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor, nn

from agents.policies.base import Evaluation
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.decoding import Caches
from agents.sb3.actions import CHANGED, PolicyTensor
from textenv.lm.early_stops import KEYS, forbid
from textenv.lm.loading import new_model

CACHES = 4  # learning and predicting, in environments of two sizes
LEAST = -1e8  # logits of illegal tokens in SB3's distributions, which cannot compute with -inf


class LiveModel:
    """A live model for ``policy_kwargs``, of which the zip of stable-baselines3 holds the config.

    The weights are in the zip already, as those of the policy.

    Args:
        model: a causal language model of transformers, without a wrapper.

    Raises:
        TypeError: it is none.
    """

    def __init__(self, model: Any):
        if not hasattr(type(model), "_from_config"):
            raise TypeError(
                f"LiveModel takes a model of transformers, not a {type(model).__name__}: for "
                "adapters give the plain model, and lora= in policy_kwargs."
            )
        self.model = model

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self.model), self.model.config)


def _rebuilt(cls: type, config: Any) -> LiveModel:
    return LiveModel(new_model(cls, config))


class CausalLMMembers(BasePolicy):
    """What the policies for stable-baselines3 and for sb3-contrib have in common.

    `agents.policies.causal_lm.CausalLMPolicy`, the attribute ``lm``, does the work. It keeps the
    keys and values of what it has seen: SB3 passes no state from step to step, so the caches are
    kept here until the weights change.

    Args:
        observation_space, action_space, lr_schedule: SB3 passes them.
        model: a source as in `textenv.lm.loading`, or a `LiveModel`.
        temperature, banned_tokens, attn_implementation, critic_layers, lora: as of
            `CausalLMPolicy`.
        optimizer_class, optimizer_kwargs: as of SB3's policies. The optimiser gets the weights that
            learn; under ``lora`` these are the adapters and the critic.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Any,
        use_sde: bool = False,  # only for continuous actions, as SB3's algorithms check
        *,
        model: Any = "bundled",
        temperature: float = 1.0,
        banned_tokens: Sequence[int] = (),
        attn_implementation: str | None = None,
        critic_layers: int = 0,
        lora: int | Mapping[str, Any] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        if isinstance(model, nn.Module):
            raise ValueError(
                f"model is a live {type(model).__name__}, whose weights stable-baselines3 would "
                "save twice: pass agents.sb3.LiveModel(model), or the folder or id of a model."
            )
        # The base class calls `_build` before its own constructor has returned.
        self.lm_kwargs = {
            "model": model, "temperature": temperature, "banned_tokens": banned_tokens,
            "attn_implementation": attn_implementation, "critic_layers": critic_layers,
            "lora": lora,
        }  # fmt: skip
        optimizing: dict[str, Any] = {
            "optimizer_class": optimizer_class,
            "optimizer_kwargs": optimizer_kwargs,
        }
        super().__init__(observation_space, action_space, lr_schedule, **optimizing)

    def __getattr__(self, name: str) -> Any:
        if name == "q_net":  # which DQN asks for
            raise AttributeError(
                f"{type(self).__name__} has no Q-values, which DQN learns: use an algorithm that "
                "learns on-policy, such as PPO or A2C."
            )
        return super().__getattr__(name)

    def _build(self, lr_schedule: Any) -> None:
        model = self.lm_kwargs["model"]
        kwargs: dict[str, Any] = self.lm_kwargs | {"model": getattr(model, "model", model)}
        self.lm = CausalLMPolicy(self.observation_space, self.action_space, **kwargs)
        self._caches: dict[Any, Caches] = {}
        self._weights: Any = None  # those that the caches belong to
        self._follow_device()
        learning: Any = [weight for weight in self.lm.parameters() if weight.requires_grad]
        rate: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(learning, **rate)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.lm_kwargs,
        }

    def to(self, *args: Any, **kwargs: Any) -> Any:
        super().to(*args, **kwargs)
        self._follow_device()
        return self

    def _follow_device(self) -> None:
        """Act where the weights are, by the global random state, which SB3 seeds."""
        self.lm.device = device = next(self.lm.parameters()).device
        generators: Any = torch.cuda.default_generators
        on_cuda = device.type == "cuda"
        self.lm.generator = generators[device.index or 0] if on_cuda else torch.default_generator

    def set_training_mode(self, mode: bool) -> None:
        """Dropout stays off while learning, too, so that the first ratio is 1."""
        self.train(False)

    # --- acting -----------------------------------------------------------------------------

    def _act(
        self, purpose: str, obs: Mapping[str, Any], deterministic: bool, action_masks: Any
    ) -> tuple[PolicyTensor, Tensor, Tensor]:
        """Actions, values ``[B, 1]`` and log-probabilities ``[B]``, from the cache of a purpose."""
        _check_layout(obs)
        weights = [(weight.data_ptr(), weight._version) for weight in self.lm.parameters()]
        if weights != self._weights:
            self._weights, self._caches = weights, {}
        key = purpose, tuple(obs["input_ids"].shape)
        state = self._caches.pop(key, None)
        actions, log_probs, values, state = self.lm.act(
            dict(obs), state, None, deterministic, action_masks
        )
        self._caches[key] = state  # the latest is last
        if len(self._caches) > CACHES:
            del self._caches[next(iter(self._caches))]
        return PolicyTensor.of(actions, self.lm, obs["input_ids"]), values[:, None], log_probs

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B]``, values ``[B, 1]`` and log π ``[B]`` in nats, without gradient."""
        return self._act("learn", obs, deterministic, action_masks)

    def _predict(
        self, observation: Any, deterministic: bool = False, action_masks: Any = None
    ) -> Tensor:
        return self._act("predict", observation, deterministic, action_masks)[0]

    # --- learning ---------------------------------------------------------------------------

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values ``[N, 1]``, log π and the entropy ``[N]`` of N single steps, with gradient."""
        now = self.lm.evaluate(_steps(obs, actions), entropy=action_masks is None)
        if now.entropy is not None:
            return now.values, now.log_probs[:, 0], now.entropy[:, 0]
        masked = self._distribution(now, action_masks)
        return now.values, masked.log_prob(actions), masked.entropy()

    def predict_values(self, obs: Any) -> Tensor:
        """V(s) ``[N, 1]``, with gradient to the critic: the value head, and a body of its own."""
        return self.lm.evaluate_values(_steps(obs))

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """π(·|s) of N states as a distribution of SB3, with gradient."""
        return self._distribution(self.lm.evaluate(_steps(obs)), action_masks)

    def _distribution(self, evaluation: Evaluation, action_masks: Any) -> Any:
        tokens: Any = evaluation.distribution
        logits = tokens.sampling.apply(tokens.head(tokens.hidden), tokens.early)
        if action_masks is not None:
            logits = forbid(logits, ~torch.as_tensor(action_masks, dtype=torch.bool))
        action_dist: Any = self.action_dist
        return action_dist.proba_distribution(action_logits=logits.clamp(min=LEAST))


@dataclass
class _Steps:
    """N single steps; actions and mask are ``[N, 1]``."""

    observations: dict[str, Tensor]
    actions: Tensor
    mask: Tensor


def _steps(obs: Any, actions: Tensor | None = None) -> _Steps:
    """The input of `CausalLMPolicy.evaluate` for N single steps and their actions ``[N]``, None for
    any. SB3's buffer keeps observations as floats."""
    steps = {key: obs[key].long() for key in ("input_ids", *KEYS) if key in obs}
    steps["prompt_lengths"] = lengths = obs["attention_mask"].sum(dim=1).long()
    chosen = torch.zeros_like(lengths) if actions is None else actions.long()
    mask = torch.ones((len(lengths), 1), dtype=torch.bool, device=lengths.device)
    return _Steps(steps, chosen[:, None], mask)


def _check_layout(obs: Mapping[str, Tensor]) -> None:
    """Raise a ValueError for observations that are no longer those of a text environment."""
    ids, mask = obs["input_ids"], obs["attention_mask"]
    if (
        ids.is_floating_point()
        or ids.shape != mask.shape
        or bool((mask[:, 1:] > mask[:, :-1]).any())
    ):
        raise ValueError(
            "The observations are not those of a text environment, whose tokens are whole numbers "
            f"from the first column on: {CHANGED}"
        )


class SB3CausalLMPolicy(CausalLMMembers, ActorCriticPolicy):
    """A causal language model for PPO, A2C and TRPO of stable-baselines3 and sb3-contrib.

        from stable_baselines3 import PPO

        env = text_vec_env("TextGen-v0", n_envs=64, reference="bundled", kl_coef=0.1)
        PPO(SB3CausalLMPolicy, env, policy_kwargs={"model": "bundled"}).learn(100_000)

    `CausalLMMembers` explains its arguments. Acting passes one new token per row to the model.
    SB3 learns from single steps in random order: those of a minibatch that are in one episode share
    a forward pass, so large minibatches are faster.
    """
