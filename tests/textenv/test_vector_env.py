"""Many rows at once: each behaves as the single environment does, however they are driven."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv import AdaptiveKL, TextGenEnv, TextGenVectorEnv, kl
from textenv.lm.decoder import Decoder
from textenv.lm.scoring import Sampling

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
every_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
PROMPTS = ["a", "bcd", "ef", "ghijk"]
BATCH = {"autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch"}
STOPS = list(range(60))  # so many that random responses are of all lengths


def score(prompt, response):
    return len(prompt) + 0.1 * len(response)


@pytest.fixture
def make(tokenizer):
    def make(num_envs=4, **changes):
        arguments = {"prompts": PROMPTS, "reward": score, "max_new_tokens": 5, **changes}
        return TextGenVectorEnv(num_envs, tokenizer=tokenizer, **arguments)

    return make


def numpy(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def random_actions(seed, steps, rows=4, stop=0.2):
    random = np.random.default_rng(seed)
    actions = random.integers(60, 250, (steps, rows))
    return np.where(random.random((steps, rows)) < stop, 0, actions)


def assert_same(left, right, tolerance=0.0):
    """Equality of observations and infos of any depth; infos count where their masks say so."""
    if isinstance(left, dict):
        names = {key.removeprefix("_") for key in {*left, *right}}
        for name in names:
            if f"_{name}" not in left and f"_{name}" not in right:
                assert_same(left[name], right[name], tolerance)
                continue
            masks = [
                infos[f"_{name}"] if name in infos else np.zeros(4, bool) for infos in (left, right)
            ]
            assert masks[0].dtype == np.bool_ and masks[0].tolist() == masks[1].tolist(), name
            if not masks[0].any():
                continue
            if isinstance(left[name], dict):
                assert_same(left[name], right[name], tolerance)
                continue
            for row in np.flatnonzero(masks[0]):
                assert_same(left[name][row], right[name][row], tolerance)
        return
    left, right = numpy(left), numpy(right)
    if isinstance(left, str):
        assert left == right
        return
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


# --- as Gymnasium's own vector environment ------------------------------------------------------


@every_mode
@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("with_reference", [False, True], ids=["plain", "reference"])
def test_rows_behave_as_single_environments_in_gymnasiums_sync_vector_env(
    mode, array, with_reference, make, tokenizer, make_model
):
    arguments = {
        "prompts": PROMPTS,
        "reward": score,
        "max_new_tokens": 5,
        "min_new_tokens": 1,
        "stop": [1, "zz"],
        "no_stop_penalty": 0.5,
        "reference": make_model() if with_reference else None,
    }
    native = make(**arguments, autoreset_mode=mode, array=array)
    sync = SyncVectorEnv(
        [lambda: TextGenEnv(tokenizer=tokenizer, **arguments)] * 4, autoreset_mode=mode
    )
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    tolerance = 1e-4 if with_reference else 1e-6
    for ours, theirs in zip(native.reset(seed=5), sync.reset(seed=5), strict=True):
        assert_same(ours, theirs)
    ended_at_all = 0
    for actions in random_actions(0, 60):
        ours = native.step(torch.tensor(actions) if array == "torch" else actions)
        theirs = sync.step(actions)
        for part, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, tolerance if part in (1, 4) else 0)
        ended = theirs[2]
        ended_at_all += ended.sum()
        if mode == AutoresetMode.DISABLED and ended.any():
            begun = [env.reset(options={"reset_mask": ended.copy()}) for env in (native, sync)]
            for mine, other in zip(*begun, strict=True):
                assert_same(mine, other)
    assert ended_at_all > 30


@every_mode
def test_row_i_is_the_single_environment_with_seed_plus_i(mode, make, tokenizer):
    env = make(autoreset_mode=mode)
    _, infos = env.reset(seed=100)
    begun = [[prompt] for prompt in infos["prompt"]]
    for actions in random_actions(1, 40):
        _, _, terminated, _, infos = env.step(actions)
        if mode == AutoresetMode.DISABLED and terminated.any():
            _, infos = env.reset(options={"reset_mask": terminated})
        for row in np.flatnonzero(infos.get("_prompt", np.zeros(4, bool))):
            begun[row].append(infos["prompt"][row])
    for row, prompts in enumerate(begun):
        single = TextGenEnv(tokenizer=tokenizer, prompts=PROMPTS, reward=score)
        wanted = [single.reset(seed=100 + row)[1]["prompt"]]
        wanted += [single.reset()[1]["prompt"] for _ in prompts[1:]]
        assert len(prompts) > 5 and prompts == wanted


@pytest.mark.parametrize("driving", [{"autoreset_mode": mode} for mode in MODES] + [BATCH])
@pytest.mark.parametrize("coefficient", [None, 0.3])
def test_numpy_and_torch_agree(driving, coefficient, make, make_model):
    model, reference = make_model(seed=0), make_model(seed=1)
    arrays, kinds = ("numpy", "torch"), (np.ndarray, torch.Tensor)
    envs = []
    for array in arrays:
        shaping = {} if coefficient is None else {"reference": reference, "kl_coef": coefficient}
        envs.append(make(array=array, **driving, **shaping))
        envs[-1].bind(ModelPolicy(model, envs[-1]))
    observations = [env.reset(seed=2) for env in envs]
    assert_same(*[observation for observation, _ in observations])
    for actions in random_actions(3, 25):
        results = []
        for env, kind, (observation, *_) in zip(envs, kinds, observations, strict=True):
            if coefficient is not None:
                env.shaping.policy.act(observation, torch.tensor(actions))
            results.append(env.step(actions))
            rewards, terminated, truncated = results[-1][1:4]
            for value in (*results[-1][0].values(), rewards, terminated, truncated):
                assert isinstance(value, kind)
        for mine, other in zip(*results, strict=True):
            assert_same(mine, other, 1e-5)
        rewards, terminated, truncated = results[0][1:4]
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        rewards, terminated, truncated = results[1][1:4]
        assert (rewards.dtype, terminated.dtype) == (torch.float32, torch.bool)
        observations = results
        ended = numpy(terminated)
        if driving["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            observations = [env.reset(options={"reset_mask": ended}) for env in envs]


# --- resets -------------------------------------------------------------------------------------


def test_a_reset_of_some_rows_leaves_the_others_alone(make):
    env = make(autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"prompt_index": np.array([0, 1, 2, 3])})
    before, *_ = env.step(np.array([60, 61, 62, 63]))
    options = {
        "reset_mask": np.array([False, True, False, True]),
        "prompt_index": np.array([3, 3, 3, 2]),
    }
    after, infos = env.reset(options=options)
    assert set(options) == {"reset_mask", "prompt_index"}  # read, not popped
    assert infos["_prompt"].tolist() == [False, True, False, True]
    assert infos["prompt"].tolist() == [None, "ghijk", None, "ef"]
    assert after["attention_mask"].sum(1).tolist() == [2, 5, 3, 2]
    for row in (0, 2):
        assert after["input_ids"][row].tolist() == before["input_ids"][row].tolist()
    assert env.prompt_index.tolist() == [0, 3, 2, 2]


def test_a_mask_may_be_a_tensor(make):
    env = make(array="torch", autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(torch.tensor([60, 60, 60, 60]))
    _, infos = env.reset(options={"reset_mask": torch.tensor([True, False, True, False])})
    assert infos["_prompt"].tolist() == [True, False, True, False]


def prompts_of(env, resets=6, **arguments):
    prompts = [env.reset(**arguments)[1]["prompt"].tolist()]
    return [*prompts, *(env.reset()[1]["prompt"].tolist() for _ in range(resets))]


def test_one_seed_gives_one_run(make):
    assert prompts_of(make(), seed=3) == prompts_of(make(), seed=3) != prompts_of(make(), seed=4)
    env = make()
    assert prompts_of(env, seed=3) == prompts_of(env, seed=3)


def test_without_a_seed_runs_differ(make):
    assert prompts_of(make()) != prompts_of(make())


def test_seeds_may_be_given_for_each_row(make):
    listed, counted = make(), make()
    assert prompts_of(listed, seed=[7, 8, 9, 10]) == prompts_of(counted, seed=7)


def test_a_seed_of_none_leaves_a_row_as_it_was(make):
    env, other = make(), make()
    env.reset(seed=7), other.reset(seed=7)
    ours, theirs = prompts_of(env, seed=[None, 5, None, 5]), prompts_of(other)
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert [row[1] for row in ours] == [row[3] for row in ours]


def test_a_seed_for_some_rows_leaves_the_others_as_they_were(make):
    env, other = make(autoreset_mode="DISABLED"), make(autoreset_mode="DISABLED")
    env.reset(seed=7), other.reset(seed=7)
    env.reset(seed=1, options={"reset_mask": np.array([True, False, False, False])})
    ours, theirs = prompts_of(env, 12), prompts_of(other, 12)
    assert [row[1:] for row in ours] == [row[1:] for row in theirs]
    assert [row[0] for row in ours] != [row[0] for row in theirs]


def test_reconfiguring_asks_for_a_reset(make):
    env = make()
    env.reset(seed=0)
    env.reconfigure(AutoresetMode.DISABLED, "batch", "torch")
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert TextGenVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        env.step(torch.zeros(4, dtype=torch.int64))
    observation, _ = env.reset(seed=0)
    assert isinstance(observation["input_ids"], torch.Tensor)


# --- groups -------------------------------------------------------------------------------------


@every_mode
def test_members_of_a_group_meet_the_same_prompts_in_every_episode(mode, make):
    env = make(6, group_size=3, autoreset_mode=mode)
    _, infos = env.reset(seed=1)
    begun = [[prompt] for prompt in infos["prompt"]]
    for actions in random_actions(2, 40, rows=6):
        _, _, terminated, _, infos = env.step(actions)
        if mode == AutoresetMode.DISABLED and terminated.any():
            _, infos = env.reset(options={"reset_mask": terminated})
        for row in np.flatnonzero(infos.get("_prompt", np.zeros(6, bool))):
            begun[row].append(infos["prompt"][row])
    shortest = min(map(len, begun))
    assert shortest > 5
    first, second = ({tuple(prompts[:shortest]) for prompts in begun[g : g + 3]} for g in (0, 3))
    assert len(first) == len(second) == 1 and first != second


def test_the_prompt_of_a_group_is_prefilled_once(make, make_model):
    reference = make_model()
    shapes = []
    reference.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    env = make(6, group_size=3, reference=reference)
    env.reset(seed=1)
    assert len(set(env.prompt_index)) == 2
    env.step(np.full(6, 60))
    env.step(np.full(6, 60))
    # Before these two come the probes of the reference, which show that it is supported.
    assert [rows for rows, _ in shapes[-2:]] == [2, 6] and {rows for rows, _ in shapes[:-2]} == {1}


# --- batch scoring ------------------------------------------------------------------------------


def test_batch_scoring_by_hand(make):
    calls = []

    def lengths(episodes):
        calls.append([(episode.prompt, episode.response) for episode in episodes])
        return [float(len(episode.response_ids)) for episode in episodes]

    env = make(3, reward=lengths, no_stop_penalty=0.5, stop="!", **BATCH)
    env.reset(options={"prompt_index": np.array([0, 1, 2])})
    Q, R, end, bang = 50, 51, 0, 2  # "Q", "R", "<end>", "!"
    steps = [
        env.step(np.array(actions))
        for actions in ([Q, end, Q], [Q, Q, bang], [R, end, Q], [Q, Q, Q], [Q, 1, R])
    ]
    for _, rewards, terminated, truncated, infos in steps[:-1]:
        assert rewards.tolist() == [0, 0, 0] and infos == {}
        assert not terminated.any() and not truncated.any()
    observation, rewards, terminated, truncated, infos = steps[-1]
    assert calls == [[("a", "QQRQQ"), ("bcd", ""), ("ef", "Q")]]
    assert terminated.tolist() == [True, True, True] and not truncated.any()
    assert rewards.tolist() == [4.5, 1, 2]
    assert infos["token_rewards"].tolist() == [[0, 0, 0, 0, 4.5], [1, 0, 0, 0, 0], [0, 2, 0, 0, 0]]
    assert infos["response_length"].tolist() == [5, 1, 2]
    assert infos["finish_reason"].tolist() == ["length", "stop", "stop"]
    assert infos["score"].tolist() == [4.5, 1, 2]
    # Actions of rows that have ended are ignored.
    assert observation["attention_mask"].sum(1).tolist() == [6, 4, 4]
    assert observation["input_ids"][1].tolist() == [*env.prompts[1].ids, end, *[0] * 6]


def test_batch_scoring_ends_as_soon_as_the_last_row_does(make):
    env = make(3, **BATCH)
    env.reset(seed=0)
    assert not env.step(np.array([0, 60, 60]))[2].any()
    _, _, terminated, _, infos = env.step(np.array([60, 0, 0]))
    assert terminated.all() and infos["token_rewards"].shape == (3, 2)
    env.reset()
    assert env.step(np.array([0, 0, 0]))[2].all()


def test_batch_scoring_asks_the_reference_once(make, make_model):
    reference = make_model()
    calls = []
    env = make(reference=reference, **BATCH)
    reference.base_model.register_forward_hook(lambda *_: calls.append(1))
    env.reset(seed=0)
    for actions in random_actions(0, 5, stop=0.0):
        env.step(actions)
    assert len(calls) == 1


# --- KL shaping ---------------------------------------------------------------------------------


class ModelPolicy:
    """Acts with a model and leaves what an environment reads of a bound policy."""

    def __init__(self, model, env, sampling=None):
        self.sampling = (sampling or Sampling()).limited_to(int(env.single_action_space.n))
        self.decoder = Decoder(model, env.num_envs, env.max_length)
        self.generator = torch.Generator().manual_seed(0)

    def act(self, observation, actions=None):
        lengths = torch.as_tensor(observation["attention_mask"]).sum(1, dtype=torch.int64)
        logits, _ = self.decoder.next(torch.as_tensor(observation["input_ids"]), lengths)
        self.last_logits = self.sampling.apply(logits)
        if actions is None:
            probabilities = self.last_logits.softmax(-1)
            actions = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
        self.last_log_probs = -F.cross_entropy(self.last_logits, actions, reduction="none")
        return actions


def bound(env, model, sampling=None):
    policy = ModelPolicy(model, env, sampling)
    env.bind(policy)
    return policy


def play_batch(env, policy, seed=0):
    """One batch of episodes; their actions ``[T, B]``, the last step's rewards and its infos."""
    observation, _ = env.reset(seed=seed)
    taken, infos = [], {}
    while "token_rewards" not in infos:
        actions = policy.act(observation)
        taken.append(actions)
        sent = actions if env.array == "torch" else actions.numpy()
        observation, rewards, _, _, infos = env.step(sent)
    return torch.stack(taken), rewards, infos


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("estimator", kl.ESTIMATORS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_step_and_batch_scoring_pay_each_token_the_same(
    architecture, estimator, array, make, make_model
):
    sampling = Sampling(temperature=1.3, banned_tokens=(70, 71))
    model, reference = make_model(architecture, seed=0), make_model(architecture, seed=1)
    arguments = {
        "reference": reference,
        "kl_coef": 0.3,
        "kl_estimator": estimator,
        "stop": STOPS,
        "no_stop_penalty": 2.0,
        "array": array,
    }
    batch = make(6, **arguments, **BATCH)
    actions, returns, infos = play_batch(batch, bound(batch, model, sampling))
    length = infos["response_length"]
    assert len(set(length.tolist())) > 2  # rows end at different steps

    step = make(6, **arguments)
    policy = bound(step, model, sampling)
    observation, _ = step.reset(seed=0)
    running = np.ones(6, bool)
    for t, chosen in enumerate(actions):
        policy.act(observation, chosen)
        observation, rewards, terminated, _, step_infos = step.step(chosen)
        for row in np.flatnonzero(running):
            for ours, theirs in (
                (infos["token_rewards"][row, t], rewards[row]),
                (infos["token_kl"][row, t], step_infos["kl"][row]),
                (infos["ref_log_probs"][row, t], step_infos["ref_log_prob"][row]),
            ):
                assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
            assert bool(terminated[row]) == (t == length[row] - 1)
            if terminated[row]:
                for key in ("response", "response_length", "score", "finish_reason"):
                    assert infos[key][row] == step_infos[key][row]
        running &= ~numpy(terminated)
    assert not running.any()
    tokens = numpy(infos["token_rewards"])
    np.testing.assert_allclose(numpy(returns), tokens.sum(1), atol=1e-4)
    off_the_mask = np.arange(tokens.shape[1]) >= length[:, None]
    for key in ("token_rewards", "token_kl", "ref_log_probs"):
        assert (numpy(infos[key])[off_the_mask] == 0).all()


@pytest.mark.parametrize("estimator", kl.ESTIMATORS)
def test_the_kl_is_that_of_both_models_own_forward(estimator, make, make_model):
    sampling = Sampling(temperature=0.8)
    models = make_model(seed=0), make_model(seed=1)
    env = make(1, reference=models[1], kl_coef=0.3, kl_estimator=estimator, **BATCH)
    actions, _, infos = play_batch(env, bound(env, models[0], sampling))
    prompt = env.prompts[env.prompt_index[0]].ids
    response = actions[: infos["response_length"][0], 0]
    row = torch.cat([torch.tensor(prompt), response])[None]
    with torch.no_grad():
        log_p, log_q = (
            (model(input_ids=row).logits[0, len(prompt) - 1 : -1] / 0.8).log_softmax(-1)
            for model in models
        )
    p_taken, q_taken = (part.gather(1, response[:, None])[:, 0] for part in (log_p, log_q))
    x = p_taken - q_taken
    wanted = {
        "k1": x,
        "k2": x**2 / 2,
        "k3": torch.exp(-x) - 1 + x,
        "exact": (log_p.exp() * (log_p - log_q)).sum(-1),
    }[estimator]
    np.testing.assert_allclose(infos["token_kl"][0], wanted, rtol=1e-3, atol=1e-3)
    rewards = -0.3 * wanted
    rewards[-1] += infos["score"][0]
    np.testing.assert_allclose(infos["token_rewards"][0], rewards, rtol=1e-3, atol=1e-3)


def test_a_policy_that_is_the_reference_has_no_kl(make, make_model):
    model = make_model()
    step = make(reference=model, kl_coef=1.0, stop=STOPS)
    policy = bound(step, model, Sampling(0.7))
    observation, _ = step.reset(seed=0)
    for _ in range(12):
        observation, _, _, _, infos = step.step(policy.act(observation).numpy())
        assert (infos["kl"] == 0).all()
    batch = make(reference=model, kl_coef=1.0, stop=STOPS, **BATCH)
    _, _, infos = play_batch(batch, bound(batch, model, Sampling(0.7)))
    assert np.abs(infos["token_kl"]).max() < 1e-5


@pytest.mark.parametrize("driving", [{}, BATCH])
def test_a_coefficient_of_0_reports_and_shapes_nothing(driving, make, make_model):
    model, reference = make_model(seed=0), make_model(seed=1)
    env = make(2, reference=reference, kl_coef=0, **driving)
    policy = bound(env, model)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        chosen = policy.act(observation).clamp(min=60)
        policy.act(observation, chosen)
        observation, rewards, _, _, infos = env.step(chosen.numpy())
        if not driving:
            assert (infos["kl"] != 0).all() and (infos["ref_log_prob"] < 0).all()
    assert rewards.tolist() == infos["score"].tolist()
    if driving:
        assert (infos["token_kl"] != 0).all() and (infos["ref_log_probs"] < 0).all()


@pytest.mark.parametrize("estimator", ["k1", "exact"])
def test_a_reference_alone_reports_its_log_probs_in_batch_scoring(estimator, make, make_model):
    env = make(2, reference=make_model(), kl_estimator=estimator, **BATCH)
    env.reset(seed=0)
    for _ in range(5):
        *_, infos = env.step(np.array([60, 61]))
    assert infos["ref_log_probs"].shape == (2, 5) and "token_kl" not in infos


@pytest.mark.parametrize("estimator", ["k1", "k3", "exact"])
@pytest.mark.parametrize("driving", [{}, BATCH])
def test_a_banned_action_of_a_waiting_row_does_no_harm(driving, estimator, make, make_model):
    # Its log-prob is -inf for the policy and the reference, and -inf · 0 is nan.
    env = make(2, reference=make_model(seed=1), kl_coef=0.5, kl_estimator=estimator, **driving)
    policy = bound(env, make_model(seed=0), Sampling(banned_tokens=(99,)))
    observation, _ = env.reset(seed=0)
    total = np.zeros(2)
    for actions in ([60, 0], [60, 99], [60, 60], [60, 60], [60, 60]):
        policy.act(observation, torch.tensor(actions))
        observation, rewards, *_, infos = env.step(np.array(actions))
        total += rewards
    assert np.isfinite(total).all()
    assert np.isfinite(infos["token_kl" if driving else "kl"]).all()


def test_the_reference_has_no_dropout_and_its_weights_go_on_learning(make, make_model):
    reference = make_model("gpt2").train()
    env = make(reference=reference)
    assert not env.shaping.reference.training
    assert all(parameter.requires_grad for parameter in reference.parameters())


def test_the_adaptive_coefficient_by_hand():
    schedule = AdaptiveKL(target=6, horizon=10_000, initial=0.2)
    schedule.update(kl=12, num_episodes=256)  # the error is clipped at 0.2
    assert schedule.value == pytest.approx(0.201024, abs=1e-12)
    schedule.update(kl=6, num_episodes=256)
    assert schedule.value == pytest.approx(0.201024, abs=1e-12)
    schedule.update(kl=0, num_episodes=100)
    assert schedule.value == pytest.approx(0.201024 * (1 - 0.2 * 100 / 10_000), abs=1e-12)
    schedule.update(kl=6.6, num_episodes=1000)
    assert schedule.value == pytest.approx(0.201024 * 0.998 * (1 + 0.1 * 0.1), abs=1e-9)


@pytest.mark.parametrize("driving", [{}, BATCH])
def test_the_adaptive_coefficient_is_told_the_kl_of_whole_episodes(driving, make, make_model):
    told = []

    class Told(AdaptiveKL):
        def update(self, kl, num_episodes):
            told.append((kl, num_episodes))
            self.value += 1.0

    env = make(2, reference=make_model(seed=1), kl_coef=Told(initial=0.5), **driving)
    policy = bound(env, make_model(seed=0))
    observation, _ = env.reset(seed=0)
    sums, paid = np.zeros(2), np.zeros(2)
    for actions in ([60, 60], [60, 0], [60, 61], [60, 62], [60, 63]):
        policy.act(observation, torch.tensor(actions))
        observation, rewards, _, _, infos = env.step(np.array(actions))
        paid += rewards
        if not driving:
            sums += infos["kl"]
            if actions == [60, 0]:
                of_the_short_one = sums[1]
                assert told == [(pytest.approx(of_the_short_one, abs=1e-5), 1)]
                sums[1] = 0
    if driving:
        sums = infos["token_kl"].sum(1)
        assert told == [(pytest.approx(sums.mean(), abs=1e-5), 2)]
    else:
        assert told[1] == (pytest.approx(sums[0], abs=1e-5), 1)
    # An episode is shaped by the coefficient with which it began, whatever becomes of it.
    assert paid[0] - infos["score"][0] == pytest.approx(-0.5 * sums[0], abs=1e-4)


# --- wrappers, views, rendering -----------------------------------------------------------------


@every_mode
def test_gymnasiums_statistics_agree_with_the_episodes(mode, make):
    env = RecordEpisodeStatistics(make(autoreset_mode=mode, no_stop_penalty=0.25))
    env.reset(seed=0)
    episodes = 0
    for actions in random_actions(5, 60):
        _, _, terminated, _, infos = env.step(actions)
        details = infos.get("final_info", infos)
        for row in np.flatnonzero(terminated):
            assert infos["episode"]["r"][row] == pytest.approx(details["score"][row])
            assert infos["episode"]["l"][row] == details["response_length"][row]
        episodes += terminated.sum()
        if mode == AutoresetMode.DISABLED and terminated.any():
            env.reset(options={"reset_mask": terminated.copy()})
    assert env.episode_count == episodes > 30


def test_gymnasiums_statistics_of_batch_scoring_are_the_returns(make):
    env = RecordEpisodeStatistics(make(2, **BATCH))
    env.reset(seed=0)
    env.step(np.array([60, 0]))
    *_, infos = env.step(np.array([0, 60]))
    assert infos["episode"]["r"] == pytest.approx(infos["score"])


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_observations_are_copies_unless_views_are_asked_for(array, make):
    for copy in (True, False):
        env = make(1, array=array, copy=copy, prompts=["a"])
        first, _ = env.reset()
        env.step(np.array([60]))
        assert first["attention_mask"].sum() == (1 if copy else 2)
        assert (int(first["input_ids"][0, 1]) == 60) is not copy


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("copy", [True, False])
def test_final_observations_are_kept_even_when_views_are_handed_out(array, copy, make):
    env = make(2, array=array, copy=copy, prompts=["ab"], autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset()
    env.step(np.array([60, 61]))
    observation, _, _, _, infos = env.step(np.array([0, 62]))
    final = infos["final_obs"][0]
    assert infos["final_obs"][1] is None
    assert final["input_ids"].tolist() == [258, 60, 0, 0, 0, 0]  # "ab" is one token
    assert final["attention_mask"].tolist() == [1, 1, 1, 0, 0, 0]
    assert observation["attention_mask"].sum(1).tolist() == [1, 3]
    env.step(np.array([63, 63]))
    assert final["input_ids"].tolist() == [258, 60, 0, 0, 0, 0]


@pytest.mark.parametrize("driving", [{}, BATCH])
def test_ansi_renders_every_row(driving, make):
    env = make(2, render_mode="ansi", max_new_tokens=2, prompts=["Say: "], **driving)
    env.reset()
    assert env.render() == ("Say: ", "Say: ")
    env.step(np.array([50, 0]))
    if not driving:
        assert env.render() == ("Say: Q", "Say: \x1b[30;48;5;46m<end>\x1b[0m")
    env.step(np.array([51, 50]))
    assert env.render()[0] == "Say: Q\x1b[30;48;5;46mR\x1b[0m"


@pytest.mark.parametrize("driving", [{}, BATCH])
def test_ansi_colours_by_the_kl_where_there_is_one(driving, make, make_model):
    env = make(
        1,
        render_mode="ansi",
        max_new_tokens=2,
        prompts=["x"],
        reference=make_model(seed=1),
        kl_coef=0.1,
        kl_estimator="k3",  # never negative: all on green
        **driving,
    )
    policy = bound(env, make_model(seed=0))
    observation, _ = env.reset()
    for token in (50, 51):
        policy.act(observation, torch.tensor([token]))
        observation, *_ = env.step(np.array([token]))
    (text,) = env.render()
    assert text.startswith("x\x1b[30;48;5;") and text.count("\x1b[0m") == 2
    assert not any(f";{red}m" in text for red in (224, 217, 210, 203, 196))


# --- random calls -------------------------------------------------------------------------------

LEGAL = st.lists(st.sampled_from([0, 1, 60, 61, 258]), min_size=3, max_size=3)
ILLEGAL = st.sampled_from([[0, 0], [60, 60, 259], [-1, 0, 0], [1.0, 1.0, 1.0], [[0, 0, 0]], 5])
MASKS = st.lists(st.booleans(), min_size=3, max_size=3)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), LEGAL),
        st.tuples(st.just("step"), LEGAL),
        st.tuples(st.just("illegal step"), ILLEGAL),
        st.tuples(st.just("reset"), MASKS),
        st.tuples(st.just("reset all"), st.integers(0, 5)),
    ),
    max_size=25,
)


class Model:
    """The environment as its documentation has it, in plain lists."""

    def __init__(self, env):
        self.env, self.prompts, self.responses = env, [None] * 3, [None] * 3
        self.ended = [None] * 3  # None: not begun, False: running, else how it ended

    def begin(self, rows, infos):
        for row in range(3):
            assert infos.get("_prompt", [False] * 3)[row] == (row in rows)
            if row in rows:
                ids = {prompt.text: prompt.ids.tolist() for prompt in self.env.prompts}
                self.prompts[row] = ids[infos["prompt"][row]]
                self.responses[row], self.ended[row] = [], False

    def append(self, row, token):
        """The reason for which the row ends with this token, or False."""
        response = self.responses[row]
        response.append(token)
        if token in (0, 1) and len(response) >= self.env.min_new_tokens:
            self.ended[row] = "stop"
        elif len(response) == self.env.max_new_tokens:
            self.ended[row] = "length"
        return self.ended[row]

    def check(self, observation):
        assert observation in self.env.observation_space
        for row in range(3):
            tokens = self.prompts[row] + self.responses[row]
            padding = [0] * (self.env.max_length - len(tokens))
            assert observation["input_ids"][row].tolist() == tokens + padding
            assert observation["attention_mask"][row].tolist() == [1] * len(tokens) + padding


@settings(max_examples=120, deadline=None)
@given(mode=st.sampled_from(MODES), least=st.integers(0, 3), calls=CALLS)
def test_random_calls_keep_to_the_rules(tokenizer, mode, least, calls):
    env = TextGenVectorEnv(
        3,
        tokenizer=tokenizer,
        prompts=PROMPTS,
        reward=lambda prompt, response: 1.0,
        max_new_tokens=3,
        min_new_tokens=least,
        stop=[1],
        autoreset_mode=mode,
    )
    model = Model(env)
    for call, argument in calls:
        waiting = [row for row in range(3) if model.ended[row]]
        may_not_go_on = model.ended[0] is None or (waiting and mode == AutoresetMode.DISABLED)
        if call == "reset all":
            observation, infos = env.reset(seed=argument)
            model.begin([0, 1, 2], infos)
        elif call == "reset":
            options = {"reset_mask": np.array(argument)}
            if not any(argument) or (model.ended[0] is None and not all(argument)):
                with pytest.raises(ValueError, match=r"reset_mask"):
                    env.reset(options=options)
                continue
            observation, infos = env.reset(options=options)
            model.begin(np.flatnonzero(argument), infos)
        elif may_not_go_on:
            with pytest.raises(gym.error.ResetNeeded, match=r"reset\("):
                env.step(np.array(argument))
            continue
        elif call == "illegal step":
            with pytest.raises(ValueError, match=r"actions (have|contain)"):
                env.step(np.array(argument))
            continue
        else:
            observation, rewards, terminated, truncated, infos = env.step(np.array(argument))
            ended = [
                row not in waiting and bool(model.append(row, argument[row])) for row in range(3)
            ]
            assert terminated.tolist() == ended and not truncated.any()
            assert rewards.tolist() == [float(end) for end in ended]
            details = infos.get("final_info", infos)
            for row in np.flatnonzero(ended):
                assert details["finish_reason"][row] == model.ended[row]
                assert details["response_length"][row] == len(model.responses[row])
            if mode == AutoresetMode.SAME_STEP:
                model.begin(np.flatnonzero(ended), infos)
            else:
                model.begin(waiting, infos)  # NEXT_STEP: this step only reset them
        model.check(observation)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.sampled_from([0, 1, 60, 61, 258]), max_size=12), seed=st.integers(0, 100)
)
def test_random_actions_in_the_single_environment_end_once(tokenizer, actions, seed):
    env = TextGenEnv(tokenizer=tokenizer, prompts=PROMPTS, reward=score, max_new_tokens=3)
    observation, info = env.reset(seed=seed)
    start, ended = int(observation["attention_mask"].sum()), False
    for number, action in enumerate(actions, start=1):
        if ended:
            with pytest.raises(gym.error.ResetNeeded, match=r"have ended"):
                env.step(action)
            continue
        observation, value, ended, truncated, details = env.step(action)
        assert ended is (action == 0 or number == 3) and truncated is False
        assert observation in env.observation_space
        assert observation["attention_mask"].sum() == start + number
        assert math.isfinite(value) and (value != 0) == ended == ("score" in details)
        assert not ended or value == pytest.approx(score(info["prompt"], details["response"]))
