"""Wrong objects, files and options: each ends in one sentence, and nothing is written or changed.

Numbers out of range are in test_ranges.py, arguments of environments in tests/textenv.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import GRPO, PPO, REINFORCE, RLOO, MlpPolicy
from agents.cli import main

TINY = dict(
    n_envs=4, seed=0,
    env_kwargs=dict(reference="bundled", kl_coef=0.1, reward="length(5)", max_new_tokens=3),
)  # fmt: skip


def one_sentence(error, *parts: str) -> None:
    """The message is one line that holds ``parts``."""
    message = str(error.value if hasattr(error, "value") else error)
    assert "\n" not in message and 20 < len(message) < 450, message
    for part in parts:
        assert part in message


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    """Each test begins in an empty folder, and has to leave it so."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    random_state = torch.random.get_rng_state()
    yield
    assert not list(folder.iterdir())
    assert torch.equal(torch.random.get_rng_state(), random_state)


# --- environments ---------------------------------------------------------------------------------


class Spaces(gym.Env):
    """An environment of given spaces."""

    def __init__(self, observations=None, actions=None):
        self.observation_space = observations or spaces.Box(-1, 1, (2,))
        self.action_space = actions or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


def in_torch():
    pytest.importorskip("array_api_compat")
    return gym.wrappers.vector.NumpyToTorch(gym.make_vec("CartPole-v1", num_envs=2))


def filtered():
    return gym.wrappers.FilterObservation(gym.make("TextGen-v0"), ["input_ids"])


ENVIRONMENTS = {
    "sb3": ("MlpPolicy", lambda: DummyVecEnv([Spaces]), "stable-baselines3", "SyncVectorEnv"),
    "class": ("MlpPolicy", lambda: Spaces, "the class Spaces", "an object of it"),
    "spec": ("MlpPolicy", lambda: gym.spec("CartPole-v1"), "'CartPole-v1'", "its id"),
    "none": ("MlpPolicy", lambda: None, "NoneType", "the id"),
    "number": ("MlpPolicy", lambda: 3, "int", "the id"),
    "list": ("MlpPolicy", lambda: [Spaces()], "list", "gymnasium.vector.VectorEnv"),
    "function": ("MlpPolicy", lambda: lambda: Spaces(), "function", "the id"),
    "torch arrays": ("MlpPolicy", in_torch, "NumpyToTorch", "without this wrapper"),
    "image": (
        "MlpPolicy", lambda: Spaces(spaces.Box(0, 255, (8, 8, 3), np.uint8)), "images", "FlattenObs"
    ),
    "dictionary": ("MlpPolicy", lambda: Spaces(spaces.Dict(a=spaces.Discrete(2))), "FlattenObs"),
    "whole actions": (
        "MlpPolicy", lambda: Spaces(None, spaces.Box(0, 9, (2,), np.int64)), "whole", "Discrete"
    ),
    "binary actions": ("MlpPolicy", lambda: Spaces(None, spaces.MultiBinary(3)), "MultiBinary(3)"),
    "many actions": ("MlpPolicy", lambda: Spaces(None, spaces.MultiDiscrete([2, 2])), "MultiDiscr"),
    "from one": ("MlpPolicy", lambda: Spaces(None, spaces.Discrete(2, start=1)), "from 0"),
    "text for networks": ("MlpPolicy", lambda: gym.make("TextGen-v0"), "use 'CausalLMPolicy'"),
    "numbers for text": ("CausalLMPolicy", lambda: Spaces(), "TextGen-v0", "'MlpPolicy'"),
    "filtered": ("CausalLMPolicy", filtered, "attention_mask", "TextGen-v0"),
    "policy": ("CnnPolicy", lambda: "CartPole-v1", "policy='CnnPolicy'", "MlpPolicy"),
    "policy of sb3": ("MultiInputPolicy", lambda: "CartPole-v1", "CausalLMPolicy"),
    "wrapped batches": (
        "CausalLMPolicy",
        lambda: gym.wrappers.vector.RecordEpisodeStatistics(
            gym.make_vec("TextGen-v0", num_envs=2, scoring="batch", autoreset_mode="disabled")
        ),
        "scoring='step'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_object_that_is_no_fitting_environment(case):
    policy, make, *parts = ENVIRONMENTS[case]
    with pytest.raises((TypeError, ValueError)) as error:
        PPO(policy, make())
    one_sentence(error, *parts)


UNKNOWN_IDS = ["CartPole-v99", "NoSuchEnv-v0", "nomodule:Env-v0", "TextGenn-v0", ""]


@pytest.mark.parametrize("env_id", UNKNOWN_IDS)
def test_an_id_that_is_not_registered(env_id):
    with pytest.raises((gym.error.Error, ModuleNotFoundError)) as error:
        PPO("MlpPolicy", env_id)
    assert len(str(error.value)) < 450


ARGUMENTS = {
    "net_arch as in sb3": ("MlpPolicy", {"net_arch": {"pi": [64], "vf": [64]}}, "net_arch", "(64,"),
    "net_arch a number": ("MlpPolicy", {"net_arch": 64}, "net_arch=64", "(64, 64)"),
    "net_arch of halves": ("MlpPolicy", {"net_arch": (0.5,)}, "net_arch=(0.5,)"),
    "net_arch empty layer": ("MlpPolicy", {"net_arch": (0,)}, "net_arch=(0,)"),
    "net_arch text": ("MlpPolicy", {"net_arch": "64"}, "net_arch='64'"),
    "activation_fn": ("MlpPolicy", {"activation_fn": torch.nn.ReLU}, "'activation_fn'", "net_arch"),
    "a misspelt one": ("MlpPolicy", {"net_arhc": (64,)}, "Did you mean 'net_arch'"),
    "of another policy": ("MlpPolicy", {"model": "bundled"}, "'model'", "net_arch"),
    "dtype": ("CausalLMPolicy", {"dtype": "int8"}, "dtype='int8'", "bfloat16"),
    "float16": ("CausalLMPolicy", {"dtype": "float16"}, "dtype='float16'"),
    "temperature 0": ("CausalLMPolicy", {"temperature": 0}, "temperature=0", "deterministic"),
    "temperature nan": ("CausalLMPolicy", {"temperature": float("nan")}, "temperature=nan"),
    "critic layers": ("CausalLMPolicy", {"critic_layers": -1}, "critic_layers=-1"),
    "banned beyond": ("CausalLMPolicy", {"banned_tokens": [10**6]}, "banned_tokens=[1000000]"),
    "banned below": ("CausalLMPolicy", {"banned_tokens": [-1]}, "banned_tokens=[-1]"),
    "banned text": ("CausalLMPolicy", {"banned_tokens": ["the"]}, "banned_tokens=['the']"),
    "banned number": ("CausalLMPolicy", {"banned_tokens": 5}, "banned_tokens=5"),
    "no such folder": ("CausalLMPolicy", {"model": "./nothing"}, "'./nothing'", "save_pretrained"),
    "no such file": ("CausalLMPolicy", {"model": "nothing.gguf"}, "'nothing.gguf'", "path"),
    "misspelt model": ("CausalLMPolicy", {"model": "bundeld"}, "did you mean 'bundled'"),
    "misspelt model 2": ("CausalLMPolicy", {"model": "smolm2"}, "did you mean 'smollm2'"),
    "hub": ("CausalLMPolicy", {"model": "no-such-owner/model-x"}, "no-such-owner", "'bundled'"),
    "not a hub id": ("CausalLMPolicy", {"model": "a b c!"}, "'a b c!'", "'bundled'"),
    "attention": ("CausalLMPolicy", {"attn_implementation": "flash"}, "flash"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_of_a_policy(case, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    policy, keywords, *parts = ARGUMENTS[case]
    env = "CartPole-v1" if policy == "MlpPolicy" else "TextGen-v0"
    with pytest.raises((TypeError, ValueError, FileNotFoundError)) as error:
        PPO(policy, env, policy_kwargs=keywords)
    one_sentence(error, *parts)


AGENTS = {
    "unknown": (PPO, {"learning_rat": 1}, "'learning_rate'"),
    "epochs": (REINFORCE, {"n_epochs": 2}, "PPO takes several steps"),
    "group": (GRPO, {"group_size": 1}, "group_size=1", "at least 2"),
    "group of rloo": (RLOO, {"group_size": 1}, "group_size=1", "at least 2"),
    "rows": (GRPO, {"group_size": 3, "n_envs": 8}, "multiple of group_size=3"),
    "schedule": (PPO, {"lr_schedule": "quadratic"}, "lr_schedule='quadratic'", "cosine"),
    "device": (PPO, {"device": "gpu"}, "device='gpu'", "'auto'"),
    "device number": (PPO, {"device": "cuda:99"}, "device='cuda:99'"),
    "env argument": (PPO, {"env_kwargs": {"rewrad": "sentiment"}}, "'rewrad'", "'reward'"),
    "length": (PPO, {"env_kwargs": {"max_episode_steps": 5}}, "max_new_tokens"),
    "context": (PPO, {"env_kwargs": {"max_new_tokens": 9999}}, "context", "max_new_tokens"),
}


@pytest.mark.parametrize("case", AGENTS)
def test_an_argument_of_an_agent(case):
    cls, keywords, *parts = AGENTS[case]
    with pytest.raises((TypeError, ValueError)) as error:
        cls("CausalLMPolicy", "TextGen-v0", **keywords)
    one_sentence(error, *parts)


def test_what_is_accepted_on_purpose(tmp_path):
    """The limit of an episode, a single number as a space, and data in other forms."""
    agent = PPO("MlpPolicy", "CartPole-v1", n_envs=2, env_kwargs={"max_episode_steps": 7})
    agent.learn(50)
    agent.save(tmp_path / "short")
    again = PPO.load(tmp_path / "short")
    assert again.env.unwrapped.max_episode_steps == 7
    agent = PPO("MlpPolicy", "Acrobot-v1", n_envs=2, env_kwargs={"max_episode_steps": 7})
    assert [env.spec.max_episode_steps for env in agent.env.unwrapped.envs] == [7, 7]
    number = spaces.Box(-1, 1, ())
    PPO("MlpPolicy", Spaces(number, number), n_steps=8, batch_size=None, seed=0).learn(8)
    for banned in ({5, 6}, range(5, 7), np.array([5, 6]), torch.tensor([5, 6]), frozenset([5, 6])):
        agent = PPO("CausalLMPolicy", "TextGen-v0", **TINY, policy_kwargs={"banned_tokens": banned})
        agent.save(tmp_path / "banned")
        again = PPO.load(tmp_path / "banned")
        assert again.policy.sampling == agent.policy.sampling
        assert set(again.policy.sampling.banned_tokens) == {5, 6}
        shutil.rmtree(tmp_path / "banned")


def test_a_live_object_of_a_policy_is_asked_for_again(tmp_path):
    class Scaled(MlpPolicy):
        def __init__(self, *spaces, scale=None, **keywords):
            super().__init__(*spaces, **keywords)
            self.scale = scale

    agent = PPO(Scaled, "CartPole-v1", policy_kwargs={"scale": np.tanh})
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError) as error:
        PPO.load(tmp_path / "agent", policy=Scaled)
    one_sentence(error, "scale", "live objects", "policy_kwargs={'scale': ...}")
    again = PPO.load(tmp_path / "agent", policy=Scaled, policy_kwargs={"scale": np.tanh})
    assert again.policy.scale is np.tanh


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An agent that has learned and was saved."""
    folder = tmp_path_factory.mktemp("saved") / "agent"
    PPO("CausalLMPolicy", "TextGen-v0", **TINY).learn(8).save(folder)
    return folder


def edit(name, change):
    """A change of the content of a JSON file."""

    def apply(folder: Path):
        content = json.loads((folder / name).read_text())
        changed = change(content)
        (folder / name).write_text(json.dumps(content if changed is None else changed))

    return apply


def put(*keys, value):
    """A change of one entry of agent.json."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit("agent.json", change)


def tensors(name, change):
    """A change of the content of a file of tensors."""

    def apply(folder: Path):
        content = load_file(folder / name)
        change(content)
        save_file(content, folder / name, metadata={"format": "pt"})

    return apply


def without(part):
    def change(content):
        for name in [name for name in content if part in name]:
            del content[name]

    return change


def reshaped(part):
    def change(content):
        content[next(name for name in content if part in name)] = torch.zeros(3, 3)

    return change


FILES = (
    "agent.json", "config.json", "critic.safetensors", "generation_config.json", "learning.json",
    "learning.safetensors", "model.safetensors", "tokenizer.json",
)  # fmt: skip
MAY_BE_MISSING = {"generation_config.json", "learning.json", "learning.safetensors"}
DAMAGES = {
    **{f"torn {n}": lambda p, n=n: (p / n).write_bytes((p / n).read_bytes()[:50]) for n in FILES},
    **{f"empty {n}": lambda p, n=n: (p / n).write_bytes(b"") for n in FILES},
    **{f"text {n}": lambda p, n=n: (p / n).write_bytes(b"\xff\xfe hello") for n in FILES},
    **{f"no {n}": lambda p, n=n: (p / n).unlink() for n in FILES if n not in MAY_BE_MISSING},
    "a list": edit("agent.json", lambda content: []),
    "null": lambda p: (p / "agent.json").write_text("null"),
    "no algorithm": edit("agent.json", lambda content: {**content, "algorithm": None}),
    "rows as text": put("n_envs", value="4"),
    "no rows": put("n_envs", value=0),
    "a list of settings": put("hyperparameters", value=[1]),
    "rate nan": put("hyperparameters", "learning_rate", value=float("nan")),
    "rate as text": put("hyperparameters", "learning_rate", value="1e-3"),
    "rate as code": put("hyperparameters", "learning_rate", value="os:getcwd"),
    "another algorithm": put("algorithm", value="GRPO"),
    "another policy": put("policy", value="os.system"),
    "another environment": put("task", "id", value="Nope-v0"),
    "a module to import": put("task", "id", value="this:Nope-v0"),
    "task as text": put("task", value="x"),
    "unknown argument": put("task", "kwargs", "foo", value=1),
    "unknown argument of the policy": put("policy_kwargs", "foo", value=1),
    "state": put("persistent_state", value={"policy": 1}),
    "state as list": put("persistent_state", value=[]),
    "steps as text": put("num_timesteps", value="many"),
    "beta as text": put("kl_coef", value="x"),
    "functions": put("functions", value=3),
    "a layer is missing": tensors("model.safetensors", without("layers.0.")),
    "a weight of another shape": tensors("model.safetensors", reshaped("layers.0.")),
    "no value head": tensors("critic.safetensors", without("value_head")),
    "another value head": tensors("critic.safetensors", reshaped("value_head")),
    "more layers": edit("config.json", lambda c: c.update(num_hidden_layers=9)),
    "another kind of model": edit("config.json", lambda c: c.update(model_type="nonsense")),
    "another vocabulary": edit("config.json", lambda c: c.update(vocab_size=10)),
    "another optimiser": tensors("learning.safetensors", reshaped("optimizer.3.exp_avg")),
    "no generator": tensors("learning.safetensors", without("generator.policy")),
    "a number of a collector": edit("learning.json", lambda c: c.update(collector=3)),
    "a collector": edit("learning.json", lambda c: c.update(collector={"object": 3})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(damage, saved, tmp_path):
    folder = tmp_path / "agent"
    shutil.copytree(saved, folder)
    DAMAGES[damage](folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        PPO.load(folder)
    one_sentence(error)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_parts_that_may_be_missing(saved, tmp_path):
    for name in MAY_BE_MISSING:
        folder = tmp_path / name
        shutil.copytree(saved, folder)
        (folder / name).unlink()
        PPO.load(folder).learn(4, reset_num_timesteps=False)


MARK = "was_run"
CODE = f"import pathlib; pathlib.Path({MARK!r}).touch()\ndef fn(episodes): return [1.0] * 4\n"
EXPLOITS = {
    "reward of the task": put("task", "kwargs", "reward", value="payload:fn"),
    "reward in a sum": put("task", "kwargs", "reward", value={"payload:fn": 1.0}),
    "reward in a list": put("task", "kwargs", "reward", value=[["payload:fn", 1.0]]),
    "arguments of the environment": put(
        "hyperparameters", "env_kwargs", value={"reward": "payload:fn"}
    ),
    "a folder of logs": put("hyperparameters", "tensorboard_log", value=MARK),
    "any attribute": put("hyperparameters", "policy", value="payload:fn"),
    "any state": put("persistent_state", value={"collector": "payload:fn"}),
    "attention": put("policy_kwargs", "attn_implementation", value="owner/kernel"),
    "module of the id": put("task", "id", value="payload:TextGen-v0"),
    "code of the model": edit(
        "config.json",
        lambda c: c.update(model_type="mine", auto_map={"AutoModelForCausalLM": "payload.M"}),
    ),
    "code of the tokenizer": edit(
        "tokenizer_config.json",
        lambda c: c.update(
            tokenizer_class="Mine", auto_map={"AutoTokenizer": ["payload.T", "payload.T"]}
        ),
    ),
}


@pytest.mark.parametrize("exploit", EXPLOITS)
@pytest.mark.parametrize("env", [None, "TextGen-v0"])
def test_a_checkpoint_runs_no_code(exploit, env, saved, tmp_path, monkeypatch):
    """Its files name code that lies beside it and on the path; none of it is imported."""
    folder = tmp_path / "agent"
    shutil.copytree(saved, folder)
    (folder / "payload.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(folder))
    EXPLOITS[exploit](folder)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks is told yes
    try:
        PPO.load(folder, env=env).learn(4)
    except (ValueError, TypeError) as error:
        one_sentence(error)
    assert not Path(MARK).exists() and not (folder / MARK).exists()


# --- the command line -----------------------------------------------------------------------------

SHORT = "train --total-timesteps 20 --eval-episodes 2 --reference-episodes 0 --n-envs 4"
OPTIONS = {
    "train --agent pop": ("pop", "actor-critic"),
    "train --model bundeld": ("'bundeld'", "'bundled'"),
    "train --model no-such/model": ("'no-such/model'", "'smollm2'"),
    "train --model ./nothing": ("'./nothing'",),
    "train --model nothing.gguf": ("'nothing.gguf'",),
    "train --reward sentimint": ("'sentimint'", "'sentiment'"),
    "train --reward length(": ("'length('", "length"),
    "train --reward nomodule:fn": ("nomodule", "'module:name'"),
    "train --reward os:nothing": ("nothing", "'module:name'"),
    "train --reward os:path": ("'os:path'", "not callable"),
    "train --prompts nothing.txt": ("'nothing.txt'", "path"),
    "train --eval-prompts nothing.txt": ("'nothing.txt'", "path"),
    "train --total-timesteps 0": ("--total-timesteps 0", "at least 1"),
    "train --total-timesteps -5": ("--total-timesteps -5", "at least 1"),
    "train --eval-episodes 0": ("--eval-episodes 0", "at least 1"),
    "train --reference-episodes -1": ("--reference-episodes -1", "at least 0"),
    "train --show-samples -1": ("--show-samples -1", "at least 0"),
    "train --kl-coef -1": ("--kl-coef -1", "at least 0"),
    "train --kl-coef nan": ("--kl-coef nan", "at least 0"),
    "train --max-new-tokens 0": ("--max-new-tokens 0", "at least 1"),
    "train --max-new-tokens 9999": ("context", "max_new_tokens"),
    "train --temperature 0": ("temperature=0", "above 0"),
    "train --temperature nan": ("temperature=nan", "above 0"),
    "train --critic-layers -1": ("critic_layers=-1",),
    "train --n-envs 0": ("n_envs=0", "at least 1"),
    "train --seed -1": ("seed=-1", "from 0"),
    "train --save-every soon": ("'soon'", "'2 min'"),
    "train --save-every=-3min": ("'-3min'", "'2 min'"),
    "train --device gpu": ("device='gpu'", "'auto'"),
    "train --device cuda:77": ("device='cuda:77'",),
    "train --agent trpo --dtype bfloat16": ("dtype='bfloat16'", "float32"),
    "train --learning-rate inf": ("learning_rate=inf", "at least 0"),
    "train --learning-rate -1": ("learning_rate=-1", "at least 0"),
    "train --batch-size 0": ("batch_size=0", "at least 1"),
    "train --gamma 2": ("gamma=2", "from 0 to 1"),
    "train --clip-range -1": ("clip_range=-1", "above 0"),
    "train --lr-schedule quadratic": ("'quadratic'", "cosine"),
    "train --max-grad-norm -1": ("max_grad_norm=-1", "above 0"),
    "train --agent grpo --n-envs 6": ("6", "group_size=8"),
    "train --agent rloo --group-size 1": ("group_size=1", "at least 2"),
    "train --reward-timeout 0": ("reward_timeout=0", "above 0"),
    "train --reward-retries -1": ("reward_retries=-1", "at least 0"),
    "train --output /proc/run": ("/proc/run",),
    "train --resume nothing": ("'nothing'", "settings.json"),
    "evaluate nothing": ("'nothing'", "there is no such folder"),
    "evaluate nothing --eval-episodes 0": ("--eval-episodes 0", "at least 1"),
    "evaluate nothing --device gpu": ("device='gpu'",),
    "compare --agents pop": ("pop", "actor-critic"),
    "compare --agents": ("--agents", "actor-critic"),
    "compare --seeds 1": ("--seeds 1", "at least 2"),
    "compare --total-timesteps 0": ("--total-timesteps 0", "at least 1"),
    "compare --model no-such/model": ("'no-such/model'", "'smollm2'"),
    "compare --reward zzz": ("'zzz'", "sentiment"),
    "compare --prompts nothing.txt": ("'nothing.txt'", "path"),
    "compare --n-envs 0": ("n_envs=0", "at least 1"),
    "compare --save-every soon": ("'soon'", "'2 min'"),
    "compare --device gpu": ("device='gpu'",),
    "polish": ("polish", "train, evaluate, compare"),
}


@pytest.mark.parametrize("line", OPTIONS)
def test_an_option_of_the_command_line(line, monkeypatch):
    """The exit status is an error, and the sentence is all that is said."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resumes = "--resume" in line  # takes no other settings
    command = line.replace("train", SHORT, 1) if line.startswith("train") and not resumes else line
    with pytest.raises(SystemExit) as error:
        main(command.split())
    assert isinstance(error.value.code, str)  # exit status 1, printed to stderr
    one_sentence(error.value.code, *OPTIONS[line])


AGAIN = {
    "--reward sentimint": ("'sentimint'", "'sentiment'"),
    "--prompts nothing.txt": ("'nothing.txt'",),
    "--reference no-such/model": ("'no-such/model'",),
    "--max-new-tokens 0": ("--max-new-tokens 0",),
    "--max-new-tokens 9999": ("context",),
    "--kl-coef nan": ("--kl-coef nan",),
    "--reference-episodes -1": ("--reference-episodes -1",),
    "--reward os:path": ("'os:path'",),
}


@pytest.mark.parametrize("line", AGAIN)
def test_an_option_of_evaluate(line, saved, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as error:
        main(["evaluate", str(saved), *line.split()])
    one_sentence(error.value.code, *AGAIN[line])


@pytest.mark.parametrize("damage", ["torn agent.json", "a layer is missing", "torn config.json"])
def test_a_damaged_agent_is_evaluated_in_one_sentence(damage, saved, tmp_path):
    folder = tmp_path / "agent"
    shutil.copytree(saved, folder)
    DAMAGES[damage](folder)
    with pytest.raises(SystemExit) as error:
        main(["evaluate", str(folder)])
    one_sentence(error.value.code)


def test_a_bug_keeps_its_traceback(saved, monkeypatch):
    """What goes wrong after the options were accepted is no fault of the user's."""
    monkeypatch.setattr("agents.cli.evaluate_command.evaluate_text", lambda *_, **__: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        main(["evaluate", str(saved)])
