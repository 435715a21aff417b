"""Agent: the interface of stable-baselines3 for any policy and environment."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents import distributed, policies
from agents.experience import environments
from agents.experience.collect import make_collector
from agents.experience.rollout import Batch, Rollout, joined
from agents.experience.steps import OnStep, Stopped
from agents.experience.undo import undone_by_errors
from agents.functional import surrogates
from agents.policies.base import Evaluation, Policy
from agents.saving import agent_folder, resume
from agents.sb3.callbacks import StepReport, as_callback, needs_steps
from agents.sb3.interface import SB3Interface
from agents.training import optimization
from agents.training.device import find_device
from agents.training.hyperparameters import AUTO, Schedule, fill_in
from agents.training.metrics import log_entry, mean_metrics, speed
from agents.training.progress import ProgressBar
from textenv.arguments import Arguments, Range, as_path, check_ranges, unknown_argument

SHARDS = ("auto", "none", "full")
SHARDED_FROM = 1e9  # parameters that learn; with their moments 16 GB in float32

ONE_STEP = (
    " It takes one optimiser step on each rollout, because a second one needs importance weights: "
    "micro_batch_size saves memory, and PPO takes several steps."
)


class Agent(SB3Interface, Arguments):
    """Base class of all algorithms: collects rollouts and passes them to ``update``.

    An algorithm is a class with fields, which are its hyper-parameters; it implements
    ``update(rollout) -> metrics`` and, for `optimize`, ``loss(batch)``. It does not depend on text.
    Arguments that are ``"auto"`` are filled in from `agents.training.presets`, for the given policy
    and model. A field with ``init=False`` is no argument, but state that updates change; it is
    saved.

    A program that ``torchrun`` starts several times learns with all its processes
    (`agents.distributed`): each collects in its part of the ``n_envs`` rows, and all take the same
    steps, on ``batch_size`` rows of all. The first one alone logs and saves. Callbacks are
    called in each of them: one that writes files should do so where `distributed.is_main` holds.
    """

    policy: Any = field(kw_only=False)
    '"CausalLMPolicy", "MlpPolicy", or a policy class (see `agents.policies.base`).'
    env: Any = field(kw_only=False)
    """A vector environment, an environment, or an id (made with ``n_envs`` and ``env_kwargs``, a
    text environment with the policy's tokenizer). A native text environment is switched to its
    fast mode, which is logged; all others are used as they are."""
    learning_rate: Annotated[float | Schedule, Range(0)] = AUTO
    "Of AdamW, a number or a function of the remaining progress (1 to 0)."
    lr_schedule: str = AUTO
    '"constant", "linear" or "cosine"; the last two end at 0 with `learn`.'
    n_steps: Annotated[int | None, Range(1)] = AUTO
    "Steps of each row in one rollout; not used for whole episodes of text."
    gamma: Annotated[float, Range(0, 1)] = AUTO
    "Discount; 1 for text, where only the end is scored."
    micro_batch_size: Annotated[int | None, Range(1)] = None
    """Rows per backward pass, to save memory with large models. The gradient is that of the whole
    batch."""
    max_grad_norm: Annotated[float | None, Range(above=0)] = AUTO
    """The gradient of each group of parameters (the critic's own are one where they have a learning
    rate of their own) is clipped to this norm; None does not clip."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    "Of AdamW."
    adam_epsilon: Annotated[float, Range(above=0)] = AUTO
    "Of AdamW; where gradients are smaller than this, steps are small too."
    group_size: Annotated[int, Range(1)] = 1
    "Number of consecutive rows that begin with the same prompt."
    n_envs: Annotated[int, Range(1)] = AUTO
    """Rows of an environment that is made from an id. Several processes have so many rows together;
    an environment that is given is one process's own part."""
    env_kwargs: Mapping[str, Any] | None = None
    "Arguments of an environment that is made from an id."
    policy_kwargs: Mapping[str, Any] | None = None
    'Arguments of the policy, such as ``{"model": "smollm2"}``.'
    tensorboard_log: str | None = None
    "Folder for TensorBoard."
    verbose: Annotated[int, Range(0)] = 0
    "1 prints a table after each rollout, 0 nothing."
    seed: Annotated[int | None, Range(0, 2**32 - 1)] = None
    """Of environment, actions, minibatches and new weights. None makes them random; the global
    random state is never changed."""
    device: str | torch.device = "auto"
    '"auto", "cpu", "cuda", ...'
    shard: str = "auto"
    """Where several processes learn all weights of a language model: "none" keeps the weights,
    gradients and moments of the optimiser whole in each of them, "full" a part of each layer's
    (FSDP2). "auto" is "full" from a billion parameters on."""

    policy_needs: ClassVar[dict[str, Any]] = {}  # arguments for a language model's policy
    needs_whole_weights_for: ClassVar[str] = ""  # what sharded ones do not have
    compares_groups: ClassVar[bool] = False  # whether a group_size of 1 makes no sense

    def __new__(cls, *positional: Any, **named: Any) -> Self:
        if len(positional) > 2:
            raise TypeError(
                f"{cls.__name__} takes a policy and an environment by their places, and everything "
                f"else by its name: write learning_rate={positional[2]!r}, say."
            )
        known = {each.name for each in fields(cls)}
        for name in {"batch_size", "n_epochs"} & named.keys() - known:
            raise TypeError(unknown_argument(cls.__name__, name, ()) + ONE_STEP)
        return super().__new__(cls, *positional, **named)

    def __post_init__(self) -> None:
        SB3Interface.__init__(self)
        self.policy_class = policies.find(self.policy)
        self.policy_kwargs = dict(self.policy_kwargs or {})
        fill_in(self)
        self.check()
        self.anneal = optimization.lr_schedule(self.lr_schedule)
        self.device = find_device(self.device)
        if isinstance(self.env, str):
            self.n_envs = distributed.local_rows("n_envs", self.n_envs, self.group_size)
        self.env = environments.for_agent(
            self.env, self.policy_class, self.policy_kwargs, self.n_envs, self.env_kwargs,
            self.group_size, self.device,
        )  # fmt: skip
        self.n_envs = self.env.num_envs
        self.policy = policies.make(
            self.policy_class, self.env, self.policy_needs, self.policy_kwargs, self.seed,
            self.device, environments.reference(self.env),
        )  # fmt: skip
        environments.bind(self.env, self.policy)
        if self._shards():
            self.policy.shard()
        self.optimizer = optimization.make_optimizer(
            self.trained_parameters(), self.learning_rate, self.weight_decay, self.adam_epsilon
        )
        self.generator = torch.Generator()  # for minibatches
        place = () if distributed.is_main() else (distributed.rank(),)
        fresh = np.random.SeedSequence(self.seed, spawn_key=place).generate_state(3)
        self.policy.seed(int(fresh[0]))
        self.generator.manual_seed(int(fresh[1]))
        env_seed = int(fresh[2] % 2**31) if self.seed is None else self.seed
        self.collector = make_collector(self.env, env_seed + distributed.rank() * self.n_envs)
        self.num_timesteps, self.num_rollouts, self.learning_seconds = 0, 0, 0.0
        self.progress_remaining, self.between_rollouts = 1.0, True
        self.whole_optimizer: dict[str, Tensor] | None = None
        self.gather()

    def _shards(self) -> bool:
        """Whether the weights that learn are sharded among several processes."""
        if self.shard not in SHARDS:
            raise ValueError(f"shard={self.shard!r} is unknown: use one of {', '.join(SHARDS)}.")
        if self.shard == "full" and self.needs_whole_weights_for:
            raise ValueError(
                f"shard='full': {type(self).__name__} needs {self.needs_whole_weights_for}, "
                "which sharded weights do not have; use shard='none'."
            )
        if distributed.process_count() == 1 or self.shard == "none" or self.needs_whole_weights_for:
            return False
        learning = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        large = learning >= SHARDED_FROM and self.policy.shardable
        return self.shard == "full" or large

    def gather(self) -> None:
        """Where weights are sharded: renew the whole ones that act, and all that the first process
        saves, which it then can at any time, also if it is the last one. All processes call it."""
        if self.policy.sharded:
            optimizer = resume.of_optimizer(self.optimizer)
            self.policy.gather_weights()
            self.whole_optimizer = optimizer

    def check(self) -> None:
        """Raise a ValueError for hyper-parameters out of their range, or that do not fit together;
        its message names the argument, its value and what is allowed."""
        check_ranges(type(self), vars(self))
        if self.compares_groups and self.group_size < 2:
            raise ValueError(
                f"group_size={self.group_size} must be at least 2: {type(self).__name__} compares "
                "the answers to a prompt."
            )

    def __repr__(self) -> str:
        policy, env = type(self.policy).__name__, getattr(self.env, "spec", None)
        where = getattr(env, "id", None) or type(self.env.unwrapped).__name__
        return (
            f"{type(self).__name__}({policy}, {where}, n_envs={self.n_envs}, seed={self.seed}, "
            f"device={str(self.device)!r}): {self.num_timesteps} timesteps in "
            f"{self.num_rollouts} rollouts"
        )

    # --- what an algorithm implements -------------------------------------------------------

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout; returns metrics for the log."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar to minimise, made of terms of `Batch.mean`."""
        raise NotImplementedError

    def trained_parameters(self) -> list[Any]:
        """The parameters that the optimiser changes, as `torch.optim.AdamW` takes them."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    # --- what an algorithm uses -------------------------------------------------------------

    def evaluate(self, batch: Batch, entropy: bool = False) -> Evaluation:
        """What the policy says now of the steps of a batch, with gradient (`Policy.evaluate`).

        How far π is from the policy that acted is noted for the log. In the only step on a rollout
        π_old is what π is evaluated as, and not as it acted in a reduced precision.
        """
        now = self.policy.evaluate(batch, entropy=entropy)
        with torch.no_grad():
            if batch.is_only_step:
                batch.mean("log_prob_mismatch", (now.log_probs - batch.old_log_probs).abs())
                batch.old_log_probs = now.log_probs.detach()
            batch.mean("approx_kl", surrogates.kl_old_new(now.log_probs, batch.old_log_probs))
            clip_range = getattr(self, "clip_range", None)
            if clip_range is not None:
                batch.means["clip_fraction"] = surrogates.clip_fraction(
                    now.log_probs, batch.old_log_probs, batch.mask, self.scheduled(clip_range),
                    getattr(self, "clip_range_high", None), counts=batch.counts,
                )  # fmt: skip
        return now

    def optimize(
        self,
        rollout: Rollout,
        n_epochs: int = 1,
        batch_size: int | None = None,
        stop: Callable[[dict[str, float]], bool] | None = None,
        **columns: Tensor,
    ) -> dict[str, float]:
        """Minimise ``self.loss`` by optimiser steps on minibatches of a rollout.

        Args:
            rollout: the experience.
            n_epochs: passes over it.
            batch_size: rows of a step; None takes all.
            stop: is told the metrics before each step; True takes no more.
            columns: further columns ``[B, T]`` of the batches, such as ``advantages``.

        Returns:
            Mean metrics of the steps.
        """
        only_step = n_epochs == 1 and rollout.is_one_batch(batch_size)
        self.use_right_log_probs(rollout, only_step)
        steps: list[dict[str, float]] = []
        for batch in (
            batch
            for _ in range(n_epochs)
            for batch in rollout.batches(batch_size, self.generator, self.group_size, **columns)
        ):
            batch.is_only_step = only_step and self.policy.reduced_precision
            metrics, goes_on = self.optimizer_step(batch, stop)
            steps.append(metrics)
            if not goes_on:
                break
        means = mean_metrics(steps)
        if "returns" in columns:
            means["explained_variance"] = rollout.explained_variance(columns["returns"])
        return means

    def optimizer_step(
        self, batch: Batch, stop: Callable[[dict[str, float]], bool] | None = None
    ) -> tuple[dict[str, float], bool]:
        """`optimization.optimizer_step` on ``self.loss``."""
        return optimization.optimizer_step(
            self.loss, batch, self.optimizer, self.micro_batch_size, self.max_grad_norm, stop
        )

    def parts(self, rollout: Rollout, **columns: Tensor) -> list[Batch]:
        """A rollout in parts that fit into memory, for sums (`agents.training.optimization`)."""
        self.use_right_log_probs(rollout, only_step=False)
        return optimization.in_parts(rollout.batch(**columns), self.micro_batch_size)

    def random_parts(self, rollout: Rollout, rows: int | None) -> list[Batch]:
        """`parts` of so many rows of all processes, chosen at random; None takes all."""
        batch = rollout.batch()
        share = None if rows is None else math.ceil(rows / distributed.process_count())
        chosen = torch.randperm(len(batch), generator=self.generator)[:share]
        return optimization.in_parts(
            batch.take(chosen.to(batch.mask.device)), self.micro_batch_size
        )

    def use_right_log_probs(self, rollout: Rollout, only_step: bool) -> None:
        """See to it that the first ratio is 1 in a reduced precision: before several steps log
        π_old has to come from `Policy.evaluate`. A single step finds it itself (`evaluate`)."""
        known = rollout.log_prob_mismatch is not None
        if self.policy.reduced_precision and not only_step and not known:
            at_once = self.micro_batch_size or getattr(self, "batch_size", None)
            with distributed.raise_in_all_processes():
                rollout.use_evaluated_log_probs(self.policy, at_once)

    def kl_to_old_policy(self, rollout: Rollout) -> float:
        """KL(π_old‖π), nats per step, with the current weights."""

        def kl(part: Batch) -> list[Tensor]:
            self.evaluate(part)
            return [part.means["approx_kl"]]

        at_once = self.micro_batch_size or getattr(self, "batch_size", None)
        with torch.no_grad():
            return optimization.total(kl, optimization.in_parts(rollout.batch(), at_once))[0]

    def scheduled(self, value: float | Schedule) -> float:
        """The value of a hyper-parameter at the current progress."""
        return optimization.at_progress(value, self.progress_remaining)

    # --- learning ---------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: Annotated[float, Range(0)],
        callback: Callable | BaseCallback | list[BaseCallback] | None = None,
        log_interval: Annotated[int | None, Range(1)] = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool | ProgressBar = False,
    ) -> Self:
        """Collect and update until ``total_timesteps`` steps (tokens, for text) are taken.

        Args:
            total_timesteps: at least this number; the last rollout is completed.
            callback: of stable-baselines3, or a function ``(locals, globals) -> bool``; see
                `agents.sb3.callbacks`.
            log_interval: rollouts between two entries of the log; None leaves them to callbacks.
            tb_log_name: name of the run for TensorBoard; the algorithm's name by default. Each
                call begins a run, unless ``reset_num_timesteps`` is False.
            reset_num_timesteps: False continues the count, as after `load`.
            progress_bar: show a bar with return, score, KL and speed; or a bar to use.
        """
        given = {"total_timesteps": total_timesteps, "log_interval": log_interval}
        check_ranges(Agent.learn, given)
        if reset_num_timesteps:
            self.num_timesteps, self.num_rollouts, self.learning_seconds = 0, 0, 0.0
        total_timesteps += self.num_timesteps  # schedules run up to it, as in SB3
        environments.bind(self.env, self.policy)  # another agent may have learned in it
        with distributed.raise_in_all_processes():
            callback = as_callback(callback, self)  # it may set the logger
            logger = self.begin_log(tb_log_name, reset_num_timesteps)
            callback.on_training_start(locals(), globals())
        bar = ProgressBar.of(progress_bar if distributed.is_main() else False)
        try:
            distributed.broadcast(self.policy.state_dict().values())
            self.gather()
            with bar.over(total_timesteps, self.num_timesteps):
                while self.num_timesteps < total_timesteps:
                    self.progress_remaining = 1 - self.num_timesteps / total_timesteps
                    entry = self.iterate(callback)
                    for name, value in entry.items():
                        logger.record(name, value)
                    if log_interval is not None and self.num_rollouts % log_interval == 0:
                        logger.dump(self.num_timesteps)
                    bar.show(self.num_timesteps, entry)
        except Stopped:
            pass
        except BaseException as error:
            # Without the others no optimiser step is begun, so what is there may be saved.
            self.between_rollouts |= isinstance(error, distributed.ProcessLost)
            callback.on_training_end()  # a recorder saves what was learned
            distributed.wait_for_save(error)
            raise
        self.progress_remaining = 0.0
        callback.on_training_end()
        return self

    def iterate(self, callback: BaseCallback) -> dict[str, float]:
        """A rollout and the update on it; returns their entry in the log."""
        with distributed.raise_in_all_processes():
            callback.on_rollout_start()
        optimization.set_learning_rate(
            self.optimizer, self.scheduled(self.learning_rate), self.scheduled(self.anneal)
        )
        timesteps, began = self.num_timesteps, time.perf_counter()
        report = StepReport(self, callback) if needs_steps(callback) else None
        with undone_by_errors(self):
            rollout = self.collect(report)
            collecting = time.perf_counter() - began
            callback.update_locals({"self": self, "rollout": rollout})
            callback.on_rollout_end()
        self.between_rollouts = False
        with distributed.noticing_loss():
            metrics = self.update(rollout)
            optimization.check_finite(self.policy.parameters(), self.num_rollouts + 1)
            self.gather()
        self.between_rollouts = True
        self.num_rollouts += 1
        self.learning_seconds += time.perf_counter() - began
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        times = speed(self, timesteps, collecting)
        return log_entry(rollout, self.group_size, train=metrics, time=times)

    def collect(self, on_step: OnStep | None = None) -> Rollout:
        """One rollout with the current policy. Counts its steps, and updates the schedule of β.

        After an error the agent is as before, and can be saved or learn on.

        Of several processes each returns its own rows, with the episodes of all of them, and
        counts the steps of all. An error in one of them, or a callback that stops, ends it in all.
        """
        timesteps, several = self.num_timesteps, distributed.process_count() > 1
        with undone_by_errors(self):
            with distributed.raise_in_all_processes():
                rollout = self.collector.collect(self.policy, self.n_steps, on_step)
            parts = distributed.all_gather((rollout.num_steps, rollout.episodes))
        rollout.all_reduce = distributed.all_reduce if several else None
        rollout.in_step = distributed.in_step if self.policy.sharded else None
        none: dict[str, list] = {"return": [], "length": []}
        rollout.episodes = joined([none, *(episodes for _, episodes in parts)])
        environments.move_schedules(self.env, rollout.episodes.get("kl", []))
        self.num_timesteps = timesteps + sum(num_steps for num_steps, _ in parts)
        # Those that are here have been added already, if steps are reported.
        del parts[distributed.rank()]
        others = joined([none, *(episodes for _, episodes in parts)])
        new = rollout.episodes if on_step is None else others
        self.add_episodes(new["return"], new["length"])
        return rollout

    # --- saving ------------------------------------------------------------------------------

    def save(self, path: str | Path, optimizer: bool = True) -> None:
        """Write the agent to a folder; `from_pretrained` can open a language model in it.

        Of several processes the first one writes, and the others return at once.

        Args:
            path: the folder.
            optimizer: also write what learning needs to go on exactly (`agents.saving.resume`); the
                optimiser's state is twice the model's size.

        Raises:
            FileExistsError: the folder is not empty, and holds no agent.
        """
        if distributed.is_main():
            agent_folder.save(self, as_path(path), optimizer)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: str | gym.Env | VectorEnv | None = None,
        *,
        policy: type[Policy] | None = None,
        **changes: Any,
    ) -> Self:
        """Load a saved agent.

        Args:
            path: the folder.
            env: as in the constructor. None makes the environment that the agent was trained in,
                KL shaping included; so does its id.
            policy: the class of the policy, if it is not one of `agents.policies`: code that a file
                names is not imported.
            changes: arguments that differ from the saved ones; ``..._kwargs`` are merged with them.

        Raises:
            FileNotFoundError: there is no agent in the folder.
            ValueError: the agent is of another class, or an argument must be given again.
        """
        return agent_folder.load(cls, as_path(path), env, policy, changes)
