"""How near to the optimum the bundled model can come at all, if samples cost nothing.

    python tests/benchmarks/fit_optimum.py --episodes 400000 --device cuda

π* ∝ π_ref·e^{score/β} is known up to its constant, so that it can be fitted without reinforcement
learning: episodes of the untouched model, drawn again in proportion to e^{score/β} within each
prompt, are samples of π*, and the weights are fitted to them by maximum likelihood, which
minimises KL(π*‖π). What a model of this size cannot represent is missing from the fit. For every π,
J* − J(π) = β·KL(π‖π*). Since the fit minimises the other direction, PPO with small steps goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from agents import PPO
from agents.collect import collect_episodes
from agents.construction import find_device
from agents.evaluation import evaluate_text, own_environment
from agents.policies.acting import ReferencePolicy
from textenv.lm.loading import hide_progress_bars
from textenv.lm.scoring import response_states, token_log_probs
from textenv.optimum import optimal_log_weights, optimum

KL_COEF, EVALUATION_SEED = 0.1, 1_000_000


@dataclass
class Options:
    """Fit the optimal policy to samples of the reference."""

    episodes: int = 400_000
    """Of the untouched model; a tenth of them is held out."""
    epochs: int = 8
    """Passes over as many samples of π* as there are episodes."""
    batch_size: int = 1024
    """Episodes of an optimiser step."""
    learning_rate: float = 5e-4
    """Of AdamW, annealed to 0."""
    ppo_tokens: int = 500_000
    """Tokens of the PPO that goes on."""
    ppo_learning_rate: float = 1e-4
    """Its rate, annealed to 0."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    seed: int = 0
    """Of samples and fit."""
    output: Path = Path("runs/fitted")
    """Folder of the fitted agent."""


def main(options: Options) -> None:
    """Sample, fit, evaluate; go on with PPO, evaluate again."""
    hide_progress_bars()
    torch.manual_seed(options.seed)
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", seed=options.seed, device=str(find_device(options.device)),
        learning_rate=options.ppo_learning_rate,
        env_kwargs={"reference": "bundled", "kl_coef": KL_COEF},
    )  # fmt: skip
    began = time.perf_counter()
    data = samples(agent, options.episodes, options.seed)
    scores, prompt = data.pop("scores"), data.pop("prompt")
    by_prompt = [np.flatnonzero(prompt == number) for number in np.unique(prompt)]
    best = optimum([scores[rows] for rows in by_prompt], KL_COEF)
    print(f"{len(scores)} episodes in {time.perf_counter() - began:.0f} s: {best}", flush=True)
    weights = np.zeros(len(scores))
    for rows in by_prompt:
        weights[rows] = np.exp(optimal_log_weights(scores[rows], KL_COEF)[0])
    held_out = np.arange(len(scores)) % 10 == 0
    rng = np.random.default_rng(options.seed)
    draw = {
        part: torch.from_numpy(
            rng.choice(
                np.flatnonzero(chosen), len(scores), p=weights[chosen] / weights[chosen].sum()
            )
        )
        for part, chosen in (("fit", ~held_out), ("held out", held_out))
    }
    fit(agent, data, draw, options)
    show("fitted to π*", agent)
    agent.save(options.output)
    if options.ppo_tokens:
        agent.learn(options.ppo_tokens)
        show(f"PPO from there, {agent.num_timesteps} tokens", agent)


def samples(agent: PPO, count: int, seed: int) -> dict:
    """Episodes of the reference: token rows, and the score and prompt of each."""
    shaping = agent.env.unwrapped.shaping
    policy = ReferencePolicy(shaping.reference, agent.policy.sampling, seed)
    own = own_environment(agent.env, policy, count, reference=None)
    parts: dict[str, list] = {}
    taken = 0
    while taken < count:
        rollout = collect_episodes(own, policy, seed=None if taken else seed)
        taken += own.num_envs
        steps = own.max_length - 1
        columns = {
            "input_ids": rollout.observations["input_ids"],
            "prompt_lengths": rollout.observations["prompt_lengths"],
            "actions": pad(rollout.actions, steps), "mask": pad(rollout.mask, steps),
        }  # fmt: skip
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        parts.setdefault("scores", []).append(np.array(rollout.episodes["score"]))
        parts.setdefault("prompt", []).append(np.array(own.prompt_index))
    return {
        name: np.concatenate(part) if isinstance(part[0], np.ndarray) else torch.cat(part)
        for name, part in parts.items()
    }


def pad(tensor: torch.Tensor, steps: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, steps - tensor.shape[1]))


def fit(agent: PPO, data: dict, draw: dict, options: Options) -> None:
    """Maximum likelihood on samples of π*, with the held-out loss after each pass."""
    policy = agent.policy
    parameters = policy.actor_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    steps_of_pass = len(draw["fit"]) // options.batch_size
    total = options.epochs * steps_of_pass
    anneal = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    for epoch in range(options.epochs):
        order = draw["fit"][torch.randperm(len(draw["fit"]))]
        for rows in order[: steps_of_pass * options.batch_size].split(options.batch_size):
            loss = negative_log_likelihood(policy, data, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            anneal.step()
        with torch.no_grad():
            held_out = [
                negative_log_likelihood(policy, data, rows).item()
                for rows in draw["held out"][: 8 * options.batch_size].split(options.batch_size)
            ]
        print(f"pass {epoch + 1}: held out {np.mean(held_out):.3f} nats per episode", flush=True)


def negative_log_likelihood(policy, data: dict, rows: torch.Tensor) -> torch.Tensor:
    """Mean −log π(y) of episodes, nats."""
    rows = rows.to(data["mask"].device)
    mask = data["mask"][rows]
    hidden = response_states(
        policy.body, data["input_ids"][rows], data["prompt_lengths"][rows], mask
    )
    chosen = data["actions"][rows][mask]
    log_probs, _ = token_log_probs(policy.head, hidden, chosen, policy.sampling)
    return -log_probs.sum() / len(rows)


def show(name: str, agent: PPO) -> None:
    result = evaluate_text(agent, n_episodes=4096, seed=EVALUATION_SEED)
    error = result.returns.std(ddof=1) / len(result.returns) ** 0.5
    print(
        f"| {name} | {result.returns.mean():.3f} ± {error:.3f} | {result.scores.mean():.3f} | "
        f"{result.kls.mean():.2f} | {result.distinct_2:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
