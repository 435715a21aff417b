"""Agent: the interface of stable-baselines3 for any policy and environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents import distributed, policies
from agents.experience import OnStep, Stopped, collect_rollout, environments, make_collector
from agents.experience.rollout import Batch, Rollout
from agents.iteration import iteration
from agents.policies.base import Policy
from agents.saving import agent_folder
from agents.sb3.callbacks import as_callback
from agents.sb3.interface import SB3Members
from agents.training import optimization
from agents.training.hyperparameters import AUTO, Construction, find_device
from agents.training.metrics import mean_metrics, record_all
from agents.training.optimization import Schedule, make_optimizer, set_learning_rate
from agents.training.progress import ProgressBar
from agents.training.ranges import check_ranges


class Agent(SB3Members, metaclass=Construction):
    """Base class of all algorithms: collects rollouts and passes them to ``update``.

    An algorithm implements ``update(rollout) -> metrics`` and, for `optimizer_step`,
    ``loss(batch) -> (loss, metrics)``. It does not depend on text. Arguments that are ``"auto"``
    are filled in from `agents.training.presets`, for the given policy and model.

    A program that ``torchrun`` or ``accelerate launch`` starts several times learns with all its
    processes (`agents.distributed`): each collects in its part of the ``n_envs`` rows, and all take
    the same steps, on ``batch_size`` rows of all. The first one alone logs and saves. Callbacks are
    called in each of them: one that writes files should do so where `distributed.is_main` holds.

    Args:
        policy: "CausalLMPolicy", "MlpPolicy", or a policy class (see `agents.policies.base`).
        env: a vector environment, an environment, or an id (made with ``n_envs`` and
            ``env_kwargs``, a text environment with the policy's tokenizer). A native text
            environment is switched to its fast mode, which is logged; all others are used as
            they are.
        learning_rate: of AdamW, a number or a function of the remaining progress (1 to 0).
        lr_schedule: "constant", "linear" or "cosine"; the last two end at 0 with `learn`.
        n_steps: steps of each row in one rollout; not used for whole episodes of text.
        micro_batch_size: rows per backward pass, to save memory with large models. The gradient is
            that of the whole batch.
        max_grad_norm: gradients are clipped to this norm; None does not clip.
        weight_decay: of AdamW.
        adam_epsilon: of AdamW; where gradients are smaller than this, steps are small too.
        group_size: number of consecutive rows that begin with the same prompt.
        n_envs, env_kwargs: used when ``env`` is an id. Several processes have so many rows
            together; an environment that is given is one process's own part.
        policy_kwargs: arguments of the policy, such as ``{"model": "smollm2"}``.
        tensorboard_log: folder for TensorBoard.
        verbose: 1 prints a table after each rollout, 0 nothing.
        seed: of environment, actions, minibatches and new weights. None makes them random; the
            global random state is never changed.
        device: "auto", "cpu", "cuda", ...
    """

    persistent_state: ClassVar[tuple[str, ...]] = ()  # attributes that updates change; saved
    policy_needs: ClassVar[dict[str, Any]] = {}  # arguments for a language model's policy
    compares_groups: ClassVar[bool] = False  # whether a group_size of 1 makes no sense

    def __init__(
        self,
        policy: str | type[Policy],
        env: str | gym.Env | VectorEnv,
        *,
        learning_rate: float | Schedule = AUTO,
        lr_schedule: str = AUTO,
        n_steps: int | None = AUTO,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = AUTO,
        weight_decay: float = 0.0,
        adam_epsilon: float = AUTO,
        group_size: int = 1,
        n_envs: int = AUTO,
        env_kwargs: Mapping[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: str | torch.device = "auto",
    ):
        super().__init__()
        self.device = find_device(device)
        self.learning_rate, self.lr_schedule = learning_rate, lr_schedule
        self.anneal, self.n_steps = optimization.lr_schedule(lr_schedule), n_steps
        self.micro_batch_size, self.group_size, self.verbose = micro_batch_size, group_size, verbose
        self.max_grad_norm, self.adam_epsilon = max_grad_norm, adam_epsilon
        self.weight_decay, self.tensorboard_log, self.seed = weight_decay, tensorboard_log, seed
        self.policy_class = policies.find(policy)
        self.policy_kwargs = dict(policy_kwargs or {})
        rows = (
            distributed.local_rows("n_envs", n_envs, group_size) if isinstance(env, str) else n_envs
        )
        self.env = environments.for_agent(
            env, self.policy_class, self.policy_kwargs, rows, env_kwargs, group_size, self.device
        )
        self.policy: Any = policies.make(
            self.policy_class, self.env, self.policy_needs, self.policy_kwargs, seed, self.device,
            environments.reference(self.env),
        )  # fmt: skip
        environments.bind(self.env, self.policy)
        learning = self.trained_parameters()
        self.optimizer = make_optimizer(learning, learning_rate, weight_decay, adam_epsilon)
        self.generator = torch.Generator()  # for minibatches
        place = () if distributed.is_main() else (distributed.rank(),)
        fresh = np.random.SeedSequence(seed, spawn_key=place).generate_state(3)
        self.policy.seed(int(fresh[0]))
        self.generator.manual_seed(int(fresh[1]))
        env_seed = int(fresh[2] % 2**31) if seed is None else seed
        self.collector = make_collector(self.env, env_seed + distributed.rank() * self.env.num_envs)
        self.num_timesteps, self.num_rollouts, self.learning_seconds = 0, 0, 0.0
        self.progress_remaining, self.between_rollouts = 1.0, True

    # --- what an algorithm implements -------------------------------------------------------

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout; returns metrics for the log."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The loss of a batch, a scalar to minimise, and metrics.

        All of them are divided by ``batch.counts``, so that they add up over its micro-batches.
        """
        raise NotImplementedError

    @property
    def takes_one_step(self) -> bool:
        """Whether an update is a single step on the whole rollout, before which π is π_old.

        Its losses then take log π_old from `Batch.old`.
        """
        return False

    @property
    def rows_at_once(self) -> int:
        """The rows of a backward pass in this process; of plain memory, where it takes more."""
        of_all = getattr(self, "batch_size", None)
        own = (
            self.env.num_envs if of_all is None else math.ceil(of_all / distributed.process_count())
        )
        return self.micro_batch_size or min(own, self.env.num_envs)

    # --- what an algorithm uses -------------------------------------------------------------

    def trained_parameters(self) -> Any:
        """The parameters that the optimiser changes, as `torch.optim.AdamW` takes them."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def optimizer_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on ``self.loss``, in micro-batches if their size is set."""
        return optimization.optimizer_step(
            self.loss, batch, self.optimizer, self.micro_batch_size, self.max_grad_norm
        )

    def optimize(
        self,
        rollout: Rollout,
        columns: Mapping[str, Tensor],
        n_epochs: int = 1,
        batch_size: int | None = None,
    ) -> dict[str, float]:
        """`optimizer_step` on minibatches of ``batch_size`` rows. Returns mean metrics."""
        return mean_metrics(
            [
                self.optimizer_step(batch)
                for _ in range(n_epochs)
                for batch in rollout.batches(batch_size, self.generator, self.group_size, **columns)
            ]
        )

    def scheduled(self, value: float | Schedule) -> float:
        """The value of a hyper-parameter at the current progress."""
        return optimization.at_progress(value, self.progress_remaining)

    def _set_learning_rate(self) -> None:
        rate = self.scheduled(self.learning_rate) * self.scheduled(self.anneal)
        set_learning_rate(self.optimizer, rate)

    # --- learning ---------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callable | BaseCallback | list[BaseCallback] | None = None,
        log_interval: int | None = 1,
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
        check_ranges({"total_timesteps": total_timesteps, "log_interval": log_interval})
        if reset_num_timesteps:
            self.num_timesteps, self.num_rollouts, self.learning_seconds = 0, 0, 0.0
        total_timesteps += self.num_timesteps  # schedules run up to it, as in SB3
        with distributed.raise_in_all_processes():
            callback = as_callback(callback, self)  # it may set the logger
            logger = self.begin_log(tb_log_name, reset_num_timesteps)
            callback.on_training_start(locals(), globals())
        bar = ProgressBar.of(progress_bar if distributed.is_main() else False)
        try:
            distributed.broadcast(self.policy.state_dict().values())
            with bar.over(total_timesteps, self.num_timesteps):
                while self.num_timesteps < total_timesteps:
                    self.progress_remaining = 1 - self.num_timesteps / total_timesteps
                    self._set_learning_rate()
                    record = iteration(self, callback)
                    record_all(logger, record)
                    if log_interval is not None and self.num_rollouts % log_interval == 0:
                        logger.dump(self.num_timesteps)
                    bar.show(self.num_timesteps, record)
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

    def collect(self, on_step: OnStep | None = None) -> Rollout:
        """One rollout with the current policy. Counts its steps, and updates the schedule of β.

        After an error the agent is as before, and can be saved or learn on. In reduced precision
        its log-probabilities come from `evaluate`, so that the first ratio is 1 there, too; if one
        step is all, from that step.

        Of several processes each returns its own rows, with the episodes of all of them, and
        counts the steps of all. An error in one of them, or a callback that stops, ends it in all.
        """
        return collect_rollout(self, on_step)

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
            agent_folder.save(self, Path(path), optimizer)

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
        return agent_folder.load(cls, Path(path), env, policy, changes)
