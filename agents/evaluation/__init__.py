"""Standard evaluation loops: of text, and of any other environment.

text        whole episodes of text, their score, KL and return
returns     the returns of episodes in any vector environment
candidates  what can be evaluated beside agents
results     the numbers and texts of evaluated episodes, and their files
"""

from agents.evaluation.candidates import BestOfN, Greedy, RandomTokens, Untouched
from agents.evaluation.results import TextEvaluation, distinct_n, mean_and_error
from agents.evaluation.returns import Returns, evaluate_returns
from agents.evaluation.sampling import evaluation_env
from agents.evaluation.text import evaluate_text, recomputed_kl

__all__ = [
    "BestOfN", "Greedy", "RandomTokens", "Returns", "TextEvaluation", "Untouched", "distinct_n",
    "evaluate_returns", "evaluate_text", "evaluation_env", "mean_and_error", "recomputed_kl",
]  # fmt: skip
