"""A causal language model for MaskablePPO of sb3-contrib."""

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from agents.sb3.policy import CausalLMMembers


class MaskableCausalLMPolicy(CausalLMMembers, MaskableActorCriticPolicy):
    """As `agents.sb3.SB3CausalLMPolicy`; never takes an action that ``action_masks`` forbid.

    The text environments have such a method (`textenv.TextGenEnv.action_masks`).
    """
