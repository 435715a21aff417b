"""Agents that the command line names: folders of runs, and models that never learned."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from agents.agent import Agent
from agents.evaluation.evaluate import algorithm_of
from agents.evaluation.sampling import ROWS, Sampler, sampler
from agents.experience import environments
from agents.runs import RunFolder
from agents.runs.fingerprints import CODE
from agents.runs.options import OF_DIALOGUE, evaluation_prompts, saved_options
from agents.saving import agent_folder
from textenv.arguments import Range

UNTOUCHED = "untouched"
OF_EPISODES = (
    "prompts", "reward", "max_new_tokens", "min_new_tokens", "stop", "chat", "legal_tokens",
    *OF_DIALOGUE,
)  # fmt: skip


@dataclass(kw_only=True)
class OfSavedAgent:
    """Options of the commands that load the agent of a folder."""

    reward: str | None = None
    """Another reward. A reward "module:function" must be given here: code that a file names is
    not imported."""
    respond: str | None = None
    """What replies in a dialogue, for the same reason."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""

    def load(self, folder: Path) -> Agent:
        """The newest agent of a run, or the one of a folder, in its task."""
        return load_saved(agent_folder.find(folder), self.code(), self.device)

    def code(self) -> dict[str, str]:
        """What is given of the reward and the responder."""
        return {name: value for name in CODE if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class OfCandidates:
    """Options of the commands in which agents answer the same prompts."""

    agents: list[str] = field(default_factory=lambda: ["bundled"])
    """One or two: folders of runs or of agents, models as for train, or "untouched", the model from
    which the first of them has learned."""
    prompts: str | None = None
    """As for train; by default those of the task."""
    max_new_tokens: Annotated[int | None, Range(1)] = None
    """Token budget of a response; by default that of the task."""
    seed: int = 0
    """Seed of prompts and texts."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""

    def given(self, reward: str | None) -> dict[str, Any]:
        """The arguments of the environment that were given on the command line."""
        values = {
            "prompts": self.prompts, "reward": reward, "max_new_tokens": self.max_new_tokens
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}


def open_candidates(
    sources: Sequence[str], given: dict[str, Any], device: str, held_out: bool = False
) -> list[Agent | Sampler]:
    """Agents that only sample, all in the task of the first one that learned.

    ``sources`` are folders of runs or of agents, models as for ``train``, or "untouched", the
    reference of that task; ``given`` are arguments of the environment that take precedence.
    ``held_out`` takes the prompts of a run's evaluations.
    """
    folders = [agent_folder.find(source) for source in sources]
    saved = [(folder / agent_folder.DESCRIPTION).is_file() for folder in folders]
    env_id, task, models = "TextGen-v0", dict(given), list(sources)
    described = agent_folder.describe(folders[saved.index(True)])["task"] if any(saved) else None
    if described is not None:
        prompts = prompts_of_evaluations(sources[saved.index(True)]) if held_out else None
        if prompts is not None:
            given = {"prompts": prompts, **given}
        env_id = described["id"]
        arguments = environments.saved_arguments(described, given)
        task = {name: value for name, value in arguments.items() if name in OF_EPISODES}
        if arguments.get("reference") is not None:
            models = [arguments["reference"] if one == UNTOUCHED else one for one in sources]
    if UNTOUCHED in models:
        raise ValueError(
            f"{UNTOUCHED!r} is the reference of the task of an agent that has learned, and there "
            "is none here: name a model instead, such as 'bundled'."
        )
    return [
        load_saved(folder, task, device, n_envs=ROWS)
        if learned
        else sampler(model, env_id, task, device)
        for model, folder, learned in zip(models, folders, saved, strict=True)
    ]


def options_of_run(source: str | Path) -> dict[str, Any]:
    """The options of a run of this command line; empty for any other source."""
    folder = RunFolder(source)
    return saved_options(folder) if folder.settings_file.is_file() else {}


def prompts_of_evaluations(source: str | Path) -> Any:
    """The prompts of a run's evaluations; None for those of its learning."""
    options = options_of_run(source)
    return evaluation_prompts(options.get("eval_prompts"), options.get("env", ""))


def reward_name(agent: Agent | Sampler) -> str:
    """The name of the reward of a text agent's environment."""
    return environments.text_environments(agent.env)[0].task.reward.name


def load_saved(folder: Path, task: dict[str, Any], device: str, **changes: Any) -> Agent:
    """The saved agent of a text task, of whichever algorithm."""
    algorithm, policy = algorithm_of(folder), agent_folder.describe(folder)["policy"]
    if policy != "CausalLMPolicy":
        raise ValueError(
            f"The agent in {str(folder)!r} generates no text (its policy is {policy}): evaluate it "
            "from Python, with agents.evaluate."
        )
    return algorithm.load(folder, env_kwargs=task, device=device, **changes)
