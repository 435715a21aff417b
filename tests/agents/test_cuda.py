"""What the CPU is tested for holds on CUDA, where steps of the decoder are captured as graphs."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO as SB3PPO
from torch.testing import assert_close

import agents
from agents import PPO
from agents.evaluation import evaluate_text, recomputed_kl
from agents.experience.episodes import collect_episodes
from agents.policies.decoding import Decoders
from agents.sb3 import SB3CausalLMPolicy, text_vec_env

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA")
CLOSE = dict(rtol=0, atol=2e-3)
OF_POLICY = ("dtype", "critic_layers", "lora")
KINDS = ["llama", "gpt2", "qwen3", "gpt_neox", "opt"]


@pytest.fixture
def make_agent():
    """``make_agent(PPO, rows, model=...)``: on CUDA, in the default task with a reference."""

    def make(cls=PPO, rows=8, device="cuda", kl_coef=0.1, **keywords):
        policy = {key: keywords.pop(key) for key in OF_POLICY if key in keywords}
        return cls(
            "CausalLMPolicy", "TextGen-v0", n_envs=rows, seed=0, device=device,
            env_kwargs={"reference": "bundled", "kl_coef": kl_coef, "max_new_tokens": 12},
            policy_kwargs={"model": "bundled", **policy, **cls.policy_needs}, **keywords,
        )  # fmt: skip

    return make


@pytest.fixture
def captures():
    """How many graphs the idle decoders of a policy have captured."""
    return lambda policy: sum(len(decoder.captured.captures) for decoder in policy.decoders._idle)


class Waits:
    """Counts how often the host waits for the device within it."""

    def __enter__(self):
        self.caught = warnings.catch_warnings(record=True)
        self.said = self.caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error):
        torch.cuda.set_sync_debug_mode("default")
        self.caught.__exit__(*error)
        self.count = sum("synchroniz" in str(one.message) for one in self.said)


def assert_act_equals_evaluate(policy, rollout):
    now = policy.evaluate(rollout)
    assert_close(now.log_probs.detach(), rollout.log_probs, **CLOSE)
    assert_close(now.values.detach() * rollout.mask, rollout.values, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_captured_steps_of_every_kind_give_the_log_probs_of_evaluate(
    kind, attention, make_model, make_tokenizer, captures, recwarn
):
    model = make_model(kind, vocabulary=24)
    model.set_attn_implementation(attention)
    envs = gym.make_vec(
        "TextGen-v0", num_envs=24, tokenizer=make_tokenizer(24), prompts=["a b", "c", "d e f"],
        reward="length", max_new_tokens=8, stop=["b"], scoring="batch", autoreset_mode="DISABLED",
        array="torch", device="cuda",
    )  # fmt: skip
    policy = agents.CausalLMPolicy(
        envs.single_observation_space, envs.single_action_space, model=model, device="cuda",
        temperature=0.7, banned_tokens=(3,),
    )  # fmt: skip
    policy.seed(0)
    torch.nn.init.normal_(policy.value_head.weight)
    for _ in range(2):  # the second rollout uses what the first has captured
        assert_act_equals_evaluate(policy, collect_episodes(envs, policy, seed=0))
        assert captures(policy) == 1
        with torch.no_grad():  # as an update does: in place
            for parameter in policy.model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]


def test_captured_steps_and_single_launches_draw_the_same_texts(make_agent):
    texts = []
    for captured in (True, False):
        agent = make_agent(rows=32)
        agent.policy.decoders = Decoders(captured)
        texts.append(agent.collect().episodes["response"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("critic_layers", [0, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_agent_learns_over_several_rollouts(make_agent, captures, dtype, critic_layers):
    agent = make_agent(rows=32, dtype=dtype, critic_layers=critic_layers, learning_rate=1e-3)
    before = agent.policy.predict_values(agent.env.reset(seed=0)[0])
    agent.learn(4 * 32 * 12)
    assert agent.num_rollouts >= 4
    assert captures(agent.policy) == 1 + bool(critic_layers)
    after = agent.policy.predict_values(agent.env.reset(seed=0)[0])
    assert not torch.equal(before, after)
    rollout = agent.collect()
    if dtype == "float32":
        assert_act_equals_evaluate(agent.policy, rollout)
    else:
        counted = rollout.log_prob_mismatch[rollout.mask]
        assert counted.mean() < 0.05
    own = torch.tensor(rollout.episodes["kl"])
    plain = torch.as_tensor(
        recomputed_kl(agent.policy, agent.env.unwrapped.shaping.reference, rollout)
    )
    assert_close(own, plain.float(), rtol=0, atol=1e-2 if dtype == "float32" else 1.0)


@pytest.mark.parametrize("algorithm", agents.algorithms.__all__)
def test_every_algorithm_learns_and_is_loaded_on_either_device(make_agent, algorithm, tmp_path):
    agent = make_agent(getattr(agents, algorithm), rows=16)
    agent.learn(2 * 16 * 12)
    agent.save(tmp_path / "agent")
    for device in ("cuda", "cpu"):
        loaded = type(agent).load(tmp_path / "agent", device=device)
        for one, other in zip(loaded.policy.parameters(), agent.policy.parameters(), strict=True):
            assert_close(one.cpu(), other.cpu())
        loaded.learn(16, reset_num_timesteps=False)


def test_both_ways_of_scoring_have_the_same_rewards(make_agent):
    agent = make_agent(rows=6)
    rewards = {}
    for scoring in ("batch", "step"):
        envs = gym.make_vec(
            "TextGen-v0", num_envs=6, reference="bundled", kl_coef=0.1, max_new_tokens=8,
            scoring=scoring, autoreset_mode="DISABLED", array="torch", device="cuda",
        )  # fmt: skip
        envs.unwrapped.bind(agent.policy)
        agent.policy.seed(3)
        observation, _ = envs.reset(seed=0)
        state, sums, ended = None, torch.zeros(6), torch.zeros(6, dtype=torch.bool)
        while not ended.all():
            actions, _, _, state = agent.policy.act(observation, state)
            observation, reward, terminated, _, _ = envs.step(actions)
            sums += reward.cpu().float() * ~ended
            ended |= terminated.cpu()
        rewards[scoring] = sums
    assert_close(rewards["batch"], rewards["step"], rtol=0, atol=5e-3)


def test_an_evaluation_has_the_kl_of_plain_forward_passes(make_agent):
    agent = make_agent(rows=16, learning_rate=1e-3)
    agent.learn(3 * 16 * 12)
    result = evaluate_text(agent, n_episodes=64, seed=5)
    assert_close(
        torch.as_tensor(result.kls), torch.as_tensor(result.recomputed_kls),
        rtol=0, atol=1e-2, check_dtype=False,
    )  # fmt: skip


def test_small_networks_learn_on_cuda():
    agent = PPO("MlpPolicy", "CartPole-v1", device="cuda", seed=0, n_envs=4, n_steps=32)
    agent.learn(256)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_a_run_of_the_command_line_ends_and_is_evaluated(tmp_path, capsys):
    from agents.cli import main

    main([
        "train", "--total-timesteps", "3000", "--n-envs", "64", "--eval-episodes", "32",
        "--reference-episodes", "64", "--device", "cuda", "--output", str(tmp_path / "run"),
    ])  # fmt: skip
    after = json.loads((tmp_path / "run" / "evaluation.json").read_text())["after"]
    assert after["timesteps"] >= 3000


def test_no_stop_before_min_new_tokens(make_model, make_tokenizer):
    envs = gym.make_vec(
        "TextGen-v0", num_envs=64, tokenizer=make_tokenizer(8), prompts=["a b", "c"],
        reward="length", max_new_tokens=6, min_new_tokens=4, stop=[5], scoring="batch",
        autoreset_mode="DISABLED", array="torch", device="cuda",
    )  # fmt: skip
    policy = agents.CausalLMPolicy(
        envs.single_observation_space, envs.single_action_space, model=make_model(), device="cuda"
    )
    policy.seed(0)
    rollout = collect_episodes(envs, policy, seed=0)
    assert_act_equals_evaluate(policy, rollout)
    assert not torch.isin(rollout.actions[:, :3], torch.tensor([0, 5], device="cuda")).any()


def test_ppo_of_stable_baselines3(tmp_path):
    env = text_vec_env(n_envs=8, reference="bundled", kl_coef=0.1, min_new_tokens=4)
    settings = dict(n_steps=12, batch_size=96, n_epochs=1, seed=0, device="cuda")
    agent = SB3PPO(SB3CausalLMPolicy, env, policy_kwargs={"critic_layers": 1}, **settings)
    agent.learn(192)
    assert abs(agent.logger.name_to_value["train/approx_kl"]) < 1e-4
    agent.save(tmp_path / "agent")
    again = SB3PPO.load(tmp_path / "agent", env=env, device="cuda")
    again.learn(96)
    assert again.policy.lm.device.type == "cuda"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_adapters_share_the_weights_of_the_reference(make_agent, device):
    pytest.importorskip("peft")
    agent = make_agent(device=device, lora=4)
    reference, own = agent.env.shaping.reference.parameters(), agent.policy.model.parameters()
    assert {p.data_ptr() for p in reference} <= {p.data_ptr() for p in own}
    agent.learn(200)
    assert_act_equals_evaluate(agent.policy, agent.collect())


@pytest.mark.parametrize(
    ("scoring", "stop", "most"),
    [("batch", None, 0), ("batch", [".", "the end"], 1), ("step", None, 1)],
)
def test_how_often_a_step_and_a_scoring_wait_for_the_device(make_agent, scoring, stop, most):
    policy = make_agent().policy
    envs = gym.make_vec(
        "TextGen-v0", num_envs=8, reference="bundled", kl_coef=0.1, max_new_tokens=7, stop=stop,
        min_new_tokens=7, scoring=scoring, autoreset_mode="DISABLED", array="torch", device="cuda",
    )  # fmt: skip
    envs.unwrapped.bind(policy)
    for warm in (False, True):
        observation, _ = envs.reset(seed=0)
        state, waits = None, []
        for _ in range(7):
            with Waits() as step:
                actions, _, _, state = policy.act(observation, state)
                observation, _, terminated, _, _ = envs.step(actions)
            waits.append(step.count)
        assert terminated.all()
        if warm:  # the first step reads the prompts, the last one scores
            assert max(waits[1:-1]) <= most, waits
            assert waits[-1] <= 3 + most, waits


@pytest.mark.parametrize("algorithm", ["PPO", "GRPO", "REINFORCE"])
@pytest.mark.parametrize("critic_layers", [0, 2])
def test_how_often_an_optimiser_step_waits_for_the_device(make_agent, algorithm, critic_layers):
    agent = make_agent(
        getattr(agents, algorithm), rows=16, group_size=4, critic_layers=critic_layers
    )
    agent.learn(16 * 12)  # everything has run once
    step, counts = agent.optimizer_step, []

    def counted(*given):
        with Waits() as waits:
            metrics = step(*given)
        counts.append(waits.count)
        return metrics

    agent.optimizer_step = counted
    agent.update(agent.collect())
    assert counts and max(counts) <= 2, counts
