"""Several candidates, on several seeds and tasks: one table of runs, and what it says.

`agents.compare` makes them; ``found.summary()``, ``found.save("runs/compared")``.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import files
from agents.evaluation import Returns, TextEvaluation, aggregates, statistics
from agents.evaluation.optimum import Attainable
from agents.evaluation.statistics import Interval
from agents.evaluation.tables import print_aggregates, print_comparison
from agents.training.console import RunConsole
from textenv.arguments import as_path

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_SEED = 1_000_000  # different from the seeds of training
COLUMNS = 80  # of a terminal, where it is printed
DIFFERENCE_COLUMNS = [
    "task", "better", "worse", "difference", "low", "high", "p_value", "probability_of_improvement",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Run:
    """One candidate on one seed of one task, at its end."""

    task: str  # the id of the environment
    candidate: str  # its name
    seed: int  # of its learning; of a candidate that did not learn, the number of the draw
    evaluation: TextEvaluation | Returns  # on the same prompts as those of all others
    timesteps: int = 0  # what it learned from; 0 without learning
    seconds: float = 0.0  # for how long it learned

    def __repr__(self) -> str:
        return f"{self.candidate} on {self.task}, seed {self.seed}: {self.evaluation!r}"

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
        import pandas as pd

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


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs, as tables of pandas.

    All candidates of a task were evaluated on the same prompts, so that a hard prompt is hard for
    all and no reason for a difference.

    Attributes:
        entries: the runs.
        attainable: for each task the optimum and best-of-n, where they are known.
    """

    entries: Sequence[Run]
    attainable: Mapping[str, Attainable | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        written = io.StringIO()
        to = RunConsole(file=written, width=COLUMNS, force_jupyter=False, color_system=None)
        for task in self.tasks:
            to.say(f"{task}, {len(self.returns(task))} candidates")
            print_comparison(self, task, to)
        print_aggregates(self, to)
        return written.getvalue().rstrip()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: means over its episodes.

        Columns: task, candidate, seed, return, score, kl (nats per episode), length (tokens),
        distinct_2, tokens_per_answer (best of n samples several), timesteps, seconds.
        """
        import pandas as pd

        return pd.DataFrame([run.columns() for run in self.entries])

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """A row for each episode: task, candidate, seed, episode, return, score, kl, texts."""
        import pandas as pd

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

    def timesteps(self, task: str) -> dict[str, float]:
        """For each candidate that learned, from how many tokens, the mean over its runs."""
        rows = self.runs[(self.runs["task"] == task) & (self.runs["timesteps"] > 0)]
        return rows.groupby("candidate", sort=False)["timesteps"].mean().to_dict()

    def summary(self) -> pd.DataFrame:
        """A row for each task and candidate, the highest return first.

        Columns: seeds; return with the 95 % t-interval over seeds (return_low, return_high); its
        interquartile mean; share of the way from the untouched model to the optimum, if that is
        known; means of the other columns of `runs`.
        """
        import pandas as pd

        found = []
        for task in self.tasks:
            reach = self.attainable.get(task)
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

        The intervals hold for all pairs of a task together
        (`agents.evaluation.statistics.all_differences`). Left out are candidates of unknown return,
        and those with a single seed.
        """
        found = {}
        for task in self.tasks:
            returns = self.returns(task).items()
            known = {name: r for name, r in returns if np.isfinite(r).all() and len(r) > 1}
            found[task] = statistics.all_differences(known)
        return found

    @cached_property
    def normalised(self) -> dict[str, list[np.ndarray]]:
        """For each candidate its returns ``[runs]`` in each of several tasks, in their order, where
        0 is the untouched reference and 1 the optimum.

        Empty if there is one task, or one whose optimum is unknown. Left out are candidates without
        two runs of known return in each task.
        """
        reaches = [self.attainable.get(task) for task in self.tasks]
        if len(reaches) < 2 or None in reaches:
            return {}
        found: dict[str, list[np.ndarray]] = {}
        for task, reach in zip(self.tasks, reaches, strict=True):
            for name, returns in self.returns(task).items():
                share = np.array([reach.optimum.share(value) for value in returns])  # type: ignore[union-attr]
                if len(share) > 1 and np.isfinite(share).all():
                    found.setdefault(name, []).append(share)
        return {name: shares for name, shares in found.items() if len(shares) == len(reaches)}

    @cached_property
    def aggregate_differences(self) -> list[statistics.Difference]:
        """Which candidates differ in the interquartile mean over all tasks, as `differences`."""
        return aggregates.all_differences(self.normalised) if len(self.normalised) > 1 else []

    def aggregates(self) -> pd.DataFrame:
        """A row for each candidate of `normalised`, the highest interquartile mean first.

        Columns: interquartile_mean and optimality_gap over the runs of all tasks, each with its
        95 % interval (``_low``, ``_high``); the mean of each task; and for each other candidate the
        probability that a run is above one of its on the same task. No rows where `normalised` has
        none.
        """
        import pandas as pd

        measures = {
            "interquartile_mean": aggregates.interquartile_mean,
            "optimality_gap": aggregates.optimality_gap,
        }
        found = []
        for name, shares in self.normalised.items():
            row: dict[str, Any] = {"candidate": name}
            for measure, aggregate in measures.items():
                about = aggregates.interval(shares, aggregate)
                row |= {measure: about.mean, f"{measure}_low": about.low}
                row |= {f"{measure}_high": about.high}
            row |= {task: each.mean() for task, each in zip(self.tasks, shares, strict=True)}
            for other, theirs in self.normalised.items():
                row[f"above {other}"] = aggregates.probability_of_improvement(shares, theirs)
            found.append(row)
        table = pd.DataFrame(found, columns=None if found else ["candidate", *measures])
        return table.sort_values("interquartile_mean", ascending=False, ignore_index=True)

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
        if task is None and len(self.tasks) > 1:
            raise ValueError(f"task= must be one of {', '.join(self.tasks)}.")
        if over == "prompts" and "prompt" not in self.episodes:
            raise ValueError("These episodes have no prompts: compare over='seeds'.")
        task = self.tasks[0] if task is None else task
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
        if common.empty:
            raise ValueError(f"{first!r} and {second!r} have no seed in common.")
        return statistics.paired_difference(one[common].to_numpy(), other[common].to_numpy())

    def difference_table(self) -> pd.DataFrame:
        """`differences` of every task: task, better, worse, difference, low, high, p_value,
        and the probability of improvement (Agarwal et al. 2021)."""
        import pandas as pd

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
        return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)

    def save(self, folder: str | Path) -> Path:
        """Write ``summary.csv``, ``runs.csv``, ``differences.csv``, of several tasks
        ``aggregates.csv``, the same as one ``comparison.json``, and the episodes:
        ``episodes.parquet``, or CSV without pyarrow. The folder is made if it is missing, and
        returned."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            "summary": self.summary(), "runs": self.runs, "differences": self.difference_table()
        }  # fmt: skip
        if self.normalised:
            tables["aggregates"] = self.aggregates()
        for name, table in tables.items():
            files.write_text(folder / f"{name}.csv", table.to_csv(index=False))
        parts = [f'"{name}": {table.to_json(orient="records")}' for name, table in tables.items()]
        files.write_text(folder / "comparison.json", "{" + ",\n".join(parts) + "}\n")
        if importlib.util.find_spec("pyarrow") is not None:
            with files.replacing_file(folder / "episodes.parquet") as new:
                self.episodes.to_parquet(new, index=False)
        else:
            files.write_text(folder / "episodes.csv", self.episodes.to_csv(index=False))
        return folder
