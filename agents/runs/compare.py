"""Several candidates on several seeds and tasks, each run in a folder; one engine for all of them.

task = {"reference": "bundled", "kl_coef": 0.1}
print(agents.compare(["ppo", "ppo(n_epochs=2)", "sb3:PPO", "best-of-4"], env_kwargs=task))
print(agents.compare({"mine": MyAgent, "slow": (PPO, {"learning_rate": 1e-5})}, env_kwargs=task))
"""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import gymnasium as gym
import stable_baselines3.common.logger as sb3_logger
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import files
from agents.agent import Agent
from agents.evaluation import Returns, TextEvaluation, statistics
from agents.evaluation.candidates import UNTRAINED
from agents.evaluation.comparison import EVALUATION_SEED, Comparison, Run
from agents.evaluation.evaluate import evaluate
from agents.evaluation.optimum import Attainable, Known
from agents.evaluation.plots import comparison, read_progress
from agents.evaluation.sampling import sampler
from agents.experience import environments
from agents.runs.folder import RunFolder
from agents.runs.names import is_name, parse_candidate
from agents.runs.options import RunOptions, defaults_of, settings_of_task
from agents.runs.recorder import RunRecorder
from agents.runs.signals import Signals
from agents.runs.train import measure_attainable, stored_attainable
from agents.sb3.models import text_model
from agents.training import presets
from agents.training.console import console, drawing
from agents.training.device import find_device
from agents.training.progress import ProgressBar
from textenv import TASKS
from textenv.arguments import Range, as_path, brief, check_names, check_ranges
from textenv.sharing import is_data, plain

WAIT = 1.0  # seconds between two looks at runs that other processes make
RENAMED = {"n_episodes": "eval_episodes"}  # settings that earlier releases called otherwise


@dataclass(frozen=True)
class Job:
    """One run to make."""

    task: str  # the id of the environment
    candidate: str  # its name
    seed: int  # of its learning; of a candidate that does not learn, the number of the draw
    path: Path
    settings: dict[str, Any]  # what defines it
    learns: bool  # whether it has a curve
    # Makes the run in its locked folder, from where it was broken off if it can be gone on with: of
    # the folder, what is attainable as far as that is known, and the signals that wait. Returns
    # what is attainable.
    carry_out: Callable[[RunFolder, Known, Signals], Known]
    goes_on: bool  # whether a run that was broken off can be gone on with
    on_seed: Callable[[int], Job]  # the same job on another seed
    make: Callable[[], Any]  # makes what learns, as the run will

    def check_folder(self, overwrite: bool) -> None:
        """Raise an error if the folder holds what is no run, or a run of other settings."""
        files.check_no_links(self.path)
        folder = RunFolder(self.path)
        if folder.is_run() and not overwrite:
            found, wanted = folder.settings(), json.loads(json.dumps(self.settings, default=str))
            for part, values in wanted.items():
                before = found.get(part, {})
                others = {RENAMED.get(name, name): value for name, value in before.items()}
                for name in sorted(others):  # an earlier release may have had fewer
                    if values.get(name) != others[name]:
                        raise FileExistsError(
                            f"The run in {str(self.path)!r} has {name}={others[name]!r}, not "
                            f"{values.get(name)!r}: choose another folder, or overwrite it "
                            "(overwrite=True, --overwrite)."
                        )
        elif not folder.is_run() and self.path.is_dir():
            if folder.settings_file.exists():
                folder.settings()  # which names what is wrong with them
            if any(not path.name.startswith(".") for path in self.path.iterdir()):
                raise FileExistsError(
                    f"The folder {str(self.path)!r} is not empty and holds no run that can be "
                    "read: remove it, or choose another folder."
                )

    def result(self) -> Run:
        """The finished run, from its folder."""
        folder = RunFolder(self.path)
        after = folder.evaluations()["after"]
        kind = TextEvaluation if "score" in after else Returns
        found = kind.load(folder.episodes("after"), after)
        with files.reading(folder.evaluation):
            timesteps, seconds = after["timesteps"], after["seconds"]
        return Run(self.task, self.candidate, self.seed, found, timesteps, seconds)


class Comparing:
    """Finishes jobs one after the other, and tells ``report`` what begins."""

    def __init__(self, signals: Signals, report: Callable[[str], Any]):
        self.signals, self.report = signals, report
        self.planned: list[Job] = []
        self.finished: list[Job] = []
        self.attainable: dict[str, Known] = {}  # of each task, the same in all its runs

    def prepare(self, jobs: Sequence[Job], overwrite: bool = False) -> None:
        """Raise an error if one of the runs cannot be made, before the first one takes its time,
        and remove what is to be replaced, all at once, so that what is there later is new."""
        for job in jobs:
            job.check_folder(overwrite)
        known = {(job.task, job.candidate) for job in self.planned}
        first: dict[tuple[str, str], Job] = {}
        for job in jobs:
            begun = RunFolder(job.path).is_run() and not overwrite
            if not begun and (job.task, job.candidate) not in known:
                first.setdefault((job.task, job.candidate), job)
        if len(first) > 1:  # a single one begins at once
            self.report("seeing that each candidate can be made")
            for job in first.values():
                job.make()
        if overwrite:
            for job in jobs:
                RunFolder.create(job.path, overwrite=True).unlock()

    def run(
        self,
        jobs: Sequence[Job],
        until_decided: float | None = None,
        max_seeds: int = 0,
        overwrite: bool = False,
    ) -> Comparison:
        """Finish the jobs, which are prepared, and as many further seeds as it takes (`compare`),
        which replace those that are there if ``overwrite`` says so."""
        while jobs:
            self.planned += jobs
            self.finish_all(jobs)
            jobs = self.undecided(until_decided, max_seeds)
            self.prepare(jobs, overwrite)
        return self.comparison()

    def finish_all(self, jobs: Sequence[Job]) -> None:
        """See to it that runs are finished, by this process or by another one that works in the
        same folder."""
        left, waiting = list(jobs), False
        while left:
            others = [job for job in left if not self.finish(job)]
            if len(others) == len(left):
                if not waiting:
                    self.report(f"waiting for another process, which makes {len(left)} of the runs")
                waiting = True
                time.sleep(WAIT)
            left = others
        self.finished.sort(key=self.planned.index)

    def finish(self, job: Job) -> bool:
        """See to it that a run is finished; one that is there already is not repeated. False if
        another process is at work on it."""
        folder = RunFolder(job.path)
        try:
            if not folder.is_run():
                folder = RunFolder.create(folder.path)
            elif not folder.finished:
                folder.lock()
        except BlockingIOError:
            return False
        known = self.known(job.task)
        try:
            if folder.finished:
                known = stored_attainable(folder) if known == (None, None) else known
            else:
                if not job.goes_on:
                    folder.clear()
                number = self.planned.index(job) + 1
                self.report(f"run {number} of {len(self.planned)}: {job.candidate} on {job.task}, "
                            f"seed {job.seed}")  # fmt: skip
                known = job.carry_out(folder, known, self.signals)
        finally:
            folder.unlock()
        self.attainable[job.task] = known
        self.finished.append(job)
        return True

    def known(self, task: str) -> Known:
        """What is attainable in a task, by a run of it that is finished."""
        if task in self.attainable:
            return self.attainable[task]
        of_task = (RunFolder(job.path) for job in self.planned if job.task == task)
        done = next((folder for folder in of_task if folder.is_run() and folder.finished), None)
        return (None, None) if done is None else stored_attainable(done)

    def comparison(self) -> Comparison:
        """What is finished so far."""
        attainable = {task: known[0] for task, known in self.attainable.items()}
        return Comparison([job.result() for job in self.finished], attainable)

    def undecided(self, width: float | None, max_seeds: int) -> list[Job]:
        """One more seed of each candidate whose interval is too wide; nothing when all is said."""
        if width is None:
            return []
        found, more = self.comparison(), []
        first = {(job.task, job.candidate): job for job in reversed(self.finished)}
        seeds = {(job.task, job.candidate, job.seed) for job in self.finished}
        for task in found.tasks:
            for name, returns in found.returns(task).items():
                wide = statistics.interval(returns).half_width > width
                if wide and len(returns) < max_seeds:
                    new = (n for n in itertools.count() if (task, name, n) not in seeds)
                    more.append(first[task, name].on_seed(next(new)))
        return more

    def draw(self, task: str, target: Path, title: str) -> bool:
        """The plot of what learned in a task, with the curves of its runs; whether there is one."""
        logs: dict[str, list] = {}
        ends: dict[str, list[tuple[float, float]]] = {}
        with drawing("plot"):
            for job in self.finished:
                progress = RunFolder(job.path).progress
                if job.task == task and job.learns and progress.is_file():
                    row = job.result().columns()
                    if "score" not in row:
                        return False  # the plot is one of text
                    ends.setdefault(job.candidate, []).append((row["kl"], row["score"]))
                    logs.setdefault(job.candidate, []).append(read_progress(progress))
            if logs:
                of_evaluation, of_learning = self.attainable[task]
                comparison(logs, ends, of_evaluation, target, title, of_learning)
                return True
        return False


def plot_file(folder: Path, task: str, tasks: Sequence[str]) -> Path:
    """The plot of one of the tasks of a comparison."""
    return folder / (f"comparison-{folder_name(task)}.png" if len(tasks) > 1 else "comparison.png")


def check_folders(names: Sequence[str], what: str) -> None:
    """Raise an error where two names are those of one folder, in which only one result is kept."""
    first: dict[str, str] = {}
    for name in names:
        folder = folder_name(name)
        if folder in first:
            raise ValueError(
                f"{what} names {first[folder]!r} and {name!r}, whose runs would lie in one folder, "
                f"{folder!r}: name each once, by other letters or digits."
            )
        first[folder] = name


def write_result(
    folder: RunFolder, found: TextEvaluation | Returns, timesteps: int, seconds: float
) -> None:
    """Write the evaluation of a run that has none before its learning."""
    found.save(folder.episodes("after"))
    summary = found.summary() | {"timesteps": timesteps, "seconds": seconds}
    files.write_json(folder.evaluation, {"after": summary})


# --- from Python --------------------------------------------------------------------------------


def compare(
    candidates: Mapping[str, Any] | Sequence[str],
    env: str | Sequence[str] | Mapping[str, int] = "TextGen-v0",
    seeds: int | Sequence[int] = 5,
    total_timesteps: Annotated[int, Range(1)] = 30_000,
    eval_episodes: Annotated[int, Range(1)] = 512,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    policy_kwargs: Mapping[str, Any] | None = None,
    prompts: Any = None,
    reference_episodes: Annotated[int, Range(0)] = 1024,
    evaluation_seed: Annotated[int, Range(0)] = EVALUATION_SEED,
    until_decided: Annotated[float | None, Range(above=0)] = None,
    max_seeds: Annotated[int, Range(1)] = 20,
    folder: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    report: Callable[[str], Any] | None = None,
) -> Comparison:
    """Train and evaluate each candidate on each seed of each task.

    Args:
        candidates: names as on the command line: "ppo", "ppo(n_epochs=2)", "sb3:PPO",
            "module:Class", "untouched", "greedy", "random", "best-of-4". Or a mapping from names of
            your own to one of these; an agent's class or one of stable-baselines3, or (class,
            hyper-parameters); a function of the seed that makes an agent or a model of
            stable-baselines3 to be trained; or something that is evaluated as it is, as
            `agents.evaluate` takes it.
        env: ids of environments; a mapping says how many timesteps each has, as
            ``agents.SUITES["small"].tasks``.
        seeds: their number, or the seeds themselves.
        total_timesteps: of each run's learning: tokens, for text.
        eval_episodes: of each evaluation.
        env_kwargs: arguments of the environments.
        policy_kwargs: arguments of the policies of classes; by default the reference's model, if it
            is named.
        prompts: of the evaluations; None for those of the environment, "held_out" for those that a
            registered task has for them.
        reference_episodes: episodes of the reference, from which the optimum of a text task with a
            cost of KL is estimated; 0 leaves it out.
        evaluation_seed: the seed of the prompts of all evaluations.
        until_decided: add seeds to those whose 95 % interval of the mean return is wider than this
            to either side; intervals that end such a search are a little too narrow.
        max_seeds: at most this number of seeds for ``until_decided``.
        folder: of all runs, each in a folder of its own; those that are finished there are not
            repeated, and agents that are not go on; with the tables and the plot. None keeps
            nothing but what is returned.
        overwrite: repeat runs that are in the folder.
        device: as of `Agent`.
        report: is told what begins; None prints it.

    Raises:
        FileExistsError: the folder has runs of other settings.
    """
    check_ranges(compare, locals())
    if isinstance(candidates, list | tuple) and all(isinstance(one, str) for one in candidates):
        candidates = {name: name for name in candidates}
    named = isinstance(candidates, Mapping) and all(isinstance(name, str) for name in candidates)
    if not isinstance(candidates, Mapping) or not named:
        raise TypeError(
            "candidates must be names, such as ['ppo', 'best-of-4'], or a mapping of names, such "
            f"as {{'PPO': PPO, 'best of 4': BestOfN(4)}}, and not {brief(candidates)}."
        )
    check_folders(list(candidates), "candidates")
    candidates = {name: _named(candidate) for name, candidate in candidates.items()}
    if not isinstance(env, Iterable):
        raise TypeError(f"env={env!r} must be the id of an environment, or several of them.")
    tasks = [env] if isinstance(env, str) else list(dict.fromkeys(env))
    budgets = env if isinstance(env, Mapping) else dict.fromkeys(tasks, total_timesteps)
    numbers = _seeds(seeds)
    for name, value in (("env_kwargs", env_kwargs), ("policy_kwargs", policy_kwargs)):
        if not isinstance(value, Mapping | None):
            raise TypeError(f"{name}={value!r} must be a mapping of arguments, such as a dict.")
    for name, values in (("candidates", candidates), ("env", tasks), ("seeds", numbers)):
        if not values:
            raise ValueError(f"{name} is empty: there is nothing to compare.")
    for budget in budgets.values():
        check_ranges(compare, {"total_timesteps": budget})
    common = {
        "eval_episodes": eval_episodes, "env_kwargs": env_kwargs, "policy_kwargs": policy_kwargs,
        "evaluation_seed": evaluation_seed, "reference_episodes": reference_episodes,
        "device": device,
    }  # fmt: skip
    of_task = {
        task: {"total_timesteps": budgets[task], "prompts": _prompts(prompts, task), **common}
        for task in tasks
    }
    with ExitStack() as stack:
        temporary = stack.enter_context(TemporaryDirectory()) if folder is None else folder
        jobs = [
            _job(Path(temporary), name, candidates[name], task, seed, of_task[task])
            for task in tasks
            for seed in numbers
            for name in candidates
        ]
        signals = stack.enter_context(Signals())
        comparing = Comparing(signals, report or console.say)
        comparing.prepare(jobs, overwrite)
        found = comparing.run(jobs, until_decided, max_seeds, overwrite)
        if folder is not None:
            found.save(folder)
            for task in tasks:
                comparing.draw(task, plot_file(as_path(folder), task, tasks), task)
        return found


def folder_name(candidate: str) -> str:
    """The name of a candidate as a part of a folder's name."""
    return re.sub(r"[^\w.=+-]+", "-", candidate).strip("-")


def _job(
    folder: Path, name: str, candidate: Any, task: str, seed: int, common: dict[str, Any]
) -> Job:
    """The run of a candidate that was given in Python."""
    is_pair = isinstance(candidate, tuple) and len(candidate) == 2
    cls, arguments = candidate if is_pair else (candidate, {})
    is_agent = isinstance(cls, type) and issubclass(cls, Agent)
    of_sb3 = isinstance(cls, type) and issubclass(cls, OnPolicyAlgorithm)
    acts = any(hasattr(candidate, member) for member in ("predict", "act"))
    as_it_is = (acts and not isinstance(candidate, type)) or isinstance(
        candidate, UNTRAINED | str | Path
    )
    known_class = is_agent or of_sb3
    makes = callable(candidate) and not isinstance(candidate, type)
    if not (known_class or as_it_is or makes) or not isinstance(arguments, Mapping):
        raise TypeError(
            f"{candidate!r} cannot be compared: give a name, an agent's class, (class, "
            "hyper-parameters), a function of the seed that makes something, or what "
            "agents.evaluate takes."
        )
    described = {"candidate": _described(candidate), "task": task, "seed": seed, **common}
    settings = {
        "comparison": {key: _described(value) for key, value in described.items()},
        # These may be others in another release.
        "chosen": _chosen(cls, arguments, task, common) if is_agent else {},
    }

    def make() -> Any:
        if is_agent:
            return _agent(cls, arguments, task, seed, common)
        return _of_sb3(cls, arguments, task, seed, common) if of_sb3 else candidate

    def carry_out(run: RunFolder, known: Known, signals: Signals) -> Known:
        if run.has_checkpoint:
            live = {} if common["env_kwargs"] is None else {"env_kwargs": common["env_kwargs"]}
            actor = cls.load(run.newest, device=common["device"], **live)
        else:
            actor = make() if known_class or as_it_is else candidate(seed)
        if not run.is_run():
            run.write_settings(settings)
        learns = actor is not candidate and hasattr(actor, "learn")
        left = common["total_timesteps"] - getattr(actor, "num_timesteps", 0)
        began, timesteps, seconds = time.perf_counter(), 0, 0.0
        if isinstance(actor, Agent) and learns:
            recorder = RunRecorder(
                run, resume=run.has_checkpoint, settings=settings, signals=signals
            )
            bar = ProgressBar(visible=console.is_terminal or console.is_jupyter)
            actor.learn(max(left, 0), recorder, progress_bar=bar, reset_num_timesteps=False)
        elif learns:
            logs = {}
            if of_sb3:  # a row for each rollout, by which its curve is drawn
                actor.set_logger(sb3_logger.configure(str(run.path), ["csv"]))
                logs["log_interval"] = 1
            actor.learn(left, **logs)
        if learns:
            timesteps, seconds = actor.num_timesteps, time.perf_counter() - began
            seconds = getattr(actor, "learning_seconds", seconds)
        found = evaluate(
            actor, None if learns else task, common["eval_episodes"], common["evaluation_seed"],
            prompts=common["prompts"], env_kwargs=copy.deepcopy(common["env_kwargs"]),
            device=common["device"], draw=seed,
        )  # fmt: skip
        if known == (None, None):
            reach = _reach(actor, task, common)
            known = reach, reach
        if known[0] is not None:  # for the same comparison later, and for its report
            known[0].save(run.reference_scores)
        write_result(run, found, timesteps, seconds)
        return known

    path = folder / f"{folder_name(name)}-{folder_name(task)}-{seed}"
    return Job(
        task, name, seed, path, settings, learns=not as_it_is, carry_out=carry_out,
        goes_on=is_agent,
        on_seed=lambda other: _job(folder, name, candidate, task, other, common), make=make,
    )  # fmt: skip


def _seeds(seeds: Any) -> list[int]:
    """The seeds, each once."""
    several = isinstance(seeds, Iterable) and not isinstance(seeds, str)
    numbers, allowed = list(seeds) if several else [seeds], Range(0).of(int)
    if not all(number in allowed for number in numbers):
        raise ValueError(f"seeds={seeds!r} must be their number, or {allowed} for each.")
    return list(dict.fromkeys(map(int, numbers if several else range(numbers[0]))))


def _prompts(prompts: Any, task: str) -> Any:
    """The prompts of the evaluations in a task."""
    if not isinstance(prompts, str) or prompts != "held_out":
        return prompts
    registered = TASKS.get(task.rpartition(":")[2])  # "textenv:Haiku-v0" is one as well
    if registered is None:
        raise ValueError(
            f"prompts='held_out' are those of registered tasks, of which {task!r} is none: give "
            "the prompts themselves."
        )
    return registered.held_out


def _named(candidate: Any) -> Any:
    """What a name means: a class, with its hyper-parameters if it has any, or what needs no
    training. The path of a saved agent, and whatever is no text, stays."""
    if not isinstance(candidate, str) or (as_path(candidate).exists() and not is_name(candidate)):
        return candidate
    found = parse_candidate(candidate)
    if not found.arguments:
        return found.what
    check_names(found.what, found.arguments, ["n_envs"])  # which an algorithm of sb3 has here
    return found.what, found.arguments


def _reach(actor: Any, task: str, common: dict[str, Any]) -> Attainable | None:
    """What is attainable in a task of text with a reference that costs KL."""
    count = common["reference_episodes"]
    given = environments.with_own_kl_coef(environments.imported(task), common["env_kwargs"])
    if not isinstance(actor, Agent):
        whole = {**gym.spec(environments.imported(task)).kwargs, **given}
        reference = whole.get("reference")
        if reference is None or not whole.get("kl_coef") or count == 0:
            return None
        actor = sampler(reference, task, copy.deepcopy(given), common["device"])
    return measure_attainable(actor, environments.kl_coef(actor.env), count, common["prompts"])


def _of_sb3(
    cls: type[OnPolicyAlgorithm],
    arguments: Mapping[str, Any],
    task: str,
    seed: int,
    common: dict[str, Any],
) -> OnPolicyAlgorithm:
    """A model of stable-baselines3: on text with our policy, as the command line compares it."""
    # Live objects are new in each run, as they are for an agent.
    given, policy, own = (
        copy.deepcopy(dict(each or {}))
        for each in (common["env_kwargs"], common["policy_kwargs"], arguments)
    )
    device, task = str(find_device(common["device"])), environments.imported(task)
    own["policy_kwargs"] = {**policy, **own.get("policy_kwargs", {})}
    if not _is_text(task):
        env = make_vec_env(task, own.pop("n_envs", 1), seed=seed, env_kwargs=given)
        return cls(own.pop("policy", "MlpPolicy"), env, seed=seed, device=device, **own)
    reference = given.get("reference")
    model = own["policy_kwargs"].pop(
        "model", reference if isinstance(reference, str | Path) else "bundled"
    )
    budget = given.get("max_new_tokens") or defaults_of(task).get(
        "max_new_tokens", RunOptions.max_new_tokens
    )
    suits = presets.stable_baselines3(cls.__name__, model, budget)
    own["policy_kwargs"] = {**suits["policy_kwargs"], **own["policy_kwargs"]}
    return text_model(cls, task, model, env_kwargs=given, seed=seed, device=device, **suits | own)


def _agent(
    cls: type[Agent], arguments: Mapping[str, Any], task: str, seed: int, common: dict[str, Any]
) -> Agent:
    # Live objects, such as models and schedules of β, are new in each run.
    env_kwargs, policy_kwargs, arguments = (
        copy.deepcopy(each)
        for each in (common["env_kwargs"], _policy_kwargs(task, common), arguments)
    )
    suits = settings_of_task(task, policy_kwargs.get("model"), policy_kwargs.get("lora"))
    takes = inspect.signature(cls).parameters
    given = {name: value for name, value in suits.items() if name in takes} | {
        "seed": seed, "device": common["device"], "env_kwargs": env_kwargs,
        "policy_kwargs": policy_kwargs,
    }  # fmt: skip
    return cls("CausalLMPolicy" if _is_text(task) else "MlpPolicy", task, **{**given, **arguments})


def _policy_kwargs(task: str, common: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an agent's policy: it begins as the reference, where that has a name."""
    model = (common["env_kwargs"] or {}).get("reference")
    by_name = _is_text(task) and isinstance(model, str | Path)
    return {**({"model": model} if by_name else {}), **(common["policy_kwargs"] or {})}


def _chosen(
    cls: type[Agent], arguments: Mapping[str, Any], task: str, common: dict[str, Any]
) -> dict[str, Any]:
    """The hyper-parameters that are not given, but suit the class and the task."""
    policy = _policy_kwargs(task, common)
    of_model = policy.get("model"), policy.get("lora")
    suits = presets.hyperparameters(cls, _is_text(task), *of_model)
    suits |= settings_of_task(task, *of_model)
    return {name: value for name, value in suits.items() if name not in arguments}


def _is_text(task: str) -> bool:
    return environments.native_text_class(environments.imported(task)) is not None


def _described(value: Any) -> Any:
    """A setting as data; a live object by its kind, which does not change between two programs."""
    value = plain(value)
    if is_data(value):
        return value
    if isinstance(value, tuple | list):
        return [_described(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _described(part) for key, part in value.items()}
    return (
        repr(value)
        if isinstance(value, UNTRAINED)
        else getattr(value, "__qualname__", type(value).__name__)
    )
