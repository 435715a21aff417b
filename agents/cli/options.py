"""The options of a training run: those of every run, and those of the chosen algorithm."""

from __future__ import annotations

import dataclasses
import inspect
import types
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import tyro

from agents.agent import Agent
from agents.cli.names import find_agent
from agents.cli.tasks import defaults_of
from agents.runs.recorder import SAVE_EVERY, parse_interval
from agents.training import presets
from agents.training.device import find_device
from agents.training.hyperparameters import AUTO
from textenv.arguments import Range, hints_of, ranges_of, sentences_of

NOT_OFFERED = {
    "policy", "env", "n_envs", "env_kwargs", "policy_kwargs", "tensorboard_log", "verbose", "seed",
    "device",
    "n_steps", "advantage_fn", "reduction",
}  # fmt: skip


@dataclass
class Train:
    """Fine-tune a language model on a reward, and show what changed."""

    agent: str = "ppo"
    """The algorithm: ppo, reinforce, actor-critic, rloo, grpo, trpo, or "module:Class" of your
    own. It has its own options."""
    model: str = "bundled"
    """"bundled", "smollm2", a folder, a .gguf file or a hub id. The reference is a copy of it."""
    env: str = "TextGen-v0"
    """The task: TextGen-v0 with the options below, or Haiku-v0, DigitSum-v0, ..., or
    "module:Id-v0" of your own, whose prompts, reward and budget are then their defaults."""
    reward: str = "sentiment"
    """A name ("sentiment", "haiku", "length(20)", "keyword(love)"), "module:function", or a
    sequence-classification model."""
    reward_timeout: float | None = None
    """Seconds that scoring a rollout may take; by default any time."""
    reward_retries: int = 0
    """How often a reward that raises an error is asked again, before the run ends."""
    prompts: str = "bundled"
    """"bundled", a text file with one prompt per line, or a .jsonl, .csv or .parquet file with a
    column "prompt" (texts) or "messages" (conversations)."""
    chat: bool = False
    """Make each prompt that is a plain text a message of the user, in the model's chat template."""
    total_timesteps: Annotated[int, Range(1)] = 60_000
    """Tokens to generate while learning."""
    kl_coef: Annotated[float, Range(0)] = 0.05
    """β, the cost of a nat of KL to the reference, in units of the score."""
    max_new_tokens: Annotated[int, Range(1)] = 24
    """Token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, in addition to the end-of-sequence token."""
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
    overwrite: bool = False
    """Replace a run that is in the folder."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it ended, with its own settings; or with
    more --total-timesteps."""
    save_every: str = SAVE_EVERY
    """Time or rollouts between two checkpoints: "30 s", "2 min", "20 rollouts"."""
    show_samples: Annotated[int, Range(0)] = 0
    """Episodes to print after each rollout."""
    eval_prompts: str | None = None
    """Held-out prompts for both evaluations and the optimum, as for --prompts; by default those of
    the learning."""
    eval_episodes: Annotated[int, Range(1)] = 512
    """Episodes of the evaluations before and after."""
    reference_episodes: Annotated[int, Range(0)] = 1024
    """Episodes of the untouched model, from which the optimal return and best-of-n are computed.
    0 leaves them out."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of acting and of the forward passes. The weights that learn are always float32.
    "auto" is bfloat16 if the hardware is fast with it and the model is not tiny."""


def default(value: Any) -> Any:
    """The field of a dataclass with this default, which may be a list."""
    return field(default_factory=lambda: value)


def parse_train(arguments: list[str]) -> tuple[Train, dict[str, Any]]:
    """The options of a run and the hyper-parameters of its algorithm.

    Their defaults are the presets of the chosen algorithm and model, and those of the task.

    Raises:
        ValueError: there is no such algorithm or task.
    """
    name = _chosen(arguments, "--agent", Train.agent)
    cls_of_agent = find_agent(name)
    lora = _chosen(arguments, "--lora", "None")
    preset, hyperparameters = run_presets(
        name, _chosen(arguments, "--model", Train.model), None if lora == "None" else lora
    )
    preset |= task_defaults(arguments)
    fields = _hyperparameter_fields(cls_of_agent, hyperparameters)
    group = dataclasses.make_dataclass(cls_of_agent.__name__, fields)
    group.__doc__ = f"Hyper-parameters of {cls_of_agent.__name__}."
    hints = get_type_hints(Train, include_extras=True)
    cls = dataclasses.make_dataclass(
        "Train",
        [
            *((key, hints[key], default(value)) for key, value in preset.items()),
            (
                "hyperparameters",
                Annotated[group, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff],
                field(default_factory=group),
            ),
        ],
        bases=(Train,),
    )
    cls.__doc__ = Train.__doc__
    options: Any = tyro.cli(
        cls,
        args=arguments,
        prog="python -m agents train",
    )
    return with_absolute_paths(options), dataclasses.asdict(options.hyperparameters)


def task_defaults(arguments: list[str]) -> dict[str, Any]:
    """The options that a task has values for, by the ``--env`` of a command line.

    Raises:
        ValueError: there is no such task.
    """
    return defaults_of(_chosen(arguments, "--env", Train.env))


def check_options(options: Any) -> None:
    """Raise an error for an option of any command that is out of its range.

    Args:
        options: of any command.

    Raises:
        ValueError: the message names the option, its value and what is allowed.
    """
    for name, allowed in ranges_of(type(options)).items():
        if (value := getattr(options, name)) not in allowed:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be {allowed}.")
    if hasattr(options, "save_every"):
        parse_interval(options.save_every)
    find_device(options.device)


def with_absolute_paths(options: Any) -> Any:
    """The options, with files and folders that exist by their whole paths.

    What is saved with a run then means the same in another working directory.
    """
    for name in ("model", "prompts", "eval_prompts", "reward"):
        value = getattr(options, name)
        if value not in (None, "bundled", "smollm2") and Path(value).expanduser().exists():
            setattr(options, name, str(Path(value).expanduser().resolve()))
    return options


def run_presets(agent: str, model: str, lora: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The presets of an algorithm and a model: for `Train`, and for the hyper-parameters."""
    cls = find_agent(agent)
    chosen = {
        **presets.hyperparameters(cls, sequential=True, model=model, lora=lora),
        **presets.training(model),
    }
    of_run = {field.name for field in dataclasses.fields(Train)}
    accepted = set(inspect.signature(cls).parameters) - of_run
    return (
        {name: value for name, value in chosen.items() if name in of_run},
        {name: value for name, value in chosen.items() if name in accepted - NOT_OFFERED},
    )


def choose_dtype(name: str, device: str, model: str, needed: str | None = None) -> str:
    """ "auto" is bfloat16 if the hardware is fast with it and the model is not tiny.

    Args:
        needed: the only precision in which the algorithm works; None if any will do.

    Raises:
        ValueError: another one is asked for.
    """
    if needed is not None and name not in ("auto", needed):
        raise ValueError(f"--dtype {name} does not suit this algorithm, which needs {needed}.")
    if needed is not None or name != "auto":
        return needed or name
    quick = (
        torch.cuda.is_bf16_supported()
        if device.startswith("cuda")
        else getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )
    return "bfloat16" if quick and not presets.is_small(model) else "float32"


def _hyperparameter_fields(cls: type[Agent], preset: dict[str, Any]) -> list[tuple]:
    """The hyper-parameters of an algorithm as fields of a dataclass, with their sentences."""
    found, sentences = [], sentences_of(cls)
    for each in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = each.name
        if not each.init or name in NOT_OFFERED or (name == "group_size" and each.default == 1):
            continue
        default = preset[name] if each.default is AUTO else preset.get(name, each.default)
        help_text = tyro.conf.arg(help=sentences.get(name, ""))
        found.append(
            (name, Annotated[_plain(hints_of(cls)[name]), help_text], field(default=default))
        )
    return found


def _plain(hint: Any) -> Any:
    """A type that fits a command line: schedules, which are functions, are left out."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (types.UnionType, Union):
        kept = [part for part in get_args(hint) if part in (int, float, bool, str, type(None))]
        hint = kept[0]
        for part in kept[1:]:
            hint = hint | part
    return hint


def values_of(arguments: list[str], option: str) -> list[str]:
    """The values of one option, on which the other options depend; empty without it."""
    for i, argument in enumerate(arguments):
        if argument == option:
            return list(takewhile(lambda value: not value.startswith("--"), arguments[i + 1 :]))
        if argument.startswith(option + "="):
            return [argument.split("=", 1)[1]]
    return []


def _chosen(arguments: list[str], option: str, default: str) -> str:
    return next(iter(values_of(arguments, option)), default)
