"""The command line: ``python -m agents train --help``.

train      fine-tune a language model on a reward, and show what changed
evaluate   sample from a saved agent
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import gymnasium as gym
import torch
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from stable_baselines3.common.logger import configure

from agents import algorithms
from agents.agent import Agent
from agents.evaluation import TextEvaluation, evaluate_text
from agents.plots import learning_curve
from textenv.lm.loading import hide_progress_bars, load_model, load_tokenizer


def _spoken(name: str) -> str:
    """PPO → ppo, ActorCritic → actor-critic."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()


AGENTS = {_spoken(name): getattr(algorithms, name) for name in algorithms.__all__}
console = Console(highlight=False)


@dataclass
class Train:
    """Fine-tune a language model on a reward, and show what changed."""

    agent: str = "ppo"
    """The algorithm: ppo, reinforce or actor-critic. It brings options of its own."""
    model: str = "bundled"
    """"bundled", "smollm2", a folder, a .gguf file or a hub id. The reference is its beginning."""
    reward: str = "sentiment"
    """A name ("sentiment", "haiku", "length(20)", "keyword(love)"), "module:function", or a
    sequence-classification model."""
    prompts: str = "bundled"
    """"bundled", a text file with one prompt per line, or a JSON-lines file."""
    total_timesteps: int = 100_000
    """Tokens to generate while learning."""
    kl_coef: float = 0.05
    """β, the price of a nat of KL to the reference, in units of the score."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, beside the end-of-sequence token."""
    temperature: float = 1.0
    """Of sampling, in learning and in evaluation."""
    n_envs: int = 64
    """Episodes per rollout."""
    seed: int = 0
    """One seed gives one run, bit for bit, on one CPU."""
    output: Path | None = None
    """Folder for the agent, the logs and the plot; runs/AGENT-MODEL-SEED by default."""
    eval_episodes: int = 256
    """Episodes of the evaluations before and after."""
    device: str = "auto"
    """"auto" takes an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of acting and of the forward passes. The weights that learn are float32 in any case. "auto"
    is bfloat16 where the hardware is quick at it and the model is not a tiny one."""


@dataclass
class Evaluate:
    """Sample from a saved agent and measure it."""

    path: Path
    """The folder of the agent."""
    reward: str = "sentiment"
    """As for train."""
    prompts: str = "bundled"
    """As for train."""
    reference: str | None = None
    """The model that the KL is measured to; none, no KL."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    episodes: int = 256
    """How many."""
    seed: int = 0
    """Of prompts and sampling."""
    device: str = "auto"
    """"auto" takes an accelerator if there is one."""


# What suits the 2-million-parameter model would wreck a real one, and the other way round.
TINY = {"learning_rate": 5e-4}
REAL = {"learning_rate": 2e-5}


def train(options: Train, hyperparameters: dict[str, Any]) -> None:
    """Evaluate, learn, evaluate again; leave everything in the output folder."""
    device = _device(options.device)
    dtype = _dtype(options.dtype, device, options.model)
    output = options.output or Path("runs") / "-".join(
        (options.agent, Path(options.model).stem, str(options.seed))
    )
    output.mkdir(parents=True, exist_ok=True)
    text = dict(
        tokenizer=load_tokenizer(options.model),
        prompts=options.prompts,
        reward=options.reward,
        max_new_tokens=options.max_new_tokens,
        stop=options.stop,
        reference=load_model(options.model, dtype=getattr(torch, dtype), device=device),
        autoreset_mode=AutoresetMode.DISABLED,
        scoring="batch",
        array="torch",
        device=device,
        copy=False,
    )
    agent: Agent = AGENTS[options.agent](
        "CausalLMPolicy",
        gym.make_vec(
            "TextGen-v0",
            num_envs=options.n_envs,
            kl_coef=options.kl_coef,
            group_size=hyperparameters.get("group_size", 1),
            **text,
        ),
        policy_kwargs={
            "model": options.model,
            "temperature": options.temperature,
            "dtype": dtype,
            **_policy_needs(AGENTS[options.agent]),
        },
        seed=options.seed,
        device=device,
        **hyperparameters,
    )
    judge = gym.make_vec("TextGen-v0", num_envs=options.n_envs, **text)
    parameters = sum(p.numel() for p in agent.policy.parameters())
    console.print(
        f"[bold]{type(agent).__name__}[/] on {options.model} ({parameters / 1e6:.1f} M parameters, "
        f"{device}, {dtype}), reward {options.reward}, seed {options.seed}"
    )
    before = evaluate_text(agent, judge, options.eval_episodes, seed=1_000_000)
    agent.set_logger(configure(str(output), ["csv", "tensorboard"]))
    began = time.perf_counter()
    agent.learn(options.total_timesteps, progress_bar=True)
    seconds = time.perf_counter() - began
    after = evaluate_text(agent, judge, options.eval_episodes, seed=1_000_000)

    console.print(_table(before=before, after=after))
    _print_samples("before", before)
    _print_samples("after", after)
    agent.save(output, optimizer=False)
    agent.logger.close()
    learning_curve(
        {type(agent).__name__: output / "progress.csv"},
        output / "learning_curve.png",
        f"{type(agent).__name__} on {options.model}, reward {options.reward}",
    )
    console.print(
        f"\n{agent.num_timesteps} tokens in {seconds:.0f} s "
        f"({agent.num_timesteps / seconds:.0f} tokens/s, learning included)\n"
        f"agent  {output}\nplot   {output / 'learning_curve.png'}\n"
        f"again  python -m agents evaluate {output} --reference {options.model}"
    )


def evaluate(options: Evaluate) -> None:
    """Sample from a saved agent and print what it is worth."""
    device = _device(options.device)
    kind = json.loads((options.path / "agent.json").read_text())["algorithm"]
    env = gym.make_vec(
        "TextGen-v0",
        num_envs=min(64, options.episodes),
        tokenizer=str(options.path),
        prompts=options.prompts,
        reward=options.reward,
        max_new_tokens=options.max_new_tokens,
        reference=options.reference,
        autoreset_mode=AutoresetMode.DISABLED,
        scoring="batch",
        array="torch",
        device=device,
        copy=False,
    )
    agent = getattr(algorithms, kind).load(options.path, env, device=device)
    result = evaluate_text(agent, env, options.episodes, options.seed)
    console.print(_table(**{str(options.path): result}))
    _print_samples(str(options.path), result)


def _table(**columns: TextEvaluation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")

    def row(label: str, cell) -> None:
        table.add_row(label, *(cell(column) for column in columns.values()))

    def standard_error(values) -> str:
        return f"{values.mean():+.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"

    row("score (mean ± standard error)", lambda e: standard_error(e.scores))
    if all(len(e.kls) for e in columns.values()):
        row("KL to the reference, nats per episode", lambda e: f"{e.kls.mean():.2f}")
        row("  recomputed by plain forward passes", lambda e: f"{e.recomputed_kls.mean():.2f}")
    row("length, tokens", lambda e: f"{e.lengths.mean():.1f}")
    row("distinct-2", lambda e: f"{e.distinct_2:.2f}")
    row("tokens/s, sampling and scoring", lambda e: f"{e.tokens_per_second:.0f}")
    return table


def _print_samples(name: str, evaluation: TextEvaluation, count: int = 5) -> None:
    console.print(f"\n[bold]{escape(name)}[/]")
    for i in range(count):
        response = escape(evaluation.responses[i].replace("\n", "⏎"))
        prompt = escape(evaluation.prompts[i])
        console.print(f"  [dim]{evaluation.scores[i]:+.2f}[/]  [dim]{prompt}[/]{response}")


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _dtype(name: str, device: str, model: str) -> str:
    if name != "auto":
        return name
    quick = (
        torch.cuda.is_bf16_supported()
        if device.startswith("cuda")
        else getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )
    return "bfloat16" if quick and model != "bundled" else "float32"


def _policy_needs(algorithm: type[Agent]) -> dict[str, Any]:
    return getattr(algorithm, "policy_needs", {})


# --- options ------------------------------------------------------------------------------------

NOT_OFFERED = {
    "n_envs", "env_kwargs", "policy_kwargs", "tensorboard_log", "verbose", "seed", "device",
    "n_steps",
}  # fmt: skip


def _hyperparameters(algorithm: type[Agent], presets: dict[str, Any]) -> list[tuple]:
    """The keyword arguments of an algorithm as fields of a dataclass, with their help."""
    fields: dict[str, tuple] = {}
    for kind in (algorithm, Agent):
        described = docstring_parser.parse(inspect.getdoc(kind) or "").params
        help_of = {param.arg_name: param.description for param in described}
        hints = get_type_hints(kind.__init__)
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if parameter.kind is not parameter.KEYWORD_ONLY or name in {*fields, *NOT_OFFERED}:
                continue
            default = presets.get(name, parameter.default)
            help = " ".join((help_of.get(name) or "").split())
            hint = Annotated[_plain(hints[name]), tyro.conf.arg(help=_capitalised(help))]
            fields[name] = (name, hint, field(default=default))
    return list(fields.values())


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:] if text[:1].isascii() else text  # not ε, not λ


def _plain(hint: Any) -> Any:
    """A type that fits a command line: schedules, which are functions, are left out."""
    if get_origin(hint) in (types.UnionType, Union):
        kept = [part for part in get_args(hint) if part in (int, float, bool, str, type(None))]
        hint = kept[0]
        for part in kept[1:]:
            hint = hint | part
    return hint


def _chosen(arguments: list[str], option: str, default: str) -> str:
    """The value of one option, which decides what the other options are."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return default


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    hide_progress_bars()
    command = arguments[0] if arguments else ""
    if command == "evaluate":
        evaluate(tyro.cli(Evaluate, args=arguments[1:], prog="python -m agents evaluate"))
        return
    if command != "train":
        console.print(__doc__.strip(), markup=False)
        sys.exit(0 if command in ("-h", "--help") else 2)
    name = _chosen(arguments, "--agent", Train.agent)
    if name not in AGENTS:
        sys.exit(f"--agent {name} is unknown: use one of {', '.join(AGENTS)}.")
    tiny = _chosen(arguments, "--model", Train.model) == "bundled"
    own = _hyperparameters(AGENTS[name], TINY if tiny else REAL)
    group = dataclasses.make_dataclass(AGENTS[name].__name__, own)
    group.__doc__ = f"Hyper-parameters of {AGENTS[name].__name__}."
    kind = dataclasses.make_dataclass(
        "Train",
        [("own", Annotated[group, tyro.conf.arg(name="")], field(default_factory=group))],
        bases=(Train,),
    )
    kind.__doc__ = Train.__doc__
    options = tyro.cli(
        kind,
        args=arguments[1:],
        prog="python -m agents train",
        config=(tyro.conf.FlagConversionOff,),
    )
    train(options, dataclasses.asdict(options.own))


if __name__ == "__main__":
    main()
