"""TextGenEnv: token generation as a Gymnasium environment, one episode at a time."""

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from textenv.arguments import check_limit, check_names, checked_options, takes
from textenv.kl.shaping import KLShaping
from textenv.rendering.ansi import MODES
from textenv.rows.infos import first_row
from textenv.sharing import SpecOfLiveObjects
from textenv.task import TextTask
from textenv.vector_env import TextGenVectorEnv

CUTS = 5  # episodes that end at the same step without a score, before that is said


@takes(TextTask)
class TextGenEnv(SpecOfLiveObjects, gym.Env):
    """Generate a text, one token at a time, and receive a score for it.

    ## Action space
    ``Discrete(vocabulary)``: the id of the next token. Every id is legal in every state. The stop
    token is an action like any other. `action_masks` tells which ids make sense.

    ## Observation space
    ``Dict(input_ids=Box(int64, (L,)), attention_mask=Box(int8, (L,)))`` with L = longest prompt +
    ``max_new_tokens``: the tokens of the prompt and of the response so far, contiguous from column
    0, then padding. The logits for the next action are at column ``attention_mask.sum() - 1``.
    With ``min_new_tokens`` above 1 also ``stop_tokens=Box(int64, (K,))``, the ids that stop, and
    ``stop_column=Box(int64, (1,))``, the first column in which one of them does (the policies of
    this project never choose them earlier). With ``respond`` also ``own_tokens=Box(int8, (L,))``, 1
    in the columns of actions; L then has room for all replies.

    ## Transition
    The token is appended. With ``respond``, the environment answers within the same transition if
    the token ends a turn: by a stop, by ``max_turn_tokens``, or with the budget. The tokens of a
    reply are appended and are no actions. Without ``respond`` the transition is deterministic.

    ## Reward
    0 until the episode ends, then the score of the finished response. With a ``reference``, each
    step also subtracts ``kl_coef`` times the KL of the bound policy to it (see
    `textenv.kl.shaping`). The reward of a turn, if ``respond`` gives one, is paid at its end.

    ## Episode end
    ``terminated`` is True at a stop token, at a stop string, and after ``max_new_tokens`` tokens:
    the score is given in each of these cases. ``info["finish_reason"]`` is ``"stop"`` or
    ``"length"``. A dialogue goes on after a stop; it ends by ``respond`` (``"end"``), after
    ``max_turns`` (``"turns"``) or with ``max_new_tokens`` of the policy's own (``"length"``).
    ``truncated`` is always False here; a wrapper may set it.

    ## Information
    ``reset``: ``prompt``. Each step with a reference: ``ref_log_prob``, and ``kl`` where a policy
    is bound (nats). The last step: ``response``, ``response_length`` (tokens), ``finish_reason``,
    ``score`` (as the reward returned it), ``score/NAME`` for each part of a weighted sum, and
    ``no_stop_penalty`` if there is such a penalty. Of a dialogue, at the end of each turn ``reply``
    and ``turn_reward``; at the last step ``transcript`` (with the replies), ``turns``,
    ``reply_length`` (tokens), ``turns_cut`` and ``replies_cut`` (by their budgets), and
    ``score/turns``, the sum of the rewards of turns, which is a part of ``score``.

    With ``text_info=False``, ``reset`` and every step have the same keys, and all are numpy
    numbers: ``prompt_index``, ``response_length``, ``score``, ``stopped`` (1 if the finish reason
    is ``"stop"``, or a dialogue has ended otherwise than by ``"length"``) and, where they exist,
    ``score_NAME``, ``no_stop_penalty`` and the numbers of a dialogue, which are 0 before the last
    step; ``turn_reward``; with a reference ``ref_log_prob``, and ``kl`` if a policy was bound,
    which are 0 at ``reset``.

    ## Starting state
    A prompt drawn at random; ``reset(options={"prompt_index": i})`` picks one.

    ## Arguments
    An argument that names an object by a string also accepts the object itself.

    Args:
        **task
        text_info: whether infos have texts. False is for tools that stack infos: see Information.
        render_mode: "ansi" (a string for a terminal), "rgb_array" (a picture of constant size), or
            None.

    Raises:
        ValueError: an argument is not valid; the message names it, its value and the fix.

    ## Version history
    * v0: first release
    """

    metadata = {"render_modes": list(MODES), "render_fps": 4}  # noqa: RUF012

    def __init__(self, *, text_info: bool = True, render_mode: str | None = None, **task: Any):
        check_names(TextGenEnv, task)
        # One row of the vector environment, so that the rules of an episode are written once.
        self._row = TextGenVectorEnv(
            1,
            text_info=text_info,
            render_mode=render_mode,
            autoreset_mode=AutoresetMode.DISABLED,
            **task,
        )
        self.task = self._row.task
        # Tokens that the episode may still have, and that the last ones could have had.
        self._steps_left, self._cuts = 0, [0] * CUTS
        self.tokenizer, self.prompts = self.task.tokenizer, self.task.prompts
        self.render_mode = self._row.render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space
        self._fixed = frozenset(self.task.arguments)

    @property
    def shaping(self) -> KLShaping | None:
        """The reference and the KL to it."""
        return self._row.shaping

    def bind(self, policy: Any, row: int | None = None) -> None:
        """Shape rewards by the KL of a policy, None unbinds (`TextGenVectorEnv.bind`)."""
        self._row.bind(policy, row)

    def action_masks(self) -> np.ndarray:
        """Which tokens make sense now, bool ``[vocabulary]``, as sb3-contrib's MaskablePPO asks.

        False are the tokens that a bound policy bans (``policy.sampling.banned_tokens``), and the
        stop tokens that come too early to end the episode (``min_new_tokens``). The environment
        accepts them all the same.
        """
        return self._row.action_masks()[0]

    def sibling(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        """A native vector environment of the same task (`TextGenVectorEnv.sibling`)."""
        return self._row.sibling(num_envs, **changes)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Begin an episode; ``options={"prompt_index": i}`` picks the prompt."""
        super().reset(seed=seed)
        registered = gym.registry.get(getattr(self.spec, "id", ""))
        check_limit(getattr(registered, "max_episode_steps", None), self.task.max_new_tokens)
        self._cuts = [*self._cuts[1 - CUTS :], self._steps_left]
        if len({*self._cuts}) == 1 and 0 < self._steps_left < self.task.max_new_tokens:
            warnings.warn(
                f"{CUTS} episodes were reset {self._steps_left} tokens before the end of "
                "their budget, and have no score: a limit of steps (max_episode_steps, TimeLimit) "
                f"below max_new_tokens={self.task.max_new_tokens} does that; set max_new_tokens "
                "instead.",
                stacklevel=2,
            )
        self._steps_left = self.task.max_new_tokens
        index = checked_options(options, ("prompt_index",)).get("prompt_index")
        if index is None:
            index = self.np_random.integers(len(self.prompts))
        observation, infos = self._row.reset(seed=seed, options={"prompt_index": np.array([index])})
        return _first(observation), self._info(infos)

    def step(self, action: Any):
        """Append a token. Returns observation, reward, terminated, truncated and info."""
        action = np.asarray(action)
        if action.shape != () or action.dtype.kind not in "iu":
            raise ValueError(f"action={action!r} must be one token id, an integer.")
        observation, reward, terminated, _, infos = self._row.step(action[None])
        self._steps_left = 0 if terminated[0] else self._steps_left - 1
        info = self._info(infos)
        return _first(observation), float(reward[0]), bool(terminated[0]), False, info

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return first_row(infos, plain=self._row.text_info)

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, as data (`TextGenVectorEnv.state_dict`)."""
        return {"generator": self.np_random.bit_generator.state, "row": self._row.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the environment of a `state_dict` was."""
        self.np_random.bit_generator.state = state["generator"]
        self._row.load_state_dict(state["row"])

    def render(self) -> Any:
        """The text, each token coloured by its KL, or by its reward without a KL.

        ``"ansi"``: a string for a terminal. ``"rgb_array"``: a picture, uint8
        ``[height, width, 3]``, whose size is constant; a text that is too long shows its end.
        """
        rendered = self._row.render()
        return None if rendered is None else rendered[0]


def _first(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value[0] for key, value in observation.items()}
