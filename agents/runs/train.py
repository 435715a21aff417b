"""A training run from its beginning to its end: evaluate, learn, evaluate.

    run = agents.train("ppo", reward="length(20)", total_timesteps=20_000)
    run.after.returns.mean()

Everything is in the run's folder (`agents.runs.folder`). A run that was broken off there goes on
where it ended, and what it has measured already is not measured again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import algorithms, files
from agents.agent import Agent
from agents.evaluation import TextEvaluation, evaluate_text
from agents.evaluation.comparison import EVALUATION_SEED
from agents.evaluation.optimum import Attainable, Known, planned_optimum, reference_scores
from agents.evaluation.plots import learning_curve, read_progress
from agents.evaluation.sampling import Sampler, sampler
from agents.experience import environments
from agents.runs.fingerprints import CODE
from agents.runs.folder import RunFolder
from agents.runs.options import (
    OF_DIALOGUE,
    OF_TASK,
    RunOptions,
    choose_dtype,
    code_of,
    complete,
    settings_to_go_on,
)
from agents.runs.recorder import RunRecorder
from agents.runs.signals import Signals
from agents.training.console import console, drawing
from agents.training.device import find_device
from agents.training.memory_plan import free_memory, memory_plan
from agents.training.progress import ProgressBar
from textenv.arguments import as_path
from textenv.lm.loading import hide_progress_bars
from textenv.prompts.load import load_prompts

FEW = 9  # rollouts of responses that take their whole budget; those of shorter ones are more


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A finished run.

    Attributes:
        agent: as it is at the end.
        before, after: the evaluations.
        attainable: the optimum and best-of-n on the prompts of the evaluations; None without a cost
            of KL.
        learning_attainable: the same on the prompts of the learning.
        folder: of the run.
    """

    agent: Agent
    before: TextEvaluation
    after: TextEvaluation
    attainable: Attainable | None
    learning_attainable: Attainable | None
    folder: RunFolder

    def __repr__(self) -> str:
        optimum = ""
        if self.attainable is not None:
            optimum = f", of an optimum of {self.attainable.optimum.value:+z.3f}"
        return (
            f"{self.agent!r} in {str(self.folder.path)!r}\n"
            f"before  {self.before}\nafter   {self.after}{optimum}"
        )


def train(
    agent: str = "ppo",
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Fine-tune a language model on a reward, as ``python -m agents train`` does.

    Args:
        agent: the algorithm: "ppo", "reinforce", "actor-critic", "rloo", "grpo", "trpo",
            "lookahead", or "module:Class" of your own.
        folder: of the run, which must be new; by default ``runs/AGENT-MODEL-SEED``, with a number
            if that exists.
        overwrite: replace a run that is in the folder.
        resume: go on with the run in the folder, with its own settings; only ``total_timesteps``
            may be larger, and a reward, a responder or an agent that is code is named again.
            ``accept_changes=True`` goes on although a file has changed that the run is made from.
        settings: options of the run (`agents.runs.options.RunOptions`, such as ``model``,
            ``reward`` and ``total_timesteps``) and hyper-parameters of the algorithm. What is not
            given suits algorithm, model and task (`agents.training.presets`).

    Raises:
        FileExistsError: there is a run in the folder already.
        TypeError, ValueError: a setting is unknown, or out of its range.
    """
    if resume:
        if folder is None:
            raise ValueError("resume=True needs the folder of the run, folder=.")
        again = {name: settings.pop(name, None) for name in CODE}
        again["agent"] = agent if ":" in agent else None
        accept_changes = settings.pop("accept_changes", False)
        options, hyperparameters = settings_to_go_on(folder, again, settings, accept_changes)
        options.resume = as_path(folder)
    else:
        given = {"agent": agent, **settings}
        options, hyperparameters = complete(given)
        options.output, options.overwrite = None if folder is None else as_path(folder), overwrite
    opened = open_folder(options)
    with Signals() as signals:
        try:
            learner, resumed = open_agent(options, hyperparameters, opened)
            return carry_out(options, hyperparameters, opened, learner, resumed, signals=signals)
        finally:
            opened.unlock()


def open_folder(options: RunOptions) -> RunFolder:
    """The folder of a new run, or of the one to go on with; locked."""
    if options.resume is not None:
        folder = RunFolder(options.resume)
        folder.lock()
        return folder
    model = options.model if isinstance(options.model, str | Path) else "model"
    task = [] if options.env == RunOptions.env else [options.env.rpartition(":")[2]]
    name = options.agent.replace(":", "-"), Path(model).name.removesuffix(".gguf"), *task
    default = Path("runs") / "-".join((*name, str(options.seed)))
    if options.output is None and not options.overwrite:
        return RunFolder.numbered(default)
    return RunFolder.create(options.output or default, options.overwrite)


def open_agent(
    options: RunOptions, hyperparameters: Mapping[str, Any], folder: RunFolder
) -> tuple[Agent, bool]:
    """The agent of a run, and whether it is that of its newest checkpoint instead of a new one."""
    hide_progress_bars()
    console.say((f"loading {options.model}", "dim"))
    resumed = folder.has_checkpoint
    if resumed:
        agent: Agent = algorithms.find(options.agent).load(
            folder.newest, env_kwargs=code_of(vars(options)),
            device=str(find_device(options.device)),
        )  # fmt: skip
    else:
        agent = make_agent(options, hyperparameters)
    if options.eval_prompts is not None:
        load_prompts(options.evaluation_prompts())  # errors come early
    parts = agent.policy.parameters(), agent.policy.critic_parameters()
    every, critic = (sum(p.numel() for p in part) / 1e6 for part in parts)
    own = f" and {critic:.1f} M of the critic" if critic >= 0.05 else ""
    console.say(
        (type(agent).__name__, "bold"),
        f" on {options.model} ({every - critic:.1f} M parameters{own}, {agent.device}, "
        f"{str(agent.policy.dtype).removeprefix('torch.')}), {paid_by(options.reward)}, seed "
        f"{options.seed}; {folder.path}",
    )
    plan = memory_plan(agent)
    console.say((f"memory {plan}", "dim"))
    advice = plan.advice(free_memory(agent.policy.device))
    if advice is not None:
        console.say(advice)
    if resumed:
        check_total(options, agent, folder)
    rollout = options.n_envs * options.max_new_tokens
    if options.total_timesteps < FEW * rollout and not resumed:
        console.say(
            f"{options.total_timesteps} tokens are few rollouts, of {options.n_envs} episodes of "
            f"up to {options.max_new_tokens} tokens each; for more of them raise total_timesteps, "
            "or lower n_envs."
        )
    return agent, resumed


def paid_by(reward: str) -> str:
    """What is paid for, in a title: a reward, or in a dialogue the turns alone."""
    return "rewards of turns" if reward == "nothing" else f"reward {reward}"


def check_total(options: RunOptions, agent: Agent, folder: RunFolder) -> None:
    """Say how far a run is that goes on, and if that is farther than it is asked to go."""
    done, total = agent.num_timesteps, options.total_timesteps
    console.say(f"going on after {done} of {total} tokens")
    saved = folder.settings().get("options", {}).get("total_timesteps", total)
    if total < min(done, saved):
        options.total_timesteps = done
        console.say(
            (
                f"The run has learned from {done} tokens already, more than the {total} that are "
                "asked for: nothing more is learned.",
                "yellow",
            )
        )


def make_agent(options: RunOptions, hyperparameters: Mapping[str, Any]) -> Agent:
    """A new agent in its environment. Its arguments are data, so that they are saved with it."""
    device = str(find_device(options.device))
    algorithm = algorithms.find(options.agent)
    needs = algorithm.policy_needs
    dtype = choose_dtype(options.dtype, device, options.model, needs.get("dtype"))
    policy_kwargs: dict[str, Any] = {
        "model": options.model, "temperature": options.temperature, "dtype": dtype
    }  # fmt: skip
    if options.critic_layers is not None:
        policy_kwargs["critic_layers"] = options.critic_layers
    if options.lora is not None:
        policy_kwargs["lora"] = {"r": options.lora}
    return algorithm(
        "CausalLMPolicy", options.env, n_envs=options.n_envs,
        env_kwargs=task_arguments(options, dtype), policy_kwargs={**policy_kwargs, **needs},
        seed=options.seed, device=device, **hyperparameters,
    )  # fmt: skip


def untouched(options: RunOptions) -> Sampler:
    """The model of a run as it is, in the run's task."""
    device = str(find_device(options.device))
    dtype = choose_dtype(options.dtype, device, options.model)
    return sampler(
        options.model, options.env, task_arguments(options, dtype), device, dtype=dtype,
        temperature=options.temperature,
    )  # fmt: skip


def task_arguments(options: RunOptions, dtype: str) -> dict[str, Any]:
    """The arguments of the environment of a run; ``dtype`` is that of the reference."""
    names = ["prompts", "chat", "reward", "max_new_tokens", "stop"]
    names += ["legal_tokens"] if options.legal_tokens else []
    # Without a dialogue those that were given are refused.
    names += [
        name
        for name in OF_DIALOGUE
        if options.respond is not None or getattr(options, name) != getattr(RunOptions, name)
    ]
    given = {name: getattr(options, name) for name in names}
    return {
        **{name: value for name, value in given.items() if value not in (OF_TASK, [OF_TASK])},
        "reference": options.model,
        "reference_dtype": dtype,
        "kl_coef": options.kl_coef,
        "reward_timeout": options.reward_timeout,
        "reward_retries": options.reward_retries,
    }


def carry_out(
    options: RunOptions,
    hyperparameters: dict[str, Any],
    folder: RunFolder,
    agent: Agent,
    resumed: bool,
    known: Known = (None, None),
    signals: Signals | None = None,
) -> TrainedRun:
    """Evaluate, learn, evaluate again; write everything into the run's folder, which is locked.

    ``agent`` and ``resumed`` are of `open_agent`; ``known`` is what is attainable in the
    evaluations and in the learning, if that is known already.
    """
    settings = options.settings(hyperparameters)
    if folder.is_run():
        folder.change_settings(settings)  # it may be longer now
    else:
        folder.write_settings(settings)
    if agent.num_timesteps < options.total_timesteps:
        folder.unfinish()
    attainable, of_learning = find_attainable(options, agent, folder, known)
    before = find_evaluation("before", options, agent, folder)
    recorder = RunRecorder(
        folder, options.save_every, options.show_samples, resume=resumed, settings=settings,
        signals=signals, log_megabytes=options.log_megabytes,
    )  # fmt: skip
    bar = ProgressBar(goal=None if of_learning is None else of_learning.optimum.value)
    left = timesteps_left(options, agent)
    agent.learn(left, callback=recorder, progress_bar=bar, reset_num_timesteps=False)
    agent.save(folder.agent, optimizer=False)
    after = find_evaluation("after", options, agent, folder)
    draw(options, folder, of_learning)
    return TrainedRun(agent, before, after, attainable, of_learning, folder)


def learn_along(options: RunOptions, folder: RunFolder, agent: Agent, signals: Signals) -> None:
    """`carry_out` in all processes but the first: nothing is measured, shown or written."""
    recorder = RunRecorder(folder, signals=signals)
    agent.learn(timesteps_left(options, agent), callback=recorder, reset_num_timesteps=False)


def timesteps_left(options: RunOptions, agent: Agent) -> int:
    """How many tokens are still to be generated."""
    return max(options.total_timesteps - agent.num_timesteps, 0)


def find_evaluation(
    when: str, options: RunOptions, agent: Agent, folder: RunFolder
) -> TextEvaluation:
    """The evaluation "before" or "after": of the run's first part, or measured now."""
    summaries = folder.evaluations()
    timesteps = agent.num_timesteps if when == "after" else 0
    if when in summaries and summaries[when].get("timesteps") == timesteps:
        return TextEvaluation.load(folder.episodes(when), summaries[when])
    console.say((f"evaluating {options.eval_episodes} episodes, {when}", "dim"))
    evaluation = evaluate_text(
        agent, n_episodes=options.eval_episodes, seed=EVALUATION_SEED,
        prompts=options.evaluation_prompts(), draw=options.seed,
    )  # fmt: skip
    evaluation.save(folder.episodes(when))
    summaries[when] = evaluation.summary() | {
        "timesteps": timesteps, "seconds": agent.learning_seconds
    }  # fmt: skip
    files.write_json(folder.evaluation, summaries)
    return evaluation


def find_attainable(options: RunOptions, actor: Any, folder: RunFolder, known: Known) -> Known:
    """What is attainable in the evaluations, and on the prompts of the learning: given, of the
    run's first part, or measured now."""
    prompts = options.evaluation_prompts()

    def one(given: Attainable | None, file: Path, prompts: Any) -> Attainable | None:
        if given is None and file.is_file():
            return Attainable.load(file)
        if given is None:
            given = measure_attainable(actor, options.kl_coef, options.reference_episodes, prompts)
        if given is not None:
            given.save(file)
        return given

    of_evaluation = one(known[0], folder.reference_scores, prompts)
    if prompts is None:
        return of_evaluation, of_evaluation
    return of_evaluation, one(known[1], folder.learning_reference_scores, None)


def stored_attainable(folder: RunFolder) -> Known:
    """What a run has stored."""
    found = folder.reference_scores, folder.learning_reference_scores
    evaluation, learning = (Attainable.load(file) if file.is_file() else None for file in found)
    return evaluation, learning or evaluation


def measure_attainable(
    actor: Any, kl_coef: float, n_episodes: int, prompts: Any
) -> Attainable | None:
    """The optimum and best-of-n of the task of an agent or a sampler, on the prompts of an
    evaluation, or None for those of the learning; None if KL costs nothing."""
    if kl_coef <= 0 or n_episodes <= 0:
        return None
    of = "on the prompts of the learning" if prompts is None else "on those of the evaluations"
    what = f"sampling {n_episodes} episodes of the untouched model, for the optimum {of}"
    console.say((what, "dim"))
    scores = reference_scores(actor, None, n_episodes, EVALUATION_SEED + 1, prompts)
    is_dialogue = environments.text_environments(actor.env)[0].task.respond is not None
    found = Attainable(scores, kl_coef, planned_optimum(actor, kl_coef, prompts), is_dialogue)
    if found.is_flat:
        console.say((found.note, "yellow"))
    return found


def draw(options: RunOptions, folder: RunFolder, attainable: Attainable | None) -> None:
    """Draw the learning curve, and what can be reached on the prompts of the learning."""
    cls = algorithms.find(options.agent)
    title = f"{cls.__name__} on {options.model}, {paid_by(options.reward)}"
    with drawing("plot"):
        learning_curve(read_progress(folder.progress), folder.plot, title, attainable)
