"""What is written and shown while an agent learns, as a callback of stable-baselines3."""

import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from agents import distributed, files
from agents.evaluation.tables import sample_line
from agents.experience import environments
from agents.runs.folder import RunFolder
from agents.runs.log import LOG_MEGABYTES, MB, Completions, run_logger
from agents.runs.signals import Signals
from agents.saving import agent_folder
from agents.sb3.callbacks import RolloutCallback
from agents.training.console import console
from agents.training.metrics import groups_without_spread
from textenv.arguments import Range, check_ranges
from textenv.prompts.chat import asked

SAVE_EVERY = "2 min"
UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0,
         "hour": 3600.0}  # fmt: skip
COMPLETIONS = 8  # episodes of each rollout that are written
IN_TENSORBOARD = 3  # and of these, those that TensorBoard shows
WITHOUT_SPREAD = 3  # rollouts in a row after which a warning says that there is nothing to learn


class RunRecorder(RolloutCallback):
    """Writes the folder of a run while an agent learns (see `agents.runs.folder`).

        agent = PPO("CausalLMPolicy", "TextGen-v0", ...)
        agent.learn(150_000, callback=RunRecorder("runs/happy"))

    and after a break, or to learn more:

        agent = PPO.load("runs/happy")
        agent.learn(50_000, reset_num_timesteps=False,
                    callback=RunRecorder("runs/happy", resume=True))

    Of several processes the first one writes; the others only pass signals on.

    Args:
        folder: the folder, or a `RunFolder` that is locked already.
        save_every: time or rollouts between two checkpoints, "2 min", "30 s", "20 rollouts"; there
            is one at the end, too.
        show_samples: number of episodes to print after each rollout.
        resume: go on with the run in the folder.
        overwrite: replace a run that is in the folder.
        settings: what to write into ``settings.json``, beside what describes the agent.
        signals: which signals wait for the end of an update.
        log_megabytes: at most this much of completions, table and events, together. What has
            reached its share is thinned evenly: it has every second rollout, every fourth, ...

    Raises:
        FileExistsError: there is a run in the folder already.
        ValueError: ``save_every`` cannot be read.
    """

    model: Any

    def __init__(
        self,
        folder: str | Path | RunFolder,
        save_every: str = SAVE_EVERY,
        show_samples: int = 0,
        resume: bool = False,
        overwrite: bool = False,
        settings: dict[str, Any] | None = None,
        signals: Signals | None = None,
        log_megabytes: Annotated[float, Range(above=0)] = LOG_MEGABYTES,
    ):
        super().__init__()
        check_ranges(RunRecorder.__init__, {"log_megabytes": log_megabytes})
        self.log_megabytes = log_megabytes
        self.seconds, self.rollouts = parse_interval(save_every)
        self.folder, self.show_samples, self.resume = folder, show_samples, resume
        self.overwrite, self.settings = overwrite, dict(settings or {})
        self.given_signals = signals
        self.best_return = -np.inf
        self.last_return: float | None = None  # of the last rollout in which an episode ended
        self.without_spread, self.patience = 0, WITHOUT_SPREAD

    # --- the moments of a run ---------------------------------------------------------------

    def _init_callback(self) -> None:
        self.is_text = bool(environments.text_environments(self.model.env))
        self.writes = distributed.is_main()
        self.signals = self.given_signals or Signals()  # which do nothing before they are entered
        self.opened = ExitStack()
        if not self.writes:
            return
        with ExitStack() as opened:  # after an error it closes what is open by then
            self._open(opened)
            self.opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        """Begin the run, or go on with the one in the folder."""
        agent, begins = self.model, 0
        if self.given_signals is None and distributed.process_count() > 1:
            # A launcher ends this process when another one has died: not before it has saved.
            opened.enter_context(self.signals)
        if isinstance(self.folder, RunFolder):
            self.run = self.folder
        else:
            self.run = RunFolder(self.folder)
            if self.resume:
                self.run.lock()
            else:
                self.run = RunFolder.create(self.folder, self.overwrite)
            opened.callback(self.run.unlock)
        if self.resume:
            self._check_goes_on()
            begins = agent.num_timesteps
            best = agent_folder.find(self.run.best)
            if best.is_dir():
                last = agent_folder.describe(best).get("last_return")
                self.best_return = -np.inf if last is None else last  # 0 is a return, too
        else:
            description = agent_folder.describe_agent(agent)
            self.run.write_settings(description | {"device": str(agent.device)} | self.settings)
        rollouts = agent.num_rollouts if self.resume else 0
        limit = self.log_megabytes * MB / 2
        self.completions = Completions(self.run.completions, begins, rollouts, limit)
        opened.callback(self.completions.close)
        logger = run_logger(self.run, begins, rollouts, self.log_megabytes)
        opened.callback(agent.set_logger, agent.given_logger)
        opened.callback(logger.close)
        agent.set_logger(logger)
        self._mark_saved()

    def _check_goes_on(self) -> None:
        """Raise an error unless the agent is the one of the newest checkpoint."""
        if not self.run.has_checkpoint:
            raise ValueError(f"The run in {str(self.run.path)!r} has no checkpoint to go on from.")
        saved = agent_folder.describe(agent_folder.find(self.run.newest))
        here = type(self.model).__name__, self.model.num_timesteps
        there = saved["algorithm"], saved["num_timesteps"]
        if here != there:
            raise ValueError(
                f"The run in {str(self.run.path)!r} is one of {there[0]} at {there[1]} timesteps, "
                f"the agent is {here[0]} at {here[1]}: load the agent from the run, and learn with "
                "reset_num_timesteps=False."
            )

    def _on_rollout_start(self) -> None:
        self.signals.check()
        if self.writes and self._due():
            self.save()
        # What a rollout of text has done can be undone, so a signal may interrupt it. Of several
        # processes none ends alone, where the others would not be told.
        self.signals.at_once = distributed.raises_in_all_processes if self.is_text else False

    def _on_rollout_end(self) -> None:
        self.signals.at_once = False  # the update is not to be left half done
        if not self.writes:
            return
        episodes = self.locals["rollout"].episodes
        returns = episodes["return"]
        if returns:
            self.last_return = float(np.mean(returns))
        if "response" in episodes and returns:
            self._write_completions(episodes)
            self._warn_without_spread(episodes["score"], self.model.group_size)

    def _on_training_end(self) -> None:
        """Save, unless an error has left an update half done, or came before there was one."""
        fails = sys.exception() is not None
        try:
            if self.writes and self.model.between_rollouts and not (fails and self._is_saved()):
                self.save()
        finally:
            self.signals.at_once = True
            self.opened.close()
        self.resume = True  # the same recorder, in another `learn`, goes on
        self.signals.check()

    # --- checkpoints ------------------------------------------------------------------------

    def save(self) -> None:
        """Write the newest checkpoint, and the best one if its last rollout was the best."""
        with self.signals.waiting():
            self.run.check_links()  # again: somebody may have made one
            last = {"last_return": self.last_return}
            agent_folder.save(self.model, self.run.newest, optimizer=True, **last)
            if self.last_return is not None and self.last_return > self.best_return:
                with files.replacing(self.run.best) as new:
                    files.link(self.run.newest, new)
                self.best_return = self.last_return
            self._mark_saved()

    def _is_saved(self) -> bool:
        """Whether nothing was learned since the last save. Several processes save something before
        the first one all the same, with which they can begin again."""
        saved = self.model.num_rollouts == self.saved_rollouts
        return saved and (self.run.has_checkpoint or distributed.process_count() == 1)

    def _mark_saved(self) -> None:
        self.saved_at, self.saved_rollouts = time.monotonic(), self.model.num_rollouts

    def _due(self) -> bool:
        if self.rollouts is not None:
            return self.model.num_rollouts - self.saved_rollouts >= self.rollouts
        return time.monotonic() - self.saved_at >= self.seconds

    # --- episodes ---------------------------------------------------------------------------

    def _write_completions(self, episodes: dict[str, list]) -> None:
        count = len(episodes["response"])
        # Evenly spread, so that they are not all of one group.
        rows = np.unique(np.linspace(0, count - 1, COMPLETIONS).astype(int)).tolist()
        columns = [name for name in episodes if len(episodes[name]) == count]
        chosen = [{name: episodes[name][row] for name in columns} for row in rows]
        self.completions.write(self.model.num_timesteps, chosen)
        text = "\n\n".join(
            f"**{one['score']:+z.2f}** {asked(one['prompt'])} ▸ {read(one)}"
            for one in chosen[:IN_TENSORBOARD]
        )
        self.logger.record("samples", text, exclude=("stdout", "log", "json", "csv"))
        for one in chosen[: self.show_samples]:
            console.say(*sample_line(one["score"], one["prompt"], read(one)))

    def _warn_without_spread(self, scores: list[float], group_size: int) -> None:
        equal = groups_without_spread(scores, group_size) == 1
        self.without_spread = self.without_spread + 1 if equal else 0
        if self.without_spread == self.patience:
            self.patience *= 10  # it is not said again and again
            what = "" if group_size == 1 else " of each group"
            warning = (
                f"In {self.without_spread} rollouts all scores{what} were equal, so there is "
                "nothing to learn from: look at the reward with show_samples=5 (--show-samples 5)."
            )
            console.say((warning, "yellow"))


def parse_interval(text: str) -> tuple[float, int | None]:
    """Seconds, or rollouts, between two checkpoints; the other one is infinite, or None. The text
    is a positive number and a unit: "30 s", "2 min", "1 h", "20 rollouts"."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+?)s?\s*", str(text).lower())
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if number > 0 and unit in UNITS:
        return number * UNITS[unit], None
    if number >= 1 and number == int(number) and unit == "rollout":
        return np.inf, int(number)
    raise ValueError(
        f"save_every={text!r} must be a time or a number of rollouts, such as '2 min', '30 s' or "
        "'20 rollouts'."
    )


def read(completion: dict[str, Any]) -> str:
    """The text of an episode as people read it: with the replies, if there are any."""
    return completion.get("transcript") or completion["response"]
