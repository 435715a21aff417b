"""``train``: fine-tune a language model on a reward, and show what changed."""

from __future__ import annotations

import csv
import dataclasses
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import distributed, files
from agents.agent import Agent
from agents.cli.errors import ENDINGS, checking_options, exit_code, in_words
from agents.cli.names import find_agent
from agents.cli.options import Train, check_options, choose_dtype, parse_train
from agents.cli.printing import print_evaluations
from agents.cli.reach import EVALUATION_SEED, Reach, find_reach, load_reach
from agents.cli.resuming import evaluate_command, parse_resume, resume_command
from agents.cli.tasks import OF_TASK, evaluation_prompts
from agents.evaluation import TextEvaluation, evaluate_text
from agents.evaluation.optimum import WithinReach
from agents.reports.plots import learning_curve, read_progress
from agents.runs import Interrupted, RunFolder, RunRecorder, Signals
from agents.training.device import find_device
from agents.training.memory_plan import free_memory, memory_plan
from agents.training.progress import ProgressBar, console
from textenv.lm.loading import hide_progress_bars
from textenv.prompts.load import load_prompts
from textenv.rewards import names_code


@dataclass(frozen=True)
class Outcome:
    """A finished run: evaluations before and after, tokens and seconds of learning.

    Attributes:
        reach: the optimum and best-of-n.
    """

    before: TextEvaluation
    after: TextEvaluation
    reach: Reach
    timesteps: int
    seconds: float


def main(arguments: list[str]) -> None:
    """Fine-tune, and print what changed."""
    with distributed.raise_in_all_processes(), checking_options():
        options, hyperparameters = parse_resume(arguments) or parse_train(arguments)
        check_options(options)
    with distributed.raise_in_all_processes(), checking_options():
        opened = open_folder(options) if distributed.is_main() else None
    (path, *_) = distributed.all_gather(opened and opened.path)
    folder = opened or RunFolder(path)
    with Signals() as signals:
        try:
            if distributed.is_main():
                show(run(options, hyperparameters, folder, signals=signals), options, folder)
            else:
                learn_along(options, hyperparameters, folder, signals)
        except ENDINGS as error:
            signals.at_once = False  # what ends here is said and drawn whatever a launcher sends
            sys.exit(
                end_early(options, folder, error) if distributed.is_main() else exit_code(error)
            )
        finally:
            folder.unlock()


def show(outcome: Outcome, options: Train, folder: RunFolder) -> None:
    """Print what a finished run has changed, and draw its learning curve."""
    columns = {"before": outcome.before, "after": outcome.after}
    print_evaluations(columns, outcome.reach.evaluation)
    console.print(
        f"\n{outcome.timesteps} tokens in {outcome.seconds:.0f} s "
        f"({outcome.timesteps / max(outcome.seconds, 1e-9):.0f} tokens/s, learning "
        f"included)\nagent  {folder.agent}",
        soft_wrap=True,
    )
    draw(options, folder, outcome.reach.learning)
    console.print(f"again  {evaluate_command(options, folder)}", soft_wrap=True)


def open_folder(options: Train) -> RunFolder:
    """The folder of a new run, or of the one to go on with; locked.

    Raises:
        OSError: it cannot be used; the message says why.
    """
    default = Path("runs") / "-".join(
        (
            options.agent.replace(":", "-"),
            Path(options.model).name.removesuffix(".gguf"),
            str(options.seed),
        )
    )
    if options.resume is not None:
        folder = RunFolder(options.resume)
        folder.lock()
        return folder
    if options.output is None and not options.overwrite:
        return RunFolder.numbered(default)
    path = options.output or default
    if RunFolder(path).is_run() and not options.overwrite:
        raise FileExistsError(
            f"There is a run in {str(path)!r} already: continue it with --resume, replace it with "
            "--overwrite, or choose another folder."
        )
    return RunFolder.create(path, options.overwrite)


def run(
    options: Train,
    hyperparameters: dict[str, Any],
    folder: RunFolder,
    reach: Reach | None = None,
    signals: Signals | None = None,
) -> Outcome:
    """Evaluate, learn, evaluate again; write everything into the run's folder.

    A run that was broken off there goes on; what it has measured already is not measured again.

    Args:
        options, hyperparameters: of the run.
        folder: locked by this process.
        reach: the optimum and best-of-n, if they are known already.
        signals: which signals wait for the end of an update.
    """
    hide_progress_bars()
    settings = settings_of(options, hyperparameters)
    with distributed.raise_in_all_processes():
        agent, resumed = make_or_load(options, hyperparameters, folder)  # or an option is refused
    if folder.is_run():
        folder.change_settings(settings)  # it may be longer now
    else:
        folder.write_settings(settings)
    if agent.num_timesteps < options.total_timesteps:
        folder.unfinish()
    reach = find_reach(options, agent, folder, reach)
    before = find_evaluation("before", options, agent, folder)
    goal = None if reach.learning is None else reach.learning.optimum.value
    recorder = RunRecorder(
        folder, options.save_every, options.show_samples, resume=resumed, settings=settings,
        signals=signals,
    )  # fmt: skip
    agent.learn(
        timesteps_left(options, agent),
        callback=recorder,
        progress_bar=ProgressBar(goal=goal),
        reset_num_timesteps=False,
    )
    agent.save(folder.agent, optimizer=False)
    after = find_evaluation("after", options, agent, folder)
    return Outcome(before, after, reach, agent.num_timesteps, agent.learning_seconds)


def learn_along(
    options: Train, hyperparameters: dict[str, Any], folder: RunFolder, signals: Signals
) -> None:
    """What `run` is in all processes but the first: nothing is measured, shown or written."""
    with distributed.raise_in_all_processes():
        agent, _ = make_or_load(options, hyperparameters, folder)
    recorder = RunRecorder(folder, signals=signals)
    agent.learn(timesteps_left(options, agent), callback=recorder, reset_num_timesteps=False)


def timesteps_left(options: Train, agent: Agent) -> int:
    """How many tokens are still to be generated."""
    return max(options.total_timesteps - agent.num_timesteps, 0)


def settings_of(options: Train, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The options that define a run, as data; not those that say where it is or what it shows."""
    run_options = dataclasses.asdict(options)
    for name in ("hyperparameters", "resume", "output", "overwrite", "save_every", "show_samples"):
        run_options.pop(name, None)
    return {"options": run_options, "chosen": hyperparameters}


def make_or_load(
    options: Train, hyperparameters: dict[str, Any], folder: RunFolder
) -> tuple[Agent, bool]:
    """The agent of a run: a new one, or the one of its newest checkpoint, and which it is."""
    console.print(f"[dim]loading {options.model}[/]")
    resumed = folder.has_checkpoint
    with checking_options():
        if resumed:
            given = {"reward": options.reward} if names_code(options.reward) else {}
            agent: Agent = find_agent(options.agent).load(
                folder.newest, env_kwargs=given, device=str(find_device(options.device))
            )
        else:
            agent = make_agent(options, hyperparameters)
        if options.eval_prompts is not None:
            load_prompts(evaluation_prompts(options.eval_prompts, options.env))  # errors come early
    parameters = sum(p.numel() for p in agent.policy.parameters())
    console.print(
        f"[bold]{type(agent).__name__}[/] on {options.model} ({parameters / 1e6:.1f} M parameters, "
        f"{agent.device}, {str(agent.policy.dtype).removeprefix('torch.')}), "
        f"reward {options.reward}, seed {options.seed}; {folder.path}",
        soft_wrap=True,
    )
    plan = memory_plan(agent)
    console.print(f"[dim]memory {plan}[/]", soft_wrap=True, highlight=False)
    advice = plan.advice(free_memory(agent.device))
    if advice is not None:
        console.print(advice, soft_wrap=True, highlight=False)
    if resumed:
        console.print(f"going on after {agent.num_timesteps} of {options.total_timesteps} tokens")
    return agent, resumed


def find_evaluation(when: str, options: Train, agent: Agent, folder: RunFolder) -> TextEvaluation:
    """The evaluation "before" or "after": of the run's first part, or measured now."""
    summaries = folder.evaluations()
    timesteps = agent.num_timesteps if when == "after" else 0
    if when in summaries and summaries[when]["timesteps"] == timesteps:
        return TextEvaluation.load(folder.episodes(when), summaries[when])
    console.print(f"[dim]evaluating {options.eval_episodes} episodes, {when}[/]")
    prompts = evaluation_prompts(options.eval_prompts, options.env)
    evaluation = evaluate_text(
        agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED, prompts=prompts
    )
    evaluation.save(folder.episodes(when))
    summaries[when] = evaluation.summary() | {
        "timesteps": timesteps, "seconds": agent.learning_seconds
    }  # fmt: skip
    files.write_json(folder.evaluation, summaries)
    return evaluation


def draw(options: Train, folder: RunFolder, within_reach: WithinReach | None) -> None:
    """Draw the learning curve, and what can be reached on the prompts of the learning."""
    title = f"{find_agent(options.agent).__name__} on {options.model}, reward {options.reward}"
    learning_curve(read_progress(folder.progress), folder.plot, title, within_reach)
    console.print(f"plot   {folder.plot}", soft_wrap=True)


def end_early(options: Train, folder: RunFolder, error: BaseException) -> int:
    """Say what an interrupted run has reached, and how to go on; returns the exit code."""
    console.print(in_words(error), soft_wrap=True, markup=False)
    if folder.is_run():
        console.print(f"go on  {resume_command(options, folder)}", soft_wrap=True)
    with suppress(OSError, KeyError, Interrupted):  # as far as it goes, and as the user waits
        before = folder.evaluations()["before"]
        with open(folder.progress, newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1:]
        for row in last:
            console.print(f"{'':6}{'before':>9}{'last rollout':>14}")
            columns = {"return": "ep_rew_mean", "score": "score_mean", "kl": "kl"}
            for name, column in columns.items():
                value = float(row[f"rollout/{column}"])
                console.print(f"{name:6}{before[name]['mean']:+z9.3f}{value:+z14.3f}")
            draw(options, folder, load_reach(folder).learning)
    return exit_code(error)


def make_agent(options: Train, hyperparameters: dict[str, Any]) -> Agent:
    """The agent in its environment. Its arguments are data, so that they are saved with it."""
    device = str(find_device(options.device))
    algorithm = find_agent(options.agent)
    needs = algorithm.policy_needs
    dtype = choose_dtype(options.dtype, device, options.model, needs.get("dtype"))
    policy_kwargs = {"model": options.model, "temperature": options.temperature, "dtype": dtype}
    if options.critic_layers is not None:
        policy_kwargs["critic_layers"] = options.critic_layers
    if options.lora is not None:
        policy_kwargs["lora"] = {"r": options.lora}
    return algorithm(
        "CausalLMPolicy",
        options.env,
        n_envs=options.n_envs,
        env_kwargs=task_arguments(options, dtype),
        policy_kwargs={**policy_kwargs, **needs},
        seed=options.seed,
        device=device,
        **hyperparameters,
    )


def task_arguments(options: Train, dtype: str) -> dict[str, Any]:
    """The arguments of the environment of a run, as data.

    Args:
        dtype: of the reference.
    """
    names = ("prompts", "chat", "reward", "max_new_tokens", "stop")
    given = {name: getattr(options, name) for name in names}
    return {
        **{name: value for name, value in given.items() if value not in (OF_TASK, [OF_TASK])},
        "reference": options.model,
        "reference_dtype": dtype,
        "kl_coef": options.kl_coef,
        "reward_timeout": options.reward_timeout,
        "reward_retries": options.reward_retries,
    }
