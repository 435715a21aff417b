"""Learning with several processes: what they share, and how all end when one does."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import GRPO, PPO, TRPO, distributed
from agents.runs import RunRecorder


def test_two_processes_learn_as_one_agent(text_agent, weights, tmp_path, in_processes):
    def learn():
        agent = text_agent(batch_size=4)
        prompts = []

        class Noting(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_end(self):
                prompts.append(self.locals["rollout"].episodes["prompt"])

        agent.learn(150, Noting())
        agent.save(tmp_path / "agent")
        schedule = agent.env.unwrapped.shaping.schedule
        return {
            "weights": weights(agent), "timesteps": agent.num_timesteps, "rows": agent.n_envs,
            "prompts": prompts, "kl_coef": schedule.value, "rollouts": agent.num_rollouts,
            "episodes": [(e["r"], e["l"]) for e in agent.ep_info_buffer],
            "actions": agent.policy.generator.get_state(),
        }  # fmt: skip

    one, other = in_processes(learn, learn)
    for name in one["weights"]:
        assert torch.equal(one["weights"][name], other["weights"][name])
    assert one["rows"] == other["rows"] == 4
    assert not torch.equal(one["actions"], other["actions"])
    assert one["timesteps"] == other["timesteps"] >= 150
    assert one["kl_coef"] == other["kl_coef"] != 0.1
    assert one["prompts"] == other["prompts"] and len(one["prompts"][0]) == 8
    # The rows of both begin as those of one process.
    whole = text_agent()
    assert one["prompts"][0] == whole.collect().episodes["prompt"]
    for each in (one, other):
        assert len(each["episodes"]) == min(8 * each["rollouts"], 100)
        lengths = sum(length for _, length in each["episodes"])
        assert lengths == each["timesteps"] or each["rollouts"] > 12
    assert sorted(one["episodes"]) == sorted(other["episodes"])
    loaded = PPO.load(tmp_path / "agent", device="cpu")
    assert loaded.n_envs == 8 and loaded.num_timesteps == one["timesteps"]


def test_without_a_seed_all_learn_the_weights_of_the_first(weights, in_processes):
    def learn():
        return weights(PPO("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu").learn(1))

    one, other = in_processes(learn, learn)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_callback_that_stops_in_one_process_stops_all(text_agent, in_processes):
    def learn(stops):
        def callback(local_variables, _):
            return not (stops and local_variables["self"].num_timesteps > 40)

        agent = text_agent().learn(10_000, callback)
        return agent.num_timesteps, agent.num_rollouts

    one, other = in_processes(lambda: learn(False), lambda: learn(True))
    assert one == other and 0 < one[0] < 10_000


def failing(episodes):
    """A reward that fails in the second process."""
    if distributed.rank() == 1:
        raise ConnectionError("the judge is away")
    return [0.0] * len(episodes)


def test_an_error_in_one_process_is_raised_in_all(text_agent, in_processes):
    def learn():
        agent = text_agent(env={"reward": failing})
        with pytest.raises(Exception, match="the judge is away") as caught:
            agent.learn(1000)
        return type(caught.value).__name__, agent.num_timesteps, agent.between_rollouts

    assert in_processes(learn, learn) == [("RewardError", 0, True)] * 2


def test_a_gradient_that_is_not_finite_in_one_process_ends_all(text_agent, in_processes):
    def learn():
        agent = text_agent()
        rollout = agent.collect()
        if distributed.rank() == 1:
            rollout.rewards[0, 0] = torch.inf
        with pytest.raises(FloatingPointError):
            agent.update(rollout)

    in_processes(learn, learn)


def test_rows_that_cannot_be_divided_are_refused(text_agent, in_processes):
    def make(kind, **arguments):
        with pytest.raises(ValueError) as caught:
            text_agent(kind, **arguments)
        return str(caught.value)

    (text, _) = in_processes(lambda: make(PPO, n_envs=9), lambda: make(PPO, n_envs=9))
    assert text.startswith("n_envs=9 cannot be divided equally among 2 processes")
    grouped = {"n_envs": 12, "group_size": 4}
    (text, _) = in_processes(lambda: make(GRPO, **grouped), lambda: make(GRPO, **grouped))
    assert "in groups of 4: use a multiple of 8" in text


def test_an_error_reaches_all_only_in_a_block_of_all(in_processes):
    def work():
        with distributed.raise_in_all_processes():
            inside = distributed.raises_in_all_processes()
        with pytest.raises(ZeroDivisionError), distributed.raise_in_all_processes():
            raise ZeroDivisionError
        return inside, distributed.raises_in_all_processes()

    assert in_processes(work, work) == [(True, False)] * 2


def test_the_functions_of_one_process_return_what_they_are_given():
    values, named = torch.arange(3.0), {"a": 1.0}
    assert distributed.process_count() == 1 and distributed.is_main()
    assert distributed.local_rows("n_envs", 7) == 7
    assert distributed.raises_in_all_processes()
    assert distributed.all_reduce_named(named) == named
    assert distributed.all_reduce_tensor(values) is values
    assert distributed.all_gather("a") == ["a"] and distributed.all_reduce([1, 2.5]) == [1, 2.5]
    with pytest.raises(ZeroDivisionError), distributed.raise_in_all_processes():
        raise ZeroDivisionError


@pytest.mark.parametrize("at", [2, 31])
@pytest.mark.parametrize("kind", [PPO, TRPO])
def test_a_process_dies_at_an_exchange(
    kind, at, text_agent, weights, tmp_path, monkeypatch, start, ended
):
    """The first one does not wait for it: it ends with an error, and saves what it has learned."""
    few = {"n_epochs": 2, "batch_size": 4} if kind is PPO else {"cg_max_steps": 3}
    noticing, left = distributed.noticing_loss, [at]  # exchanges until then

    def dying():
        if distributed.rank() == 1 and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return noticing()

    def learn():
        agent = text_agent(kind, **few)
        left[0] += len(agent.policy.state_dict())  # which the first one sends
        with pytest.raises(distributed.ProcessLost):
            agent.learn(100_000, RunRecorder(tmp_path / "run"))
        return weights(agent)

    monkeypatch.setattr(distributed, "noticing_loss", dying)
    codes = ended(start([learn, learn]))
    assert codes == [0, -signal.SIGKILL], (tmp_path / "0.txt").read_text()
    learned = torch.load(tmp_path / "0.pt", weights_only=False)
    saved = weights(kind.load(tmp_path / "run", device="cpu"))
    assert all(torch.equal(saved[name], learned[name]) for name in learned)
