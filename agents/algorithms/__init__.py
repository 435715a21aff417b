"""The algorithms, one module each.

All of them ascend the unified policy gradient, E[Σ_t ∇log π(a_t|s_t) · Ψ_t]. They differ in Ψ, in
the surrogate that has this gradient where π = π_old, and in what keeps π close. r = π / π_old.

| | Ψ_t | surrogate, per step | reduced by | kept close by |
|---|---|---|---|---|
| `REINFORCE` | R(τ) − b or G_t − b | −log π · Ψ | sum over an episode | β·KL in the loss |
| `ActorCritic` | GAE(γ, λ) | −log π · Ψ | mean over steps | entropy bonus |
| `PPO` | GAE(γ, λ) | −min(r·Ψ, clip(r)·Ψ), or −r·Ψ | mean over steps | ε, and β·KL if set |
| `TRPO` | GAE(γ, λ) | −r·Ψ | mean over steps | KL(π_old‖π) ≤ δ |
| `RLOO` | R(τ) − mean of the others | −log π · Ψ | sum over an episode | KL in the reward |
| `GRPO` | (R(τ) − mean) / std of group | −min(r·Ψ, clip(r)·Ψ) | mean of means | β·KL in the loss |
| `Lookahead` | V of next texts, GAE | −Σ_k min(r_k·w_k, clip(r_k)·w_k) | mean over steps | ε |

R(τ) is the return of a whole episode, G_t the return from step t on, b a moving average. A "sum
over an episode" is then averaged over episodes, whether an episode is a row of text or is spread
over the single steps of a small network's rollout. REINFORCE, ActorCritic and RLOO take one step on
each rollout; the others, whose ratio corrects for π ≠ π_old, may take several.
"""

import difflib
import re

from agents.agent import Agent
from agents.algorithms.actor_critic import ActorCritic
from agents.algorithms.grpo import GRPO
from agents.algorithms.lookahead import Lookahead
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import REINFORCE
from agents.algorithms.rloo import RLOO
from agents.algorithms.trpo import TRPO
from textenv.rewards.names import import_object

__all__ = ["GRPO", "PPO", "REINFORCE", "RLOO", "TRPO", "ActorCritic"]  # which learn anything


def kebab_case(name: str) -> str:
    """PPO → ppo, ActorCritic → actor-critic."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()


OF_OTHERS = ("sb3", "stable_baselines3", "sb3_contrib")  # modules
NAMES: dict[str, type[Agent]] = {
    kebab_case(cls.__name__): cls for cls in (*(globals()[name] for name in __all__), Lookahead)
}


def is_own(name: str) -> bool:
    """Whether a name may be one of `find`, as far as can be said without importing."""
    return name in NAMES or (":" in name and name.partition(":")[0] not in OF_OTHERS)


def find(name: str) -> type[Agent]:
    """The class of an algorithm's name, or of "module:Class"."""
    if name in NAMES:
        return NAMES[name]
    if ":" not in name:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1)
        guess = f"did you mean {near[0]!r}? Use" if near else "use"
        raise ValueError(
            f"agent={name!r} is unknown: {guess} one of {', '.join(NAMES)}, or 'module:Class'."
        )
    cls = import_object(name, "agent")
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise ValueError(f"agent={name!r} is no class derived from agents.Agent.")
    return cls
