"""Several candidates, on several seeds and tasks: one table of runs, and what it says.

found = compare({"PPO": PPO, "GRPO": (GRPO, {"learning_rate": 3e-4}), "untouched": Untouched()},
                env_kwargs={"reference": "bundled", "kl_coef": 0.1}, total_timesteps=20_000)
found.summary()
found.save("runs/compared")
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agents import environments, statistics, storage
from agents.agent import Agent
from agents.evaluation import TextEvaluation
from agents.evaluation.candidates import UNTRAINED
from agents.judge import Returns, evaluate
from agents.reference import WithinReach
from agents.statistics import Interval

EVALUATION_SEED = 1_000_000  # different from the seeds of training


@dataclass(frozen=True)
class Run:
    """One candidate on one seed of one task, at its end.

    Attributes:
        task: the id of the environment.
        candidate: its name.
        seed: of its learning; of a candidate that did not learn, the number of the draw.
        evaluation: its episodes, on the same prompts as those of all others.
        timesteps, seconds: what it learned from, and for how long; 0 without learning.
    """

    task: str
    candidate: str
    seed: int
    evaluation: TextEvaluation | Returns
    timesteps: int = 0
    seconds: float = 0.0

    def columns(self) -> dict[str, Any]:
        """Its row of `Comparison.runs`."""
        found = self.evaluation
        row = {"task": self.task, "candidate": self.candidate, "seed": self.seed}
        row["return"] = float(found.returns.mean())
        if isinstance(found, TextEvaluation):
            row["score"] = float(found.scores.mean())
            row["kl"] = float(found.kls.mean()) if len(found.kls) else np.nan
            row["length"] = float(found.lengths.mean())
            row["distinct_2"] = found.distinct_2
            row["tokens_per_answer"] = found.sampled_tokens / len(found.scores)
        return {**row, "timesteps": self.timesteps, "seconds": self.seconds}

    def episodes(self) -> pd.DataFrame:
        """Its rows of `Comparison.episodes`."""
        found = self.evaluation
        columns: dict[str, Any] = {"return": found.returns}
        if isinstance(found, TextEvaluation):
            columns |= {"score": found.scores, "length": found.lengths}
            columns |= {"kl": found.kls} if len(found.kls) else {}
            columns |= {"prompt": found.prompts, "response": found.responses}
        table = pd.DataFrame(columns)
        table.insert(0, "episode", range(len(table)))
        for name in ("seed", "candidate", "task"):
            table.insert(0, name, getattr(self, name))
        return table


@dataclass(frozen=True)
class Comparison:
    """Runs, as tables of pandas.

    All candidates of a task were evaluated on the same prompts, so that a hard prompt is hard for
    all and no reason for a difference.

    Attributes:
        entries: the runs.
        within_reach: for each task the optimum and best-of-n, where they are known.
    """

    entries: Sequence[Run]
    within_reach: Mapping[str, WithinReach | None] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: means over its episodes.

        Columns: task, candidate, seed, return, score, kl (nats per episode), length (tokens),
        distinct_2, tokens_per_answer (best of n samples several), timesteps, seconds.
        """
        return pd.DataFrame([run.columns() for run in self.entries])

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """A row for each episode: task, candidate, seed, episode, return, score, kl, texts."""
        return pd.concat([run.episodes() for run in self.entries], ignore_index=True)

    @property
    def tasks(self) -> list[str]:
        """Their ids, in the order of the runs."""
        return list(dict.fromkeys(run.task for run in self.entries))

    def returns(self, task: str) -> dict[str, list[float]]:
        """For each candidate the mean return of each of its runs."""
        rows = self.runs[self.runs["task"] == task]
        names = rows["candidate"].drop_duplicates()
        return {name: rows[rows["candidate"] == name]["return"].tolist() for name in names}

    def summary(self) -> pd.DataFrame:
        """A row for each task and candidate, the highest return first.

        Columns: seeds; return with the 95 % t-interval over seeds (return_low, return_high); its
        interquartile mean; share of the way from the untouched model to the optimum, if that is
        known; means of the other columns of `runs`.
        """
        found = []
        for task in self.tasks:
            reach = self.within_reach.get(task)
            for name, returns in self.returns(task).items():
                rows = self.runs[(self.runs["task"] == task) & (self.runs["candidate"] == name)]
                mean = statistics.interval(returns)
                share = np.nan if reach is None else reach.optimum.share(mean.mean)
                means = rows.drop(columns=["task", "candidate", "seed", "return"]).mean()
                found.append({
                    "task": task, "candidate": name, "seeds": len(rows), "return": mean.mean,
                    "return_low": mean.low, "return_high": mean.high,
                    "interquartile_mean": statistics.interquartile_mean(returns).mean,
                    "share": share, **means,
                })  # fmt: skip
        table = pd.DataFrame(found)
        return table.sort_values(["task", "return"], ascending=[True, False], ignore_index=True)

    @cached_property
    def differences(self) -> dict[str, list[statistics.Difference]]:
        """For each task, which candidates differ in return, and by how much.

        The intervals hold for all pairs of a task together (`agents.statistics.all_differences`).
        Left out are candidates of unknown return, and those with a single seed.
        """
        found = {}
        for task in self.tasks:
            returns = self.returns(task).items()
            known = {name: r for name, r in returns if np.isfinite(r).all() and len(r) > 1}
            found[task] = statistics.all_differences(known)
        return found

    def difference(
        self, first: str, second: str, over: str = "seeds", task: str | None = None
    ) -> Interval:
        """The mean return of one candidate minus that of another, with its 95 % interval.

        Args:
            first, second: names of candidates.
            over: "seeds" pairs the runs of the same seed: would other seeds agree? "prompts" pairs
                the episodes of the same prompt, of which each is the mean over the seeds: would
                other prompts agree, with these agents?
            task: the id of the environment; None if there is only one.

        Raises:
            ValueError: there is no such candidate, or they cannot be paired.
        """
        if over not in ("seeds", "prompts"):
            raise ValueError(f"over={over!r} must be 'seeds' or 'prompts'.")
        task = self.runs["task"].iloc[0] if task is None else task
        table, by = (self.runs, "seed") if over == "seeds" else (self.episodes, "episode")
        values = []
        for name in (first, second):
            rows = table[(table["task"] == task) & (table["candidate"] == name)]
            if rows.empty:
                known = ", ".join(self.returns(task))
                raise ValueError(f"There is no candidate {name!r} in {task}: use one of {known}.")
            values.append(rows.groupby(by)["return"].mean())
        one, other = values
        common = one.index.intersection(other.index)
        return statistics.paired_difference(one[common].to_numpy(), other[common].to_numpy())

    def difference_table(self) -> pd.DataFrame:
        """`differences` of every task: task, better, worse, difference, low, high, p_value,
        and the probability of improvement (Agarwal et al. 2021)."""
        rows = []
        for task, differences in self.differences.items():
            returns = self.returns(task)
            for one in differences:
                chance = statistics.probability_of_improvement(
                    returns[one.better], returns[one.worse]
                )
                rows.append({
                    "task": task, "better": one.better, "worse": one.worse,
                    "difference": one.interval.mean, "low": one.interval.low,
                    "high": one.interval.high, "p_value": one.p_value,
                    "probability_of_improvement": chance.mean,
                })  # fmt: skip
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> Path:
        """Write ``summary.csv``, ``runs.csv``, ``differences.csv``, the same as one
        ``comparison.json``, and the episodes: ``episodes.parquet``, or CSV without pyarrow.

        Args:
            folder: it is made if it is missing, and returned.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            "summary": self.summary(), "runs": self.runs, "differences": self.difference_table()
        }  # fmt: skip
        for name, table in tables.items():
            storage.write_text(folder / f"{name}.csv", table.to_csv(index=False))
        parts = [f'"{name}": {table.to_json(orient="records")}' for name, table in tables.items()]
        storage.write_text(folder / "comparison.json", "{" + ",\n".join(parts) + "}\n")
        if importlib.util.find_spec("pyarrow") is not None:
            self.episodes.to_parquet(folder / "episodes.parquet", index=False)
        else:
            storage.write_text(folder / "episodes.csv", self.episodes.to_csv(index=False))
        return folder


def compare(
    candidates: Mapping[str, Any],
    env: str | Sequence[str] = "TextGen-v0",
    seeds: int | Sequence[int] = 5,
    total_timesteps: int = 60_000,
    n_episodes: int = 512,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    policy_kwargs: Mapping[str, Any] | None = None,
    prompts: Any = None,
    evaluation_seed: int = EVALUATION_SEED,
    device: str = "auto",
    report: Callable[[str], Any] = print,
) -> Comparison:
    """Train and evaluate each candidate on each seed of each task, in this process.

    Args:
        candidates: by their names: an agent's class, or (class, hyper-parameters); a function of
            the seed that makes an agent or a model of stable-baselines3 to be trained; or something
            that is evaluated as it is, as `agents.evaluate` takes it.
        env: ids of environments.
        seeds: their number, or the seeds themselves.
        total_timesteps: of each run's learning: tokens, for text.
        n_episodes: of each evaluation.
        env_kwargs: arguments of the environments.
        policy_kwargs: arguments of the policies of classes; by default the reference's model.
        prompts: of the evaluations; None for those of the environment.
        evaluation_seed: the seed of the prompts of all evaluations.
        device: as of `Agent`.
        report: is told what begins.
    """
    tasks = [env] if isinstance(env, str) else list(env)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    plan = [(task, seed, name) for task in tasks for seed in numbers for name in candidates]
    entries = []
    for number, (task, seed, name) in enumerate(plan, 1):
        report(f"run {number} of {len(plan)}: {name} on {task}, seed {seed}")
        actor = _made(candidates[name], task, seed, env_kwargs, policy_kwargs, device)
        learns = actor is not candidates[name] and hasattr(actor, "learn")
        if learns:
            actor.learn(total_timesteps)
        found = evaluate(
            actor, None if learns else task, n_episodes, evaluation_seed, prompts=prompts,
            env_kwargs=env_kwargs, device=device, draw=seed,
        )  # fmt: skip
        timesteps, seconds = (
            (actor.num_timesteps, getattr(actor, "learning_seconds", np.nan)) if learns else (0, 0)
        )
        entries.append(Run(task, name, seed, found, timesteps, seconds))
    return Comparison(entries)


def _made(
    candidate: Any,
    task: str,
    seed: int,
    env_kwargs: Mapping[str, Any] | None,
    policy_kwargs: Mapping[str, Any] | None,
    device: str,
) -> Any:
    """What acts for a candidate on one seed: an untrained agent, or the candidate itself."""
    cls, arguments = candidate if isinstance(candidate, tuple) else (candidate, {})
    if isinstance(cls, type) and issubclass(cls, Agent):
        native = environments.native_text_class(environments.imported(task))
        policy = "MlpPolicy" if native is None else "CausalLMPolicy"
        model = (env_kwargs or {}).get("reference")
        of_policy = {} if native is None or model is None else {"model": model}
        return cls(policy, task, **{
            "seed": seed, "device": device, "env_kwargs": env_kwargs,
            "policy_kwargs": {**of_policy, **(policy_kwargs or {})}, **arguments,
        })  # fmt: skip
    acts = any(hasattr(candidate, name) for name in ("predict", "act"))
    if acts or isinstance(candidate, UNTRAINED | str | Path):
        return candidate
    if not callable(candidate):
        raise TypeError(
            f"A {type(candidate).__name__} cannot be compared: give an agent's class, (class, "
            "hyper-parameters), a function of the seed, or what agents.evaluate takes."
        )
    return candidate(seed)
