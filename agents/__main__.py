"""usage: python -m agents COMMAND [--help]

- train: fine-tune a language model on a reward, and show what changed
- evaluate: sample from a saved agent
- compare: train several algorithms on several seeds, and say which differ
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
import sys
import time
import traceback
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import gymnasium as gym
import torch
import tyro
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from stable_baselines3.common.logger import configure

from agents import algorithms
from agents.agent import Agent
from agents.compare import interval, significant_differences
from agents.evaluation import TextEvaluation, evaluate_text
from agents.plots import comparison, learning_curve, read_progress
from textenv.lm.loading import hide_progress_bars, load_model, load_tokenizer
from textenv.rewards import RewardError, resolve_reward


def _spoken(name: str) -> str:
    """PPO → ppo, ActorCritic → actor-critic."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()


AGENTS = {_spoken(name): getattr(algorithms, name) for name in algorithms.__all__}
console = Console(highlight=False)
IN_BATCHES = dict(autoreset_mode="DISABLED", scoring="batch", array="torch", copy=False)
EVALUATION_SEED = 1_000_000  # apart from those that one trains with


def presets(agent: str, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults that suit an algorithm and a model: of `Train`, and of the hyper-parameters.

    What suits two million parameters would wreck a real model, and the other way round; one step a
    rollout can be larger than one of four.
    """
    tiny = model == "bundled"
    run = {"total_timesteps": 40_000, "kl_coef": 0.1} if tiny else {}
    if agent == "ppo":
        real = {"learning_rate": 3e-5, "n_epochs": 2, "batch_size": 32}
        own = {"learning_rate": 3e-4} if tiny else real
    elif agent == "trpo":
        # A language model has more parameters than a rollout has tokens: without much damping and
        # large rollouts, the natural gradient fits their noise.
        own = {"target_kl": 0.05, "cg_damping": 1.0, "cg_max_steps": 10, "fisher_rows": 32}
        run["n_envs"] = 256 if tiny else 64
    else:
        own = {"learning_rate": 1e-3 if tiny else 5e-5}
    if agent == "grpo":
        # The KL is in its loss, where it is a mean over tokens and is held against scores of
        # deviation 1: β has to be larger than in a reward.
        run["kl_coef"], own["kl_penalty"] = 0.0, 0.3
    return run, own


@dataclass(frozen=True)
class Outcome:
    """A finished run: evaluations before and after, tokens and seconds of learning."""

    before: TextEvaluation
    after: TextEvaluation
    timesteps: int
    seconds: float


@dataclass
class Train:
    """Fine-tune a language model on a reward, and show what changed."""

    agent: str = "ppo"
    """The algorithm: ppo, reinforce, actor-critic, rloo, grpo or trpo. It brings options of its
    own."""
    model: str = "bundled"
    """"bundled", "smollm2", a folder, a .gguf file or a hub id. The reference is its beginning."""
    reward: str = "sentiment"
    """A name ("sentiment", "haiku", "length(20)", "keyword(love)"), "module:function", or a
    sequence-classification model."""
    prompts: str = "bundled"
    """"bundled", a text file with one prompt per line, or a JSON-lines file."""
    total_timesteps: int = 60_000
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
class Compare:
    """Train several algorithms on several seeds with equal tokens, and say which differ."""

    agents: list[str] = field(default_factory=lambda: list(AGENTS))
    """Which algorithms; each with its own defaults."""
    seeds: int = 5
    """Seeds 0, 1, 2, ..."""
    model: str = "bundled"
    """As for train."""
    reward: str = "sentiment"
    """As for train."""
    prompts: str = "bundled"
    """As for train."""
    total_timesteps: int | None = None
    """Tokens of each run; by default as for train."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    n_envs: int | None = None
    """Episodes per rollout; by default as for train."""
    eval_episodes: int = 256
    """Episodes of the evaluations before and after."""
    output: Path = Path("runs/compare")
    """Folder for all runs and the plot. Runs that are finished there are not repeated."""
    device: str = "auto"
    """"auto" takes an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As for train."""


@dataclass
class Evaluate:
    """Sample from a saved agent and measure it."""

    path: tyro.conf.Positional[Path]
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
    seed: int = EVALUATION_SEED
    """Of prompts and sampling; by default those of the table that train prints."""
    device: str = "auto"
    """"auto" takes an accelerator if there is one."""


def make(options: Train, hyperparameters: dict[str, Any]) -> tuple[Agent, VectorEnv]:
    """The agent in its environment, and an environment like it that reports KL without shaping."""
    device = _device(options.device)
    algorithm = AGENTS[options.agent]
    needs = algorithm.policy_needs
    dtype = needs.get("dtype") or _dtype(options.dtype, device, options.model)
    text = dict(
        tokenizer=load_tokenizer(options.model),
        prompts=options.prompts,
        reward=resolve_reward(options.reward, device),  # once, for it may be a model
        max_new_tokens=options.max_new_tokens,
        stop=options.stop,
        reference=load_model(options.model, dtype=getattr(torch, dtype), device=device),
        device=device,
    )
    policy = {"model": options.model, "temperature": options.temperature, "dtype": dtype}
    agent = algorithm(
        "CausalLMPolicy",
        "TextGen-v0",
        n_envs=options.n_envs,
        env_kwargs={"kl_coef": options.kl_coef, **text},
        policy_kwargs={**policy, **needs},
        seed=options.seed,
        device=device,
        **hyperparameters,
    )
    return agent, gym.make_vec("TextGen-v0", num_envs=options.n_envs, **text, **IN_BATCHES)


def run(options: Train, hyperparameters: dict[str, Any], output: Path) -> Outcome:
    """Evaluate, learn, evaluate again; leave agent, logs and plot in the output folder."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        agent, judge = make(options, hyperparameters)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(str(error))  # an option that does not fit; the message says which
    parameters = sum(p.numel() for p in agent.policy.parameters())
    console.print(
        f"[bold]{type(agent).__name__}[/] on {options.model} ({parameters / 1e6:.1f} M parameters, "
        f"{agent.device}, {_name(agent.policy.dtype)}), reward {options.reward}, "
        f"seed {options.seed}",
        soft_wrap=True,
    )
    before = evaluate_text(agent, judge, options.eval_episodes, EVALUATION_SEED)
    agent.set_logger(configure(str(output), ["csv", "tensorboard"]))
    began = time.perf_counter()
    agent.learn(options.total_timesteps, progress_bar=True)
    seconds = time.perf_counter() - began
    agent.save(output, optimizer=False)
    after = evaluate_text(agent, judge, options.eval_episodes, EVALUATION_SEED)
    (output / "evaluation.json").write_text(json.dumps(after.summary(), indent=2) + "\n")
    agent.logger.close()
    learning_curve(
        {type(agent).__name__: output / "progress.csv"},
        output / "learning_curve.png",
        f"{type(agent).__name__} on {options.model}, reward {options.reward}",
    )
    return Outcome(before, after, agent.num_timesteps, seconds)


def train(options: Train, hyperparameters: dict[str, Any]) -> None:
    """Fine-tune, and print what changed."""
    output = options.output or Path("runs") / "-".join(
        (options.agent, Path(options.model).name.removesuffix(".gguf"), str(options.seed))
    )
    outcome = run(options, hyperparameters, output)
    console.print(_table(before=outcome.before, after=outcome.after))
    _print_samples("before", outcome.before)
    _print_samples("after", outcome.after)
    console.print(
        f"\n{outcome.timesteps} tokens in {outcome.seconds:.0f} s "
        f"({outcome.timesteps / outcome.seconds:.0f} tokens/s, learning included)\n"
        f"agent  {output}\nplot   {output / 'learning_curve.png'}\n"
        f"again  python -m agents evaluate {output} {_changed(options)}",
        soft_wrap=True,
    )


def compare(options: Compare) -> None:
    """Train each algorithm on each seed; print a table and draw a plot.

    Runs that are finished in the output folder with the same settings are not repeated.
    """
    unknown = set(options.agents) - set(AGENTS)
    if unknown or options.seeds < 2:
        sys.exit(f"--agents takes {', '.join(AGENTS)}; --seeds at least 2.")
    runs: dict[str, list] = {name: [] for name in options.agents}
    finals: dict[str, list[dict[str, float]]] = {name: [] for name in options.agents}
    for seed in range(options.seeds):
        for name in options.agents:
            output = options.output / f"{name}-{seed}"
            suited, hyperparameters = presets(name, options.model)
            chosen = {
                field.name: getattr(options, field.name)
                for field in dataclasses.fields(Train)
                if getattr(options, field.name, None) is not None
            }
            one = Train(**{**suited, **chosen, "agent": name, "seed": seed, "output": output})
            settings = {**dataclasses.asdict(one), **hyperparameters}
            if not _finished(output, settings):
                run(one, hyperparameters, output)
                _settings_file(output).write_text(json.dumps(settings, indent=2, default=str))
            finals[name].append(json.loads((output / "evaluation.json").read_text()))
            runs[name].append(read_progress(output / "progress.csv"))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "score", "KL, nats", "length", "distinct-2"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    scores = {name: [final["score"] for final in finals[name]] for name in finals}
    for name in sorted(finals, key=lambda name: -sum(scores[name])):
        means = {key: interval([final[key] for final in finals[name]]) for key in finals[name][0]}
        bounds = [escape(str(means[key])) for key in ("score", "kl")]
        plain = [f"{means[key].mean:.3g}" for key in ("length", "distinct_2")]
        table.add_row(name, *bounds, *plain)
    console.print(table)
    console.print("\nscores significantly apart (Welch's t-test, Holm's correction, 5 %):")
    differences = significant_differences(scores)
    for better, worse, p in differences:
        console.print(f"  {better} over {worse} (p = {p:.2g})")
    if not differences:
        console.print("  none")
    pairs = {name: [(final["kl"], final["score"]) for final in finals[name]] for name in finals}
    title = f"{options.model}, reward {options.reward}, {options.seeds} seeds"
    comparison(runs, pairs, options.output / "comparison.png", title)
    console.print(f"\nplot   {options.output / 'comparison.png'}")


def _settings_file(output: Path) -> Path:
    return output / "settings.json"


def _finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether a run with these settings has left its evaluation in the folder."""
    if not (output / "evaluation.json").is_file() or not _settings_file(output).is_file():
        return False
    return json.loads(_settings_file(output).read_text()) == json.loads(
        json.dumps(settings, default=str)
    )


def evaluate(options: Evaluate) -> None:
    """Sample from a saved agent and print what it is worth."""
    device = _device(options.device)
    if not (options.path / "agent.json").is_file():
        sys.exit(f"There is no agent in {str(options.path)!r}: agent.json is missing.")
    kind = json.loads((options.path / "agent.json").read_text())["algorithm"]
    env = gym.make_vec(
        "TextGen-v0",
        num_envs=min(64, options.episodes),
        tokenizer=str(options.path),
        prompts=options.prompts,
        reward=options.reward,
        max_new_tokens=options.max_new_tokens,
        reference=options.reference,
        device=device,
        **IN_BATCHES,
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
        row("KL to the reference, nats per episode", lambda e: f"{e.kls.mean():z.2f}")
        row("  recomputed by plain forward passes", lambda e: f"{e.recomputed_kls.mean():z.2f}")
    row("length, tokens", lambda e: f"{e.lengths.mean():.1f}")
    row("distinct-2", lambda e: f"{e.distinct_2:.2f}")
    row("tokens/s, sampling and scoring", lambda e: f"{e.tokens_per_second:.0f}")
    return table


def _print_samples(name: str, evaluation: TextEvaluation, count: int = 5) -> None:
    console.print(f"\n[bold]{escape(name)}[/]")
    for i in range(count):
        response = escape(evaluation.responses[i].replace("\n", "⏎"))
        prompt = escape(evaluation.prompts[i])
        score = f"[dim]{evaluation.scores[i]:+.2f}[/]"
        console.print(f"  {score}  [dim]{prompt}[/]{response}", soft_wrap=True)


def _changed(options: Train) -> str:
    """The options of evaluate that reproduce a table of train."""
    flags = [f"--reference {options.model}"]
    for name in ("reward", "prompts", "max_new_tokens"):
        value = getattr(options, name)
        if value != getattr(Train, name):
            flags.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(flags)


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- options ------------------------------------------------------------------------------------

NOT_OFFERED = {
    "n_envs", "env_kwargs", "policy_kwargs", "tensorboard_log", "verbose", "seed", "device",
    "n_steps", "compare", "reduction",
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
            if kind is Agent and name == "group_size":
                continue  # only where the algorithm has groups
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
    if command == "compare":
        compare(tyro.cli(Compare, args=arguments[1:], prog="python -m agents compare"))
        return
    if command != "train":
        if command not in ("", "-h", "--help"):
            sys.exit(f"{command} is unknown: use train, evaluate or compare.")
        console.print(__doc__.strip(), markup=False)
        return
    name = _chosen(arguments, "--agent", Train.agent)
    if name not in AGENTS:
        sys.exit(f"--agent {name} is unknown: use one of {', '.join(AGENTS)}.")
    suited, own_suited = presets(name, _chosen(arguments, "--model", Train.model))
    own = _hyperparameters(AGENTS[name], own_suited)
    hints = get_type_hints(Train, include_extras=True)
    group = dataclasses.make_dataclass(AGENTS[name].__name__, own)
    group.__doc__ = f"Hyper-parameters of {AGENTS[name].__name__}."
    kind = dataclasses.make_dataclass(
        "Train",
        [
            *((key, hints[key], field(default=value)) for key, value in suited.items()),
            ("own", Annotated[group, tyro.conf.arg(name="")], field(default_factory=group)),
        ],
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
    try:
        main()
    except RewardError as error:
        if error.__cause__ is not None:  # the line of the user's own reward is what one needs
            traceback.print_exception(error.__cause__)
        sys.exit(str(error))
