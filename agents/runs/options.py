"""The options of a training run: what they are, what fills in those that are not given.

Presets fit the algorithm and the model; a registered task has prompts, a reward and a budget of its
own. The options are data, so that a run can be made again from its ``settings.json``.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch

from agents import algorithms, files
from agents.experience import environments
from agents.runs.fingerprints import CODE, check_unchanged, fingerprints
from agents.runs.folder import RunFolder
from agents.runs.log import LOG_MEGABYTES
from agents.runs.recorder import SAVE_EVERY, parse_interval
from agents.training import presets
from agents.training.device import find_device
from agents.training.hyperparameters import hyperparameter_names
from textenv import TASKS
from textenv.arguments import Range, as_path, check_names, check_ranges, first_line
from textenv.rewards import names_code
from textenv.rewards.names import parse_name
from textenv.sharing import columns_of, plain, unwrap_shared

OF_TASK = "(task)"  # the value of an option that is left to the environment
HELD_OUT = "(held out)"  # the task's own prompts to evaluate with
OF_DIALOGUE = {
    "respond": str, "max_turns": int, "max_turn_tokens": int, "max_reply_tokens": int
}  # fmt: skip
TASK_OPTIONS = {
    "prompts": str, "reward": str, "max_new_tokens": int, "stop": list, "chat": bool,
    "legal_tokens": list, **OF_DIALOGUE,
}  # fmt: skip


# Arguments of an agent that are options of the run, or functions.
NOT_OFFERED = {"n_steps", "verbose", "seed", "advantage_fn", "reduction"}


@dataclass
class TaskOptions:
    """What runs are made from, alone or in a comparison."""

    model: str = "bundled"
    """"bundled", "smollm2", a folder, a .gguf file or a hub id. The reference is a copy of it."""
    reward: str = "sentiment"
    """A name ("sentiment", "haiku", "length(20)", "keyword(love)"), "module:function", or a
    sequence-classification model."""
    prompts: str = "bundled"
    """"bundled", a text file with one prompt per line, or a .jsonl, .json, .csv or .parquet file
    with a column "prompt" (texts) or "messages" (conversations); each may be compressed, .gz."""
    chat: bool = False
    """Make each prompt that is a plain text a message of the user, in the model's chat template."""
    max_new_tokens: Annotated[int, Range(1)] = 24
    """Token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, in addition to the end-of-sequence token."""
    legal_tokens: list[str] = field(default_factory=list)
    """The only tokens that may be chosen; by default all."""
    respond: str | None = None
    """"module:function" or "module:Class" that replies to each turn, which makes an episode a
    dialogue."""
    max_turns: Annotated[int, Range(1)] = 4
    """Turns of a dialogue."""
    max_turn_tokens: Annotated[int | None, Range(1)] = None
    """Token budget of a turn; by default what is left of max_new_tokens, which counts all turns."""
    max_reply_tokens: Annotated[int, Range(1)] = 32
    """Tokens of a reply; a longer one is cut."""
    overwrite: bool = False
    """Replace a run that is in the folder."""
    save_every: str = SAVE_EVERY
    """Time or rollouts between two checkpoints: "30 s", "2 min", "20 rollouts"."""
    eval_prompts: str | None = None
    """Held-out prompts for both evaluations and the optimum, as for --prompts; by default those of
    the learning."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of acting and of the forward passes. The weights that learn are always float32.
    "auto" is bfloat16 if the hardware is fast with it and the model is not tiny."""


@dataclass
class RunOptions(TaskOptions):
    """What a training run of the command line, or of `agents.train`, is made from."""

    agent: str = "ppo"
    """The algorithm: ppo, reinforce, actor-critic, rloo, grpo, trpo, lookahead, or "module:Class"
    of your own. It has its own options."""
    env: str = "TextGen-v0"
    """The task: TextGen-v0 with the options below, or Haiku-v0, DigitSum-v0, ..., or
    "module:Id-v0" of your own, whose prompts, reward and budget are then their defaults."""
    reward_timeout: float | None = None
    """Seconds that scoring a rollout may take; by default any time."""
    reward_retries: int = 0
    """How often a reward that raises an error is asked again, before the run ends."""
    total_timesteps: Annotated[int, Range(1)] = 60_000
    """Tokens to generate while learning."""
    kl_coef: Annotated[float, Range(0)] = 0.05
    """β, the cost of a nat of KL to the reference, in units of the score."""
    temperature: float = 1.0
    """Temperature of sampling, in learning and in evaluation."""
    critic_layers: int | None = None
    """Layers of the critic's own body, which begins as a copy of the model's first ones; 0 puts the
    value head on the model itself. Not given, it suits the algorithm and the model."""
    lora: Annotated[int | None, Range(1)] = None
    """Learn adapters of this rank (16, say) instead of all weights: less memory, larger steps."""
    n_envs: int = 256
    """Episodes per rollout."""
    seed: int = 0
    """The same seed gives exactly the same run, on the same CPU and number of threads."""
    output: Path | None = None
    """Folder of the run, which must be new; by default runs/AGENT-MODEL-SEED, with a number if that
    exists."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it ended, with its own settings; or with
    more --total-timesteps."""
    show_samples: Annotated[int, Range(0)] = 0
    """Episodes to print after each rollout."""
    log_megabytes: Annotated[float, Range(above=0)] = LOG_MEGABYTES
    """At most this much of completions, table and events of the run, which are thinned evenly."""
    eval_episodes: Annotated[int, Range(1)] = 512
    """Episodes of the evaluations before and after."""
    reference_episodes: Annotated[int, Range(0)] = 1024
    """Episodes of the untouched model, from which the optimal return and best-of-n are computed.
    0 leaves them out."""

    def settings(self, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """What defines the run, as data; not where it is, or what it shows."""
        options = {name: getattr(self, name) for name in OPTIONS if name not in NOT_OF_THE_RUN}
        return {
            "options": options, "chosen": hyperparameters, "made_from": fingerprints(self)
        }  # fmt: skip

    def evaluation_prompts(self) -> Any:
        """The prompts of both evaluations; None for those of the learning."""
        return evaluation_prompts(self.eval_prompts, self.env)


OPTIONS = [each.name for each in dataclasses.fields(RunOptions)]
# Those that say where a run is, or what it shows, and do not define it.
NOT_OF_THE_RUN = ("resume", "output", "overwrite", "save_every", "show_samples")


def offered_hyperparameters(cls: type) -> list[str]:
    """The hyper-parameters of an algorithm that are no options of the run."""
    grouped = cls.compares_groups or cls.group_size != 1  # type: ignore[attr-defined]
    left_out = NOT_OFFERED if grouped else {*NOT_OFFERED, "group_size"}
    return [name for name in hyperparameter_names(cls) if name not in left_out]


def chosen_presets(
    agent: str, model: Any, lora: Any = None, env: str = RunOptions.env
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The presets of an algorithm, a model and a task: for `RunOptions`, and for the
    hyper-parameters."""
    cls = algorithms.find(agent)
    chosen = {
        **presets.hyperparameters(cls, sequential=True, model=model, lora=lora),
        **presets.training(model),
    }
    chosen |= settings_of_task(env, model, lora)
    offered = offered_hyperparameters(cls)
    return (
        {name: value for name, value in chosen.items() if name in OPTIONS},
        {name: value for name, value in chosen.items() if name in offered},
    )


def settings_of_task(env: str, model: Any, lora: Any = None) -> dict[str, Any]:
    """Options and hyper-parameters that a registered task has of its own, for small models."""
    if env not in TASKS or not presets.is_small(model) or lora is not None:
        return {}
    return dict(TASKS[env].settings)


def complete(given: dict[str, Any]) -> tuple[RunOptions, dict[str, Any]]:
    """The options of a run and the hyper-parameters of its algorithm, of which some are given."""
    agent, model = given.get("agent", RunOptions.agent), given.get("model", RunOptions.model)
    env = given.get("env", RunOptions.env)
    options, hyperparameters = chosen_presets(agent, model, given.get("lora"), env)
    options |= defaults_of(env)
    check_names(algorithms.find(agent), given.keys() - set(OPTIONS), OPTIONS)
    hyperparameters |= {name: value for name, value in given.items() if name not in OPTIONS}
    options |= {name: value for name, value in given.items() if name in OPTIONS}
    found = with_absolute_paths(RunOptions(**options))
    check_ranges(RunOptions, vars(found))
    parse_interval(found.save_every)
    find_device(found.device)
    return found, hyperparameters


def with_absolute_paths(options: Any) -> Any:
    """The options, with files and folders that exist by their whole paths.

    What is saved with a run then means the same in another working directory.
    """
    for name in ("model", "prompts", "eval_prompts", "reward"):
        value = getattr(options, name)
        if columns_of(value) is not None:  # a table of prompts
            setattr(options, name, plain(value))
        if not isinstance(value, str):
            continue
        is_name = value in ("bundled", "smollm2") or (name == "reward" and parse_name(value))
        if not is_name and as_path(value).exists():
            setattr(options, name, str(as_path(value).resolve()))
    return options


def choose_dtype(name: str, device: str, model: str, needed: str | None = None) -> str:
    """ "auto" is bfloat16 if the hardware is fast with it and the model is not tiny. ``needed`` is
    the only precision in which the algorithm works; None if any will do."""
    if needed is not None and name not in ("auto", needed):
        raise ValueError(f"dtype={name!r} does not suit this algorithm, which needs {needed}.")
    if needed is not None or name != "auto":
        return needed or name
    quick = (
        torch.cuda.is_bf16_supported()
        if device.startswith("cuda")
        else getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )
    return "bfloat16" if quick and not presets.is_small(model) else "float32"


def defaults_of(env_id: str) -> dict[str, Any]:
    """The options that a text environment was registered with."""
    try:
        registered = gym.spec(environments.imported(env_id)).kwargs
        native = environments.native_text_class(environments.imported(env_id))
    except (gym.error.Error, ImportError) as error:
        raise ValueError(
            f"env={env_id!r} cannot be made ({first_line(error)}): use TextGen-v0, "
            f"{', '.join(TASKS)}, or 'module:Id-v0' of your own."
        ) from error
    if native is None:
        raise ValueError(
            f"env={env_id!r} is no text environment with many rows: register it with "
            "vector_entry_point='textenv:TextGenVectorEnv', or train in it from Python."
        )
    found = {}
    for name, kind in TASK_OPTIONS.items():
        value = unwrap_shared(registered.get(name))
        if name in ("stop", "legal_tokens") and value is not None:
            every = list(value) if isinstance(value, list | tuple) else [value]
            value = every if all(isinstance(stop, str) for stop in every) else [OF_TASK]
        if value is not None:
            # Rows of prompts and functions are no values of options; the environment has them.
            found[name] = value if isinstance(value, kind) else OF_TASK
    if env_id in TASKS:
        found["eval_prompts"] = HELD_OUT
        if TASKS[env_id].kl_coef is not None:
            found["kl_coef"] = TASKS[env_id].kl_coef
    return found


def evaluation_prompts(option: str | None, env_id: str) -> Any:
    """The prompts of an evaluation: those of ``--eval-prompts``, or of the task."""
    return TASKS[env_id].held_out if option == HELD_OUT else option


def saved_options(folder: RunFolder) -> dict[str, Any]:
    """The options of a run, whose numbers are in their ranges; empty where this command did not
    make it."""
    saved = folder.settings().get("options", {})
    with files.reading(folder.settings_file):
        check_ranges(RunOptions, {name: saved[name] for name in OPTIONS if name in saved})
    return saved


def settings_to_go_on(
    path: str | Path, again: dict[str, Any], now: dict[str, Any], accept_changes: bool = False
) -> tuple[RunOptions, dict[str, Any]]:
    """The options and hyper-parameters of the run in a folder, to go on with.

    ``again`` are the run's agent, reward and responder, which have to be named again if they are
    code: code that a file names is not imported. ``now`` are options that may differ from those of
    the run. ``accept_changes``: of the files that it is made from.
    """
    folder = RunFolder(path)
    settings = folder.settings()
    if not {"options", "chosen"} <= settings.keys():
        raise ValueError(
            f"The run in {str(path)!r} was not made by this command: go on with it from Python, "
            "with Agent.load and RunRecorder(resume=True)."
        )
    saved, chosen = saved_options(folder), settings["chosen"]
    if not algorithms.is_own(saved["agent"]):
        raise ValueError(
            f"The run in {str(path)!r} is of {saved['agent']}, which cannot go on after a break: "
            "the same compare command repeats it."
        )
    own = saved["agent"] not in algorithms.NAMES
    _check_named_again(path, "agent", saved["agent"], again, own)
    code = code_of(saved)
    for name in CODE:
        _check_named_again(path, name, saved.get(name), again, name in code)
    known = hyperparameter_names(algorithms.find(saved["agent"]))
    check_ranges(RunOptions, now)
    options = RunOptions(**{name: value for name, value in saved.items() if name in OPTIONS} | now)
    if not accept_changes:
        check_unchanged(path, settings.get("made_from", {}), options)
    return options, {name: value for name, value in chosen.items() if name in known}


def code_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The reward and the responder of a run's options, where they name code of the user."""
    known = gym.registry.get(options.get("env", RunOptions.env).rpartition(":")[2])
    registered = {} if known is None else known.kwargs
    named = {name: options.get(name) for name in CODE}
    return {
        name: value
        for name, value in named.items()
        if value != registered.get(name) and names_code(value)
    }


def _check_named_again(
    path: str | Path, what: str, saved: Any, again: dict[str, Any], is_code: bool
) -> None:
    here = again.get(what)
    if is_code and here is None:
        raise ValueError(
            f"The run in {str(path)!r} has {what}={saved!r}, which names code. Code that a "
            f"file names is not imported: name it yourself (--{what}, or {what}= in Python)."
        )
    if here not in (None, saved):
        raise ValueError(
            f"{what}={here!r} is another one than that of the run, {saved!r}: begin a new "
            "run for it."
        )
