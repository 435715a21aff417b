"""The algorithms, one page each.

All of them ascend E[Σ_t ∇log π(a_t|s_t) · Ψ_t]; they differ in Ψ, in the surrogate whose gradient
that is, and in what keeps the policy close to where it was.
"""

from agents.algorithms.actor_critic import ActorCritic
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import REINFORCE

__all__ = ["PPO", "REINFORCE", "ActorCritic"]
