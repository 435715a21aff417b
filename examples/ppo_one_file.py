"""PPO in one file, on the public parts alone: an environment, a policy and plain functions.

    python examples/ppo_one_file.py

Nothing of `agents.algorithms` is used. It reads from top to bottom: collect whole episodes,
estimate the advantage of each token, take a few clipped steps. The task is that of the README:
cheerful film reviews, and each nat of KL to the untouched model costs β.
"""

import time
from dataclasses import dataclass

import gymnasium as gym
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents import CausalLMPolicy
from agents.evaluation.plots import save_figure
from agents.functional.advantages import generalized_advantages, normalize
from agents.functional.critic_losses import squared_error
from agents.functional.reductions import token_mean
from agents.functional.surrogates import clip_fraction, clipped, kl_old_new
from textenv.lm.loading import hide_progress_bars


@dataclass
class Args:
    seed: int = 0
    env_id: str = "TextGen-v0"  # or any task for the bundled model, such as "GuessNumber-v0"
    total_tokens: int = 50_000
    num_envs: int = 128  # episodes of a rollout
    kl_coef: float = 0.1  # β, the price of a nat
    learning_rate: float = 5e-4
    critic_learning_rate: float = 1e-3
    adam_epsilon: float = 1e-3  # large: otherwise Adam takes full steps along mere noise
    epochs: int = 2
    minibatch_size: int = 64  # whole episodes
    gamma: float = 1.0  # the score comes at the end, so nothing is discounted
    gae_lambda: float = 0.8
    clip_range: float = 0.2
    vf_coef: float = 0.5
    max_grad_norm: float = 1.0


@dataclass
class Rollout:
    """One episode in each row; all tensors are [rows, steps], and `mask` says which steps count."""

    observations: dict[str, Tensor]
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    mask: Tensor
    episode_end: Tensor
    scores: list[float]
    kls: list[float]

    def take(self, rows: Tensor) -> "Rollout":
        observations = {key: value[rows] for key, value in self.observations.items()}
        columns = (self.actions, self.log_probs, self.values, self.rewards, self.mask)
        return Rollout(
            observations, *(column[rows] for column in columns), self.episode_end[rows], [], []
        )


def collect(envs, policy: CausalLMPolicy, seed: int | None = None) -> Rollout:
    """With scoring="batch", rows that have ended wait for the last one; then all are scored."""
    observation, infos = envs.reset(seed=seed)
    first = {key: value.clone() for key, value in observation.items()}
    steps, state = [], None  # the state of the policy is its cache of keys and values
    while "token_rewards" not in infos:
        actions, log_probs, values, state = policy.act(observation, state)
        observation, _, _, _, infos = envs.step(actions)
        steps.append((actions, log_probs, values))
    actions, log_probs, values = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    lengths = torch.as_tensor(infos["response_length"])[:, None]
    column = torch.arange(actions.shape[1])
    mask = column < lengths
    return Rollout(
        policy.rollout_observations(first, observation), actions, log_probs, values * mask,
        infos["token_rewards"].float(), mask, column == lengths - 1,
        infos["score"].tolist(), infos["token_kl"].sum(dim=1).tolist(),
    )  # fmt: skip


def main(**settings) -> None:
    args = Args(**settings)
    hide_progress_bars()
    torch.manual_seed(args.seed)

    envs = gym.make_vec(
        args.env_id, num_envs=args.num_envs, reference="bundled", kl_coef=args.kl_coef,
        scoring="batch", autoreset_mode="DISABLED", array="torch",
    )  # fmt: skip
    policy = CausalLMPolicy(
        envs.single_observation_space, envs.single_action_space, critic_layers=2
    )
    policy.seed(args.seed)
    envs.unwrapped.bind(policy)  # the KL of a token needs its probability under the policy
    actor, critic = policy.actor_parameters(), policy.critic_parameters()
    optimizer = torch.optim.AdamW([{"params": actor}, {"params": critic}], eps=args.adam_epsilon)
    rates = args.learning_rate, args.critic_learning_rate

    tokens, history, start = 0, [], time.perf_counter()
    while tokens < args.total_tokens:
        rollout = collect(envs, policy, seed=args.seed if tokens == 0 else None)
        history.append(rollout.rewards.sum(dim=1).mean().item())
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - tokens / args.total_tokens)

        # The value of the next state; the end of an episode is worth nothing more.
        next_values = torch.roll(rollout.values, -1, dims=1).masked_fill(rollout.episode_end, 0.0)
        advantages = generalized_advantages(
            rollout.rewards, rollout.values, next_values, rollout.episode_end,
            args.gamma, args.gae_lambda, rollout.mask,
        )  # fmt: skip
        returns = advantages + rollout.values
        advantages = normalize(advantages, rollout.mask)

        for _ in range(args.epochs):
            for rows in torch.randperm(args.num_envs).split(args.minibatch_size):
                batch = rollout.take(rows)
                now = policy.evaluate(batch)
                losses = clipped(now.log_probs, batch.log_probs, advantages[rows], args.clip_range)
                errors = squared_error(now.values, returns[rows])
                policy_loss = token_mean(losses, batch.mask)
                loss = policy_loss + args.vf_coef * token_mean(errors, batch.mask)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_([*actor, *critic], args.max_grad_norm)
                optimizer.step()

        tokens += int(rollout.mask.sum())
        with torch.no_grad():  # how far the last minibatch is from the policy that acted
            distance = token_mean(kl_old_new(now.log_probs, batch.log_probs), batch.mask)
            share = clip_fraction(now.log_probs, batch.log_probs, batch.mask, args.clip_range)
        print(
            f"{tokens:7,} tokens   return {history[-1]:+.3f}   "
            f"score {sum(rollout.scores) / args.num_envs:+.3f}   "
            f"KL {sum(rollout.kls) / args.num_envs:5.2f}   update: KL {distance:.4f}, "
            f"clipped {share:3.0%}   {tokens / (time.perf_counter() - start):5.0f} tokens/s",
            flush=True,
        )

    fifth = max(1, len(history) // 5)
    print(f"return of the first rollout {history[0]:+.3f}, mean of the last fifth of them "
          f"{sum(history[-fifth:]) / fifth:+.3f}")  # fmt: skip
    draw(history)


def draw(history: list[float]) -> None:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(history) + 1), history, color="tab:blue")
    axes.set(xlabel="rollout", ylabel="mean return = score − β·KL", title="PPO in one file")
    print("plot ", save_figure(figure, "runs/ppo_one_file.png"))


if __name__ == "__main__":
    main()
