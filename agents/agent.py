"""Agent: the surface that users of stable-baselines3 know, over any policy and environment."""

from __future__ import annotations

import importlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger
from torch import Tensor, nn

from agents import checkpoint, policies
from agents.progress import ProgressBar
from agents.rollout import Batch, Rollout, StepCollector, Stopped, collect_episodes
from textenv.vector_env import TextGenVectorEnv

Schedule = Callable[[float], float]  # of the progress remaining, from 1 down to 0


class Agent:
    """Base of all algorithms: collects rollouts and hands them to ``update``.

    An algorithm implements ``update(rollout) -> metrics`` and, for `descend`,
    ``loss(batch) -> (loss, metrics)``. It knows nothing of text.

    Args:
        policy: "CausalLMPolicy", "MlpPolicy", or a class like these.
        env: a vector environment, an environment, or an id (made with ``n_envs`` and
            ``env_kwargs``). A native text environment is switched to ``scoring="batch"`` and torch
            arrays, the fast way to drive it, and the log says so; wrapped ones are driven as they
            are.
        learning_rate: of AdamW, a number or a function of the progress remaining (1 to 0).
        n_steps: steps of each row in one rollout. None means whole episodes for text in batch mode,
            128 elsewhere.
        batch_size: rows per optimiser step, which are episodes of text, or single steps of anything
            else. None means all at once.
        micro_batch_size: rows per backward pass, for models that would not fit otherwise. The
            gradient is that of the whole batch.
        max_grad_norm: gradients are clipped to this norm; None leaves them.
        weight_decay: of AdamW.
        group_size: consecutive rows that begin with the same prompt.
        n_envs, env_kwargs: used when ``env`` is an id.
        policy_kwargs: arguments of the policy, such as ``{"model": "smollm2"}``.
        tensorboard_log: folder for TensorBoard.
        verbose: 1 prints a table after each rollout, 0 nothing.
        seed: of environment, actions, minibatches and new weights. None leaves them to chance; the
            world's global generators are never seeded.
        device: "auto", "cpu", "cuda", ...
    """

    learned: ClassVar[tuple[str, ...]] = ()  # an algorithm's own numbers that learning changes
    policy_needs: ClassVar[dict[str, Any]] = {}  # what it needs of a language model's policy

    def __init__(
        self,
        policy: str | type[nn.Module],
        env: str | gym.Env | VectorEnv,
        *,
        learning_rate: float | Schedule,
        n_steps: int | None = None,
        batch_size: int | None = None,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        group_size: int = 1,
        n_envs: int = 64,
        env_kwargs: Mapping[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: str | torch.device = "auto",
    ):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.learning_rate, self.n_steps, self.batch_size = learning_rate, n_steps, batch_size
        self.micro_batch_size, self.max_grad_norm = micro_batch_size, max_grad_norm
        self.weight_decay, self.tensorboard_log = weight_decay, tensorboard_log
        self.group_size, self.verbose, self.seed = group_size, verbose, seed
        self.policy_class = getattr(policies, policy) if isinstance(policy, str) else policy
        self.policy_kwargs = dict(policy_kwargs or {})
        self.env = self._prepared(env, n_envs, dict(env_kwargs or {}))

        keywords = {"device": self.device, **self.policy_kwargs}
        if getattr(self.policy_class, "sequential", False):
            keywords = {**self.policy_needs, **keywords}
        if seed is not None and "seed" in inspect.signature(self.policy_class).parameters:
            keywords.setdefault("seed", seed)
        self.policy = self.policy_class(
            self.env.single_observation_space, self.env.single_action_space, **keywords
        )
        self._bind()
        self.optimizer = torch.optim.AdamW(
            self.trained_parameters(),
            lr=self._now(learning_rate, 1.0),
            eps=1e-5,  # as in the PPO of OpenAI's baselines
            fused=True,  # one kernel instead of a dozen a parameter
            weight_decay=weight_decay,
        )
        self.generator = torch.Generator()  # of minibatches
        fresh = np.random.SeedSequence(seed).generate_state(3)
        self.policy.seed(int(fresh[0]))
        self.generator.manual_seed(int(fresh[1]))
        self._env_seed = int(fresh[2] % 2**31) if seed is None else seed
        self._collector: StepCollector | None = None
        self._begun = False
        self.num_timesteps = 0
        self.progress_remaining = 1.0
        self._logger: Logger | None = None

    # --- what an algorithm implements -------------------------------------------------------

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout; returns metrics for the log."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of a batch, a scalar to descend, and metrics.

        All of them are divided by the counts of the batch (``num_steps``, ``num_rows``) and so add
        up over its micro-batches.
        """
        raise NotImplementedError

    # --- what an algorithm uses -------------------------------------------------------------

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def descend(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on ``self.loss``, in micro-batches if these were asked for."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for part in batch.micro_batches(self.micro_batch_size):
            loss, metrics = self.loss(part)
            loss.backward(inputs=self.optimizer.param_groups[0]["params"])
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        sums["grad_norm"] = float(self.clip_gradients())
        if not math.isfinite(sums["grad_norm"]):
            raise FloatingPointError(
                f"The gradient is not finite after {self.num_timesteps} timesteps: lower "
                "learning_rate, or look for infinite rewards."
            )
        self.optimizer.step()
        return sums

    def descend_all(
        self, rollout: Rollout, columns: Mapping[str, Tensor], n_epochs: int = 1
    ) -> dict[str, float]:
        """`descend` on minibatches of ``batch_size`` rows; the metrics' means.

        Before the first step π is π_old, so a ``first_approx_kl`` other than 0 is a fault, or
        rounding.
        """
        metrics = [
            self.descend(batch)
            for _ in range(n_epochs)
            for batch in rollout.batches(self.batch_size, self.generator, **columns)
        ]
        return mean_metrics(metrics)

    def clip_gradients(self) -> Tensor:
        """Clip the gradients to ``max_grad_norm``; returns their norm before."""
        parameters = self.optimizer.param_groups[0]["params"]
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        return nn.utils.clip_grad_norm_(parameters, limit)

    def scheduled(self, value: float | Schedule) -> float:
        """A hyper-parameter at the present progress."""
        return self._now(value, self.progress_remaining)

    @staticmethod
    def _now(value: float | Schedule, progress_remaining: float) -> float:
        return float(value(progress_remaining) if callable(value) else value)

    # --- learning ---------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callable | BaseCallback | list[BaseCallback] | None = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Collect and update until ``total_timesteps`` steps (tokens, for text) were taken.

        Args:
            total_timesteps: at least so many; the last rollout is finished.
            callback: of stable-baselines3, or a function ``(locals, globals) -> bool``.
            log_interval: rollouts between two entries of the log.
            tb_log_name: name of the run for TensorBoard; the algorithm's name by default.
            reset_num_timesteps: False goes on counting, as after `load`.
            progress_bar: show one, with steps per second, score, KL and episode length.
        """
        if reset_num_timesteps:
            self.num_timesteps = 0
        target = self.num_timesteps + total_timesteps  # schedules run up to it, as in SB3
        if self._logger is None:
            self._logger = configure_logger(
                self.verbose, self.tensorboard_log, tb_log_name or type(self).__name__,
                reset_num_timesteps,
            )  # fmt: skip
        callback = self._as_callback(callback)
        callback.on_training_start(locals(), globals())
        started, before, iteration = time.perf_counter(), self.num_timesteps, 0
        bar = ProgressBar(total_timesteps) if progress_bar else nullcontext()
        try:
            with bar:
                while self.num_timesteps < target:
                    self.progress_remaining = 1 - self.num_timesteps / target
                    for group in self.optimizer.param_groups:
                        group["lr"] = self.scheduled(self.learning_rate)
                    callback.on_rollout_start()
                    began = time.perf_counter()
                    rollout = self.collect(on_step=callback.on_step)
                    collected = time.perf_counter()
                    callback.update_locals(locals())
                    callback.on_rollout_end()
                    metrics = self.update(rollout)
                    iteration += 1
                    seconds = time.perf_counter() - started
                    record = {
                        **_episode_means(rollout),
                        **{f"train/{name}": value for name, value in metrics.items()},
                        "train/learning_rate": self.optimizer.param_groups[0]["lr"],
                        "time/fps": (self.num_timesteps - before) / seconds,
                        "time/rollout_fps": rollout.num_steps / (collected - began),
                        "time/iterations": iteration,
                        "time/time_elapsed": seconds,
                        "time/total_timesteps": self.num_timesteps,
                    }
                    for name, value in record.items():
                        self._logger.record(name, value)
                    if iteration % log_interval == 0:
                        self._logger.dump(step=self.num_timesteps)
                    if progress_bar:
                        bar.show(self.num_timesteps - before, record)
        except Stopped:
            pass
        self.progress_remaining = 0.0
        callback.on_training_end()
        return self

    def collect(self, on_step: Callable[[], bool] | None = None) -> Rollout:
        """One rollout with the present policy; counts its steps.

        In reduced precision the log-probabilities of the rollout come from `evaluate`, so that the
        first minibatch's ratio is 1 there, too.
        """
        if self.scores_batches:
            seed = None if self._begun else self._env_seed
            self._begun = True
            rollout = collect_episodes(self.env, self.policy, on_step, seed)
        else:
            if self._collector is None:
                self._collector = StepCollector(self.env, self._env_seed)
            rollout = self._collector.collect(self.policy, self.n_steps or 128, on_step)
            while rollout.num_steps == 0:  # NEXT_STEP has spent all of them on resetting
                rollout = self._collector.collect(self.policy, self.n_steps or 128, on_step)
        if self.policy.rounds:
            self._evaluate_old(rollout)
        self.num_timesteps += rollout.num_steps
        return rollout

    @torch.no_grad()
    def _evaluate_old(self, rollout: Rollout) -> None:
        size = self.micro_batch_size or self.batch_size or len(rollout.mask)
        rollout.rounding = torch.zeros_like(rollout.log_probs)
        for batch, rows in _chunks(rollout, size):
            evaluation = self.policy.evaluate(batch.observations, batch.actions, batch.mask)
            rollout.rounding[rows] = (evaluation.log_probs - batch.log_probs).abs()
            rollout.log_probs[rows] = evaluation.log_probs

    @property
    def scores_batches(self) -> bool:
        """Whether the environment is a native text environment in its fast mode."""
        return isinstance(self.env, TextGenVectorEnv) and self.env.scoring == "batch"

    # --- acting -----------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them, as stable-baselines3 has it.

        Returns:
            actions as numpy, and the state to hand in at the next call.
        """
        batched = self.policy.is_batched(observation)
        if not batched:
            if isinstance(observation, dict):
                observation = {key: np.asarray(value)[None] for key, value in observation.items()}
            else:
                observation = np.asarray(observation)[None]
        actions, _, _, state = self.policy.act(observation, state, episode_start, deterministic)
        actions = actions.cpu().numpy()
        space = self.env.single_action_space
        if isinstance(space, gym.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        return (actions if batched else actions[0]), state

    # --- saving -----------------------------------------------------------------------------

    def save(self, path: str | Path, optimizer: bool = True) -> None:
        """Write the agent to a folder; a language model in it opens with `from_pretrained`.

        Args:
            path: the folder.
            optimizer: also write the state of the optimiser and of the generators that draw actions
                and minibatches, so that learning goes on as it was; the environment's prompts are
                drawn anew. They take twice the model's size.
        """
        checkpoint.save(self, Path(path), optimizer)

    @classmethod
    def load(cls, path: str | Path, env: str | gym.Env | VectorEnv, **changes: Any) -> Self:
        """Open a saved agent.

        Args:
            path: the folder.
            env: as in the constructor.
            changes: hyper-parameters that differ from the saved ones.
        """
        return checkpoint.load(cls, Path(path), env, changes)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that made this agent, as far as they are data."""
        names = {
            name
            for kind in type(self).__mro__[:-1]
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        } - {"n_envs", "env_kwargs", "policy_kwargs", "device"}
        return {name: getattr(self, name) for name in sorted(names)}

    # --- environment and log ----------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """Where `learn` writes: stdout, CSV, TensorBoard, as set up."""
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Use a logger of stable-baselines3 (`stable_baselines3.common.logger.configure`)."""
        self._logger = logger

    def get_env(self) -> VectorEnv:
        return self.env

    def get_vec_normalize_env(self) -> None:
        """Asked by callbacks of stable-baselines3; nothing is normalised here."""

    def _prepared(self, env: Any, n_envs: int, env_kwargs: dict[str, Any]) -> VectorEnv:
        made_here = isinstance(env, str)
        if made_here:
            module, _, env = env.rpartition(":")  # "package:Id-v0", as gym.make takes it
            if module:
                importlib.import_module(module)
            if _is_native_text(env):
                env_kwargs.setdefault("device", str(self.device))
                env_kwargs.setdefault("group_size", self.group_size)
            if gym.spec(env).vector_entry_point is None:
                # NEXT_STEP, the default, would spend a step on each reset.
                env_kwargs.setdefault("vector_kwargs", {"autoreset_mode": AutoresetMode.SAME_STEP})
            env = gym.make_vec(env, num_envs=n_envs, **env_kwargs)
        if isinstance(env, gym.Env):
            single = env
            env = gym.vector.SyncVectorEnv([lambda: single], autoreset_mode=AutoresetMode.SAME_STEP)
        of_groups = getattr(env.unwrapped, "group_size", self.group_size)
        if of_groups != self.group_size:
            raise ValueError(
                f"This agent compares groups of {self.group_size}, but the environment has "
                f"group_size={of_groups}: give both the same."
            )
        if env.num_envs % self.group_size:
            raise ValueError(
                f"The environment's {env.num_envs} rows are no multiple of group_size="
                f"{self.group_size}."
            )
        if env is not env.unwrapped and getattr(env.unwrapped, "scoring", "step") == "batch":
            raise ValueError(
                "A wrapped text environment is driven step by step: make it with scoring='step', "
                "or pass it unwrapped."
            )
        if isinstance(env, TextGenVectorEnv):
            if not made_here and self.verbose and env.scoring != "batch":
                print("Driving the text environment with scoring='batch' and torch arrays.")
            env.reconfigure(AutoresetMode.DISABLED, "batch", "torch", self.device, copy=False)
        return env

    def _bind(self) -> None:
        """Let text environments read the policy's log-probabilities, for KL shaping."""
        for env in (self.env, *getattr(self.env.unwrapped, "envs", ())):
            if hasattr(env.unwrapped, "bind"):
                env.unwrapped.bind(self.policy)

    def _as_callback(self, callback: Any) -> BaseCallback:
        if isinstance(callback, list):
            callback = CallbackList(callback)
        elif not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        callback.init_callback(self)
        return callback


def _is_native_text(env_id: str) -> bool:
    """Whether an id, one of a user's own included, makes a `TextGenVectorEnv`."""
    entry_point = gym.spec(env_id).vector_entry_point
    if isinstance(entry_point, str):
        entry_point = gym.envs.registration.load_env_creator(entry_point)
    return isinstance(entry_point, type) and issubclass(entry_point, TextGenVectorEnv)


def _chunks(rollout: Rollout, size: int) -> Iterator[tuple[Batch, Tensor]]:
    whole = rollout.batch()
    for rows in torch.arange(len(whole), device=whole.mask.device).split(size):
        yield whole.take(rows), rows


def _episode_means(rollout: Rollout) -> dict[str, float]:
    """Means over the episodes that ended in a rollout, under the names of stable-baselines3."""
    names = {"return": "ep_rew_mean", "length": "ep_len_mean", "score": "score_mean", "kl": "kl"}
    means = {
        f"rollout/{name}": float(np.mean(rollout.episodes[key]))
        for key, name in names.items()
        if rollout.episodes.get(key)
    }
    if rollout.rounding is not None:
        means["rollout/rounding"] = float(rollout.rounding.sum() / rollout.mask.sum())
    return means


def mean_metrics(metrics: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over optimiser steps; of the KL to π_old the first one as well."""
    means = {name: sum(entry[name] for entry in metrics) / len(metrics) for name in metrics[0]}
    if "approx_kl" in means:
        means["first_approx_kl"] = metrics[0]["approx_kl"]
    return means
