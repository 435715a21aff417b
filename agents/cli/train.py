"""``train``: fine-tune a language model on a reward, and show what changed."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import configure

from agents.agent import Agent
from agents.cli.options import AGENTS, Train, choose_device, choose_dtype, parse_train
from agents.cli.report import console, print_evaluations
from agents.evaluation import TextEvaluation, evaluate_text
from agents.plots import learning_curve
from textenv.lm.loading import hide_progress_bars
from textenv.rewards import names_code

EVALUATION_SEED = 1_000_000  # different from the seeds of training


@dataclass(frozen=True)
class Outcome:
    """A finished run: evaluations before and after, tokens and seconds of learning."""

    before: TextEvaluation
    after: TextEvaluation
    timesteps: int
    seconds: float


def main(arguments: list[str]) -> None:
    """Fine-tune, and print what changed."""
    options, hyperparameters = parse_train(arguments)
    output = options.output or Path("runs") / "-".join(
        (options.agent, Path(options.model).name.removesuffix(".gguf"), str(options.seed))
    )
    outcome = run(options, hyperparameters, output)
    print_evaluations(before=outcome.before, after=outcome.after)
    console.print(
        f"\n{outcome.timesteps} tokens in {outcome.seconds:.0f} s "
        f"({outcome.timesteps / outcome.seconds:.0f} tokens/s, learning included)\n"
        f"agent  {output}\nplot   {output / 'learning_curve.png'}\n"
        f"again  {evaluate_command(options, output)}",
        soft_wrap=True,
    )


def run(options: Train, hyperparameters: dict[str, Any], output: Path) -> Outcome:
    """Evaluate, learn, evaluate again; write agent, logs and plot to the output folder."""
    hide_progress_bars()
    output.mkdir(parents=True, exist_ok=True)
    try:
        agent = make_agent(options, hyperparameters)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(str(error))  # an option is not valid; the message says which
    parameters = sum(p.numel() for p in agent.policy.parameters())
    console.print(
        f"[bold]{type(agent).__name__}[/] on {options.model} ({parameters / 1e6:.1f} M parameters, "
        f"{agent.device}, {str(agent.policy.dtype).removeprefix('torch.')}), "
        f"reward {options.reward}, seed {options.seed}",
        soft_wrap=True,
    )
    before = evaluate_text(agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED)
    agent.set_logger(configure(str(output), ["csv", "tensorboard"]))
    began = time.perf_counter()
    agent.learn(options.total_timesteps, progress_bar=True)
    seconds = time.perf_counter() - began
    agent.save(output, optimizer=False)
    after = evaluate_text(agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED)
    (output / "evaluation.json").write_text(json.dumps(after.summary(), indent=2) + "\n")
    if agent.logger is not None:
        agent.logger.close()
    learning_curve(
        {type(agent).__name__: output / "progress.csv"},
        output / "learning_curve.png",
        f"{type(agent).__name__} on {options.model}, reward {options.reward}",
    )
    return Outcome(before, after, agent.num_timesteps, seconds)


def make_agent(options: Train, hyperparameters: dict[str, Any]) -> Agent:
    """The agent in its environment. Its arguments are data, so that they are saved with it."""
    device = choose_device(options.device)
    algorithm = AGENTS[options.agent]
    needs = algorithm.policy_needs
    dtype = needs.get("dtype") or choose_dtype(options.dtype, device, options.model)
    policy_kwargs = {"model": options.model, "temperature": options.temperature, "dtype": dtype}
    return algorithm(
        "CausalLMPolicy",
        "TextGen-v0",
        n_envs=options.n_envs,
        env_kwargs={
            "prompts": options.prompts,
            "reward": options.reward,
            "max_new_tokens": options.max_new_tokens,
            "stop": options.stop,
            "reference": options.model,
            "reference_dtype": dtype,
            "kl_coef": options.kl_coef,
        },
        policy_kwargs={**policy_kwargs, **needs},
        seed=options.seed,
        device=device,
        **hyperparameters,
    )


def evaluate_command(options: Train, output: Path) -> str:
    """The command that repeats the table: the saved agent has its task, but no code."""
    flags = ""
    if options.eval_episodes != Train.eval_episodes:
        flags += f" --episodes {options.eval_episodes}"
    if names_code(options.reward):
        flags += f" --reward {shlex.quote(options.reward)}"
    return f"python -m agents evaluate {shlex.quote(str(output))}{flags}"
