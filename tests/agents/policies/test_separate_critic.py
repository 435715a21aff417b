"""A critic with a body of its own: the same V whichever way, and no effect on the policy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from agents import PPO, TRPO, ActorCritic
from textenv.lm.parts import first_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ARCHITECTURES = ("llama", "gpt2", "qwen3", "gpt_neox", "opt")


@pytest.fixture
def spread():
    """Moves a critic's weights away from those of the model and from zero."""

    def move(policy):
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in policy.critic_parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return policy

    return move


def plain_values(policy, input_ids, lengths):
    """V at the last token of each row, by one plain call of the critic's body for each row."""
    values = []
    for ids, length in zip(input_ids, lengths.tolist(), strict=True):
        hidden = policy.critic_body(input_ids=ids[None, :length], use_cache=False)
        values.append(policy.value_head(hidden.last_hidden_state[0, -1])[0])
    return torch.stack(values).detach()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 2])
def test_act_predict_and_evaluate_agree(kind, layers, in_batches, make_model, policy_for, spread):
    envs = in_batches(8)
    policy = spread(policy_for(envs, make_model(kind), critic_layers=layers))
    observation, _ = envs.reset(seed=0)
    first = {key: value.clone() for key, value in observation.items()}
    state, mask, actions_taken, values_taken = None, [], [], []
    for step in range(4):
        actions, _, values, state = policy.act(observation, state)
        lengths = observation["attention_mask"].sum(dim=1)
        running = lengths == first["attention_mask"].sum(dim=1) + step
        plain = plain_values(policy, observation["input_ids"], lengths)
        assert_close(values[running], plain[running], **CLOSE)
        assert_close(policy.predict_values(observation), plain, **CLOSE)
        actions_taken.append(actions), values_taken.append(values), mask.append(running)
        observation = envs.step(actions)[0]
    rows = policy.rollout_observations(first, observation)
    mask = torch.stack(mask, dim=1)
    batch = SimpleNamespace(observations=rows, actions=torch.stack(actions_taken, dim=1), mask=mask)
    values = torch.stack(values_taken, dim=1) * mask
    assert_close(policy.evaluate(batch).values, values, **CLOSE)
    assert_close(policy.evaluate_values(batch), values, **CLOSE)
    assert values[mask].std() > 0.05


def test_its_loss_moves_no_weight_of_the_policy(in_batches, make_model, policy_for, spread):
    envs = in_batches(4)
    policy = spread(policy_for(envs, make_model(), critic_layers=1))
    observation, _ = envs.reset(seed=0)
    lengths = observation["attention_mask"].sum(dim=1)
    rows = {"input_ids": observation["input_ids"], "prompt_lengths": lengths - 1}
    rows = {name: value[lengths > 1] for name, value in rows.items()}  # the others lack a prompt
    mask = torch.ones(len(rows["prompt_lengths"]), 1, dtype=torch.bool)
    actions = torch.ones(len(mask), 1, dtype=torch.int64)
    batch = SimpleNamespace(observations=rows, actions=actions, mask=mask)
    policy.evaluate(batch).values.sum().backward()
    assert all(p.grad is None for p in policy.actor_parameters())
    assert all(p.grad is not None for p in policy.critic_body.layers.parameters())
    own = {id(p) for p in policy.actor_parameters()}
    assert not own & {id(p) for p in policy.critic_parameters()}


@pytest.mark.parametrize("kind", [PPO, ActorCritic, TRPO])
def test_it_learns_at_its_own_rate_and_is_saved(kind, make_agent, tmp_path):
    changes = {} if kind is TRPO else {"vf_learning_rate": 3e-2}
    agent = make_agent(kind.__name__, policy_kwargs={"critic_layers": 1}, **changes)
    if kind is not TRPO:
        rates = [group["lr"] for group in agent.optimizer.param_groups]
        assert rates == [1e-2, 3e-2]
    before = [p.detach().clone() for p in agent.policy.critic_body.layers.parameters()]
    agent.learn(100)
    after = list(agent.policy.critic_body.layers.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    agent.save(tmp_path)
    again = kind.load(tmp_path, env=agent.env, policy_kwargs={"critic_layers": 1})
    for old, new in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert_close(new, old, rtol=0, atol=0)


def test_in_bfloat16_the_values_are_close(in_batches, make_model, policy_for, spread):
    envs = in_batches(4)
    observation, _ = envs.reset(seed=0)
    full, reduced = (
        spread(policy_for(envs, make_model(), critic_layers=2, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert_close(reduced.act(observation)[2], full.act(observation)[2], rtol=0.1, atol=0.1)
    assert all(p.dtype == torch.float32 for p in reduced.critic_parameters())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_body_of_all_layers_is_the_model_s_body(kind, make_model):
    model = make_model(kind)
    ids = torch.tensor([[1, 2, 3]])
    body = first_layers(model, 2)
    assert_close(
        body(input_ids=ids).last_hidden_state, model.base_model(input_ids=ids).last_hidden_state
    )
    first_layers(model, 1)
    assert model.config.num_hidden_layers == 2  # the model itself is not changed


def test_a_number_of_layers_below_zero_is_refused(in_batches, make_model, policy_for):
    with pytest.raises(ValueError, match="critic_layers=-1 must be 0"):
        policy_for(in_batches(2), make_model(), critic_layers=-1)
    assert len(policy_for(in_batches(2), make_model(), critic_layers=9).critic_body.layers) == 2
