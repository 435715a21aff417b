"""Whole episodes of text: one for each row of an environment that scores in batches."""

from typing import Any

import torch
from gymnasium.vector import VectorEnv

from agents.experience import env_state
from agents.experience.rollout import Rollout, Step
from agents.experience.steps import OnStep, Stopped, is_of_episode
from agents.policies.base import Policy


class EpisodeCollector:
    """Collects whole episodes of a native text environment with ``scoring="batch"`` and torch
    arrays, one rollout at a time. ``seed`` is that of the first reset."""

    def __init__(self, env: VectorEnv, seed: int | None):
        self.env, self.seed = env, seed

    def collect(
        self, policy: Policy, n_steps: int | None = None, on_step: OnStep | None = None
    ) -> Rollout:
        """One episode for each row; ``n_steps`` is not used."""
        seed, self.seed = self.seed, None
        return collect_episodes(self.env, policy, on_step, seed)

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout depends on, beside the policy."""
        return {"env": env_state.capture(self.env), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the collector of a `state_dict` was."""
        env_state.restore(self.env, state["env"])
        self.seed = state["seed"]


def collect_episodes(
    env: VectorEnv,
    policy: Any,
    on_step: OnStep | None = None,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
) -> Rollout:
    """One whole episode for each row of a native text environment with ``scoring="batch"`` and
    torch arrays, which is reset with ``seed`` and ``options``.

    Nothing here waits for the device before the last row has ended: rows that have ended wait, and
    their steps are masked afterwards. Only ``on_step`` makes the loop wait at each step, since the
    rows that still run are counted for it. Where it returns False, this raises `Stopped`. Of
    `Policy`, ``policy`` needs ``act`` and ``rollout_observations``.
    """
    observation, first_infos = env.reset(seed=seed, options=options)
    first = {key: value.clone() for key, value in observation.items()}
    state, start = None, torch.ones(env.num_envs, dtype=torch.bool)
    steps = []
    infos: dict[str, Any] = {}
    while "token_rewards" not in infos:
        actions, log_probs, values, state = policy.act(observation, state, start)
        count = 0 if on_step is None else int(env.unwrapped.running.sum())  # type: ignore[attr-defined]
        observation, rewards, terminated, truncated, infos = env.step(actions)
        steps.append((actions, log_probs, values))
        start = torch.zeros(env.num_envs, dtype=torch.bool)
        if on_step is not None:
            ended = "token_rewards" in infos  # all rows together
            step = Step(
                count, actions, log_probs, values, observation, rewards, terminated, truncated,
                infos, observation, rewards if ended else [],
                infos["response_length"] if ended else [],
            )  # fmt: skip
            if not on_step(step):
                raise Stopped
    rewards = infos["token_rewards"].float()
    lengths = torch.as_tensor(infos["response_length"], device=rewards.device)[:, None]
    column = torch.arange(rewards.shape[1], device=rewards.device)
    mask, episode_end = column < lengths, column == lengths - 1
    actions, log_probs, values = (
        torch.stack(part, dim=1)[:, : rewards.shape[1]] for part in zip(*steps, strict=True)
    )
    values = values * mask
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1) * ~episode_end
    # The environment writes to its table again, and the observation may be a view of it.
    last = {key: value.clone() for key, value in observation.items()}
    reference_log_probs = infos.get("ref_log_probs")
    return Rollout(
        policy.rollout_observations(first, last),
        actions,
        log_probs.masked_fill(~mask, 0),
        values,
        next_values,
        rewards,
        episode_end,
        mask,
        sequential=True,
        whole_episodes=True,
        reference_log_probs=None if reference_log_probs is None else reference_log_probs.float(),
        episodes=_episodes(first_infos, infos),
    )


def _episodes(first_infos: dict[str, Any], infos: dict[str, Any]) -> dict[str, list]:
    episodes = {
        "prompt": first_infos["prompt"].tolist(),
        "return": infos["token_rewards"].sum(dim=1).tolist(),
        "length": infos["response_length"].tolist(),
        **{key: column.tolist() for key, column in infos.items() if is_of_episode(key)},
    }
    if "token_kl" in infos:
        episodes["kl"] = infos["token_kl"].sum(dim=1).tolist()
    return episodes
