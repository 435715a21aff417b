"""The runs of ``compare``: each in its folder, of whichever kind its candidate is."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stable_baselines3.common.logger as sb3_logger
from rich.markup import escape

from agents import files
from agents.agent import Agent
from agents.cli.names import Candidate
from agents.cli.options import Train
from agents.cli.reach import EVALUATION_SEED, Reach, find_reach, load_reach
from agents.cli.tasks import evaluation_prompts
from agents.cli.train_command import draw, make_agent, run, settings_of, task_arguments
from agents.evaluation import TextEvaluation, evaluate_text
from agents.evaluation.candidates import UNTRAINED
from agents.evaluation.comparison import Run
from agents.runs import RunFolder, Signals
from agents.training.device import find_device
from agents.training.optimization import lr_schedule
from agents.training.progress import console
from textenv.lm.loading import hide_progress_bars


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        candidate: what runs.
        options, hyperparameters: of its run.
        folder: where it is.
    """

    candidate: Candidate
    options: Train
    hyperparameters: dict[str, Any]
    folder: Path

    def check_folder(self, overwrite: bool) -> None:
        """Raise an error if the folder holds something that must not be mixed or replaced.

        Raises:
            FileExistsError: it holds no run, or one of other settings.
        """
        folder = RunFolder(self.folder)
        if folder.is_run() and not overwrite:
            wanted = json.loads(json.dumps(self.settings(), default=str))
            _check_same(folder, folder.settings(), wanted)
        elif not folder.is_run() and folder.path.is_dir():
            if any(not path.name.startswith(".") for path in folder.path.iterdir()):
                raise FileExistsError(
                    f"The folder {str(folder.path)!r} is not empty and holds no run that can be "
                    "read: remove it, or choose another --output."
                )

    def settings(self) -> dict[str, Any]:
        """What defines the run."""
        return settings_of(self.options, self.hyperparameters)

    def on_seed(self, seed: int) -> Job:
        """The same on another seed."""
        folder = self.folder.with_name(f"{self.candidate.folder}-{seed}")
        options = dataclasses.replace(self.options, seed=seed)
        return dataclasses.replace(self, options=options, folder=folder)

    def result(self) -> Run:
        """The finished run, from its folder."""
        folder = RunFolder(self.folder)
        after = folder.evaluations()["after"]
        found = TextEvaluation.load(folder.episodes("after"), after)
        seed, label = self.options.seed, self.candidate.label
        return Run(self.options.env, label, seed, found, after["timesteps"], after["seconds"])


def finish(job: Job, reach: Reach | None, signals: Signals, title: str) -> Reach | None:
    """See to it that a job's run is finished; one that is there already is not repeated.

    Args:
        job: the run.
        reach: what can be reached in its task, if that is known.
        signals: which signals wait for the end of an update.
        title: printed if there is something to do.

    Returns:
        What can be reached in its task, if that is known by now.
    """
    folder = RunFolder(job.folder)
    trains = isinstance(job.candidate.what, type) and issubclass(job.candidate.what, Agent)
    if not folder.is_run():
        folder = RunFolder.create(folder.path)
    elif not folder.finished and trains:
        folder.lock()
    elif not folder.finished:  # it cannot go on
        folder = RunFolder.create(folder.path, overwrite=True)
    try:
        if folder.finished:
            known = folder.reference_scores.is_file()
            return load_reach(folder) if reach is None and known else reach
        console.print(f"\n[bold]{escape(title)}[/]")
        if trains:
            reach = run(job.options, job.hyperparameters, folder, reach, signals).reach
            draw(job.options, folder, reach.learning)
            return reach
        hide_progress_bars()
        folder.write_settings(job.settings())
        base = make_agent(_as_reinforce(job.options), {})  # its environment, and the reference
        reach = find_reach(job.options, base, folder, reach)
        actor: Any = job.candidate.what
        timesteps, seconds, number = 0, 0.0, job.options.seed
        if not isinstance(actor, UNTRAINED):
            actor, timesteps, seconds = _learned(job, folder)
            number = 0
        _evaluate(job.options, actor, base, folder, number, timesteps, seconds)
        return reach
    finally:
        folder.unlock()


def _check_same(folder: RunFolder, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise an error if the run in a folder has other settings.

    Raises:
        FileExistsError: the message names a setting that differs.
    """
    for part, values in wanted.items():
        others = found.get(part, {})
        for name in sorted({*values, *others}):
            if values.get(name) != others.get(name):
                raise FileExistsError(
                    f"The run in {str(folder.path)!r} has {name}={others.get(name)!r}, not "
                    f"{values.get(name)!r}: choose another --output, or replace it with "
                    "--overwrite."
                )


def _as_reinforce(options: Train) -> Train:
    return Train(**{**vars(options), "agent": "reinforce", "n_envs": 8})


def _evaluate(
    options: Train,
    actor: Any,
    base: Agent,
    folder: RunFolder,
    number: int,
    timesteps: int,
    seconds: float,
) -> None:
    """Write the evaluation of what cannot go on after a break."""
    console.print(f"[dim]evaluating {options.eval_episodes} episodes of {options.agent}[/]")
    prompts = evaluation_prompts(options.eval_prompts, options.env)
    found = evaluate_text(
        actor, base.env, options.eval_episodes, EVALUATION_SEED, prompts=prompts, draw=number
    )
    found.save(folder.episodes("after"))
    summary = found.summary() | {"timesteps": timesteps, "seconds": seconds}
    files.write_json(folder.evaluation, {"after": summary})


def _learned(job: Job, folder: RunFolder) -> tuple[Any, int, float]:
    """A trained model of stable-baselines3 with our policy, its tokens and seconds."""
    from agents.sb3 import SB3CausalLMPolicy, text_vec_env

    options, own = job.options, dict(job.hyperparameters)
    env = text_vec_env(
        options.env, options.n_envs, tokenizer=options.model, **task_arguments(options, "float32")
    )
    policy = {"model": options.model, "temperature": options.temperature}
    policy |= own.pop("policy_kwargs", {})
    anneal, rate = lr_schedule(own.pop("lr_schedule", "constant")), own.pop("learning_rate")
    algorithm: Any = job.candidate.what
    model = algorithm(
        SB3CausalLMPolicy, env, seed=options.seed, device=str(find_device(options.device)),
        policy_kwargs=policy, learning_rate=lambda left: rate * anneal(left), **own,
    )  # fmt: skip
    model.set_logger(sb3_logger.configure(str(folder.path), ["csv"]))
    began = time.perf_counter()
    model.learn(options.total_timesteps)
    return model, model.num_timesteps, time.perf_counter() - began
