"""Dialogues: the environment answers inside the episode.

respond       what an environment replies at the end of a turn, in each form that a user may give
between       the tokens that a chat template puts between two turns
tools         functions that the policy calls, and environments of TRL
"""

from textenv.dialogues.respond import Reply, RespondError
from textenv.dialogues.tools import tools, trl

__all__ = ["Reply", "RespondError", "tools", "trl"]
