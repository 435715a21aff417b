"""What an editor sees, checked by ``mypy`` and by pyright's engine; nothing of it runs."""

from typing import assert_type

import numpy as np

import agents
from agents import PPO, REINFORCE, TRPO, BestOfN, compare, evaluate
from agents.evaluation import Returns, TextEvaluation
from agents.evaluation.comparison import Comparison
from agents.runs.train import TrainedRun
from textenv import TextGenEnv, TextGenVectorEnv

agent = PPO("CausalLMPolicy", "TextGen-v0", n_envs=8, learning_rate=1e-4, kl_loss_coef=0.1)
assert_type(agent, PPO)
assert_type(agent.learn(100), PPO)
assert_type(agent.num_timesteps, int)
assert_type(PPO.load("runs/agent"), PPO)
PPO("CausalLMPolicy", "TextGen-v0", lerning_rate=1e-4)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
PPO("CausalLMPolicy", "TextGen-v0", n_envs="many")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
REINFORCE("CausalLMPolicy", "TextGen-v0", n_epochs=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
assert_type(TRPO("MlpPolicy", "CartPole-v1", target_kl=0.02).predict(np.zeros(4))[0], np.ndarray)

found = evaluate(BestOfN(4), "TextGen-v0", env_kwargs={"reference": "bundled", "kl_coef": 0.1})
if isinstance(found, TextEvaluation):
    assert_type(found.scores, np.ndarray)
else:
    assert_type(found, Returns)
assert_type(compare({"PPO": PPO, "best of 4": BestOfN(4)}, seeds=3), Comparison)
assert_type(agents.train("ppo", total_timesteps=1000), TrainedRun)

assert_type(TextGenEnv(prompts=["a"]).action_masks(), np.ndarray)
TextGenVectorEnv(4, prompts=["a"], reward="length").sibling(8)
