"""Texts of a candidate, in an environment of their own, and their scores and KL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agents.evaluation.candidates import BestOfN, Untouched, env_of, text_policy
from agents.evaluation.results import TextEvaluation
from agents.evaluation.sampling import check_text, drawing, evaluation_env, random_rollouts
from agents.experience import environments
from agents.experience.rollout import Rollout, joined
from agents.policies.acting import ForeignPolicy
from agents.training import presets
from textenv.lm.early_stops import all_early_stops
from textenv.lm.responses import columns_of_actions
from textenv.optimum import best_of_n_kl

LOGITS_AT_ONCE = 2**25  # of a plain forward pass; 128 MB in float32
RECOMPUTED = 64  # episodes of a real model


def evaluate_text(
    candidate: Any,
    env: Any = None,
    n_episodes: int = 256,
    seed: int = 0,
    kl_coef: float | None = None,
    prompts: Any = None,
    deterministic: bool = False,
    draw: int = 0,
) -> TextEvaluation:
    """Sample episodes of text; the same prompts and random numbers for the same seed.

    They are sampled in a separate environment of the same task: the given environment, its prompts
    and its β are not changed, nor are the random numbers of the candidate.

    Args:
        candidate: an agent or a policy that generates text, one of
            `agents.evaluation.candidates`, a model of stable-baselines3, or a function from
            observations to actions. Where log π of its actions is unknown, KL and return are nan.
        env: any text environment, single, vector or wrapped; None uses the agent's own.
        n_episodes: number of episodes.
        seed: the seed of prompts and actions.
        kl_coef: β of the returns; None uses that of the environment's rewards.
        prompts: other prompts, such as held-out ones; None uses those of the environment.
        deterministic: take the most likely token at each step. The KL is then that of this
            policy, −log π_ref of its text.
        draw: another number gives other actions on the same prompts.

    Raises:
        ValueError: there is no text environment, or ``n_episodes`` is below 1.
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes={n_episodes} must be at least 1.")
    env = env_of(candidate) if env is None else env
    check_text(env)
    if kl_coef is None:
        kl_coef = environments.kl_coef(env)
    if isinstance(candidate, BestOfN):
        draws = [
            evaluate_text(Untouched(), env, n_episodes, seed, kl_coef, prompts, False, number)
            for number in range(draw * candidate.n, (draw + 1) * candidate.n)
        ]
        return best_of(draws)
    policy = text_policy(candidate, env, deterministic)
    changes = {} if prompts is None else {"prompts": prompts}
    shaped = environments.text_environments(env)[0].shaping is not None
    if isinstance(policy, ForeignPolicy):
        changes["reference"] = None
    own = evaluation_env(env, policy, n_episodes, **changes)
    own.bind(policy)
    with drawing(policy, seed, draw):
        rollouts, seconds = random_rollouts(own, policy, n_episodes, seed)
    episodes = joined(rollout.episodes for rollout in rollouts)

    def column(name: str) -> np.ndarray:
        return np.array(episodes.get(name, [])[:n_episodes])

    kls, plain = column("kl"), np.zeros(0)
    if own.shaping is not None and hasattr(policy, "autocast"):
        plain = _recomputed(policy, own.shaping.reference, rollouts)[:n_episodes]
    elif shaped and own.shaping is None:
        kls = np.full(n_episodes, np.nan)
    lengths = column("length")
    return TextEvaluation(
        column("score"), column("return"), kls, plain, lengths, episodes["prompt"][:n_episodes],
        episodes["response"][:n_episodes], sum(episodes["length"]) / seconds,
        kl_coef if shaped else 0.0, int(lengths.sum()), episodes.get("transcript", [])[:n_episodes],
    )  # fmt: skip


def best_of(draws: Sequence[TextEvaluation]) -> TextEvaluation:
    """Of each episode the text that is paid best (see `agents.evaluation.candidates.BestOfN`), of
    evaluations of the untouched reference on the same prompts."""
    first, count = draws[0], len(draws[0].scores)
    winner = np.argmax([draw.paid for draw in draws], axis=0)
    rows = np.arange(count)

    def chosen(name: str) -> np.ndarray:
        return np.array([getattr(draw, name) for draw in draws])[winner, rows]

    return TextEvaluation(
        chosen("scores"), chosen("paid"),
        np.full(count, best_of_n_kl(len(draws))) if len(first.kls) else first.kls,
        np.zeros(0), chosen("lengths"), first.prompts, chosen("responses").tolist(),
        float(np.mean([draw.tokens_per_second for draw in draws])), first.kl_coef,
        sum(draw.sampled_tokens for draw in draws),
        chosen("transcripts").tolist() if first.transcripts else (),
    )  # fmt: skip


def _recomputed(policy: Any, reference: Any, rollouts: list[Rollout]) -> np.ndarray:
    """`recomputed_kl` of all episodes; with a real model, where it would take longer than the
    evaluation itself, of the first few."""
    if presets.is_small(policy.model):
        return np.concatenate([recomputed_kl(policy, reference, rollout) for rollout in rollouts])
    return recomputed_kl(policy, reference, rollouts[0], RECOMPUTED)


@torch.no_grad()
def recomputed_kl(
    policy: Any, reference: Any, rollout: Rollout, at_most: int | None = None
) -> np.ndarray:
    """Σ_t log π(a_t|s_t) − log π_ref(a_t|s_t) of each row ``[B]``, by plain forward passes.

    Nothing of the decoder or of the teacher-forced scoring takes part: whole rows go through the
    models as transformers has them, and the log-probabilities are those of all logits.

    ``policy`` acted in the rollout, which is one of whole episodes. At most the first ``at_most``
    rows are taken; None takes all.
    """
    input_ids, prompt_lengths = (
        rollout.observations[key] for key in ("input_ids", "prompt_lengths")
    )
    own_tokens = rollout.observations.get("own_tokens")
    columns = columns_of_actions(prompt_lengths, rollout.mask.shape[1], own_tokens)
    columns = (columns - 1).clamp(0, input_ids.shape[1] - 1)
    early = all_early_stops(rollout.observations, rollout.mask.shape[1])

    def log_probs(model: Any, rows: torch.Tensor) -> torch.Tensor:
        every = model(input_ids=input_ids[rows], use_cache=False).logits
        at = columns[rows][:, :, None].expand(-1, -1, every.shape[-1])
        illegal = None if early is None else early[rows]
        logits = policy.sampling.apply(every.gather(1, at), illegal)
        return logits.log_softmax(-1).gather(2, rollout.actions[rows][:, :, None])[:, :, 0]

    at_once = max(1, LOGITS_AT_ONCE // (policy.sampling.vocabulary * input_ids.shape[1]))
    kls = []
    every_row = torch.arange(len(input_ids), device=input_ids.device)[:at_most]
    for rows in every_row.split(at_once):
        with policy.autocast():
            own = log_probs(policy.acting_model() if policy.sharded else policy.model, rows)
        # Beyond an episode there may be a token that is never chosen, at −∞ in both.
        of_tokens = (own - log_probs(reference, rows)).masked_fill(~rollout.mask[rows], 0)
        kls.append(of_tokens.sum(dim=1))
    return torch.cat(kls).cpu().numpy()
