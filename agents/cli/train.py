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
from agents.cli.options import AGENTS, Train, choose_dtype, parse_train
from agents.cli.report import console, print_evaluations
from agents.construction import find_device
from agents.evaluation import TextEvaluation, evaluate_text
from agents.plots import learning_curve, read_progress
from agents.progress import ProgressBar
from agents.reference import WithinReach, reference_scores
from textenv.lm.loading import hide_progress_bars
from textenv.rewards import names_code

REACH_FILE = "reference_scores.json"
EVALUATION_SEED = 1_000_000  # different from the seeds of training


@dataclass(frozen=True)
class Outcome:
    """A finished run: evaluations before and after, tokens and seconds of learning.

    Attributes:
        within_reach: the optimum and best-of-n; None without a cost of KL.
    """

    before: TextEvaluation
    after: TextEvaluation
    within_reach: WithinReach | None
    timesteps: int
    seconds: float


def main(arguments: list[str]) -> None:
    """Fine-tune, and print what changed."""
    options, hyperparameters = parse_train(arguments)
    output = options.output or Path("runs") / "-".join(
        (options.agent, Path(options.model).name.removesuffix(".gguf"), str(options.seed))
    )
    outcome = run(options, hyperparameters, output)
    columns = {"before": outcome.before, "after": outcome.after}
    print_evaluations(columns, outcome.within_reach)
    console.print(
        f"\n{outcome.timesteps} tokens in {outcome.seconds:.0f} s "
        f"({outcome.timesteps / outcome.seconds:.0f} tokens/s, learning included)\n"
        f"agent  {output}\nplot   {output / 'learning_curve.png'}\n"
        f"again  {evaluate_command(options, output)}",
        soft_wrap=True,
    )


def run(
    options: Train,
    hyperparameters: dict[str, Any],
    output: Path,
    within_reach: WithinReach | None = None,
) -> Outcome:
    """Evaluate, learn, evaluate again; write agent, logs and plot to the output folder.

    Args:
        options, hyperparameters: of the run.
        output: the folder.
        within_reach: the optimum and best-of-n, if they are known already.
    """
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
    if within_reach is None:
        within_reach = measure_reach(agent, options.kl_coef, options.reference_episodes)
    (output / REACH_FILE).unlink(missing_ok=True)  # of another task, from a run here before
    if within_reach is not None:
        within_reach.save(output / REACH_FILE)
    before = evaluate_text(agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED)
    agent.set_logger(configure(str(output), ["csv", "tensorboard"]))
    goal = None if within_reach is None else within_reach.optimum.value
    began = time.perf_counter()
    agent.learn(options.total_timesteps, progress_bar=ProgressBar(goal=goal))
    seconds = time.perf_counter() - began
    agent.save(output, optimizer=False)
    after = evaluate_text(agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED)
    (output / "evaluation.json").write_text(json.dumps(after.summary(), indent=2) + "\n")
    if agent.logger is not None:
        agent.logger.close()
    learning_curve(
        read_progress(output / "progress.csv"),
        output / "learning_curve.png",
        f"{type(agent).__name__} on {options.model}, reward {options.reward}",
        within_reach,
    )
    return Outcome(before, after, within_reach, agent.num_timesteps, seconds)


def measure_reach(agent: Agent, kl_coef: float, n_episodes: int) -> WithinReach | None:
    """The optimum and best-of-n of the agent's task; None if KL costs nothing."""
    if kl_coef <= 0 or n_episodes <= 0:
        return None
    return WithinReach(reference_scores(agent, None, n_episodes, EVALUATION_SEED + 1), kl_coef)


def make_agent(options: Train, hyperparameters: dict[str, Any]) -> Agent:
    """The agent in its environment. Its arguments are data, so that they are saved with it."""
    device = str(find_device(options.device))
    algorithm = AGENTS[options.agent]
    needs = algorithm.policy_needs
    dtype = needs.get("dtype") or choose_dtype(options.dtype, device, options.model)
    policy_kwargs = {"model": options.model, "temperature": options.temperature, "dtype": dtype}
    if options.critic_layers is not None:
        policy_kwargs["critic_layers"] = options.critic_layers
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
