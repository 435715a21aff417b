"""GuessNumber-v0: find a secret digit by halving; the environment answers ">" or "<".

Each prompt is a game with one of ten secrets, which the prompt does not tell, so that samples of
the reference say what a policy could reach that knew it. `planned` is the optimum of those that do
not, by dynamic programming over all dialogues.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from textenv.episode import Episode
from textenv.tasks.drawing import Row
from textenv.tasks.spec import TaskSpec

DIGITS = "0123456789"
GUESSES = 4
PRICE = 0.1  # of each guess after the first
NAMES = (
    "Ada Alan Ben Carl Dan Emma Eve Fred Grace Hana Ivan Jack Jane Jim Kate Leo Lucy Max Mia Nick "
    "Olga Paul Rosa Sam Tom Zoe"
).split()
HELD_OUT = 6  # names


def rows(held_out: bool = False) -> list[Row]:
    """Rows with the columns ``prompt``, the name of a player, and ``secret``, each digit that the
    player may have thought of. The prompt does not tell it."""
    names = NAMES[-HELD_OUT:] if held_out else NAMES[:-HELD_OUT]
    return [{"prompt": f"{name}:", "secret": digit} for name in names for digit in DIGITS]


def respond(episode: Episode) -> str | None:
    """Whether the secret is greater or smaller than the last guess; the end if it is found."""
    guess, secret = episode.turns[-1].text.strip(), episode.data["secret"]
    if guess == secret:
        return None
    return ">" if guess < secret else "<"


def score(episodes: Sequence[Episode]) -> list[float]:
    """1 for the secret, less 0.1 for each guess after the first; 0 if it is not found."""
    return [
        1.0 - PRICE * (len(episode.turns) - 1)
        if episode.turns[-1].text.strip() == episode.data["secret"]
        else 0.0
        for episode in episodes
    ]


# --- the optimum ------------------------------------------------------------------------------

# The tokens that a dialogue adds to a prompt: digits and signs, in turn.
History = tuple[str, ...]
# log q(a|s) ``[N, V]`` after N contexts, each the tokens of a prompt and a dialogue.
LogProbs = Callable[[Sequence[Sequence[int]]], np.ndarray]


def planned(
    prompts: Sequence[Sequence[int]],
    token: Callable[[str], int],
    log_probs: LogProbs,
    kl_coef: float,
) -> tuple[float, float, float]:
    """J*, its score, and the score of the reference: means over different prompts.

    With the set of secrets that a history h leaves, each as likely as the others,

        Q(h, a) = P(a is the secret|h)·r_t + Σ_sign P(sign|h, a)·V(h, a, sign)
        V(h) = β·log Σ_a q(a|h)·exp(Q(h, a)/β)

    where q is the reference (Ziebart 2010, chapter 5, with transitions by chance), and r_t what a
    secret that is found at the t-th guess scores.

    Args:
        prompts: the tokens of each.
        token: the token of a digit or a sign.
        log_probs: of the reference, over the tokens that are legal.
        kl_coef: β above 0.
    """
    found = []
    for prompt in prompts:
        histories = list(_histories())
        contexts = [[*prompt, *map(token, history)] for history in histories]
        of_digits = log_probs(contexts)[:, [token(digit) for digit in DIGITS]]
        reference = dict(zip(histories, of_digits, strict=True))
        found.append(_plan((), reference, kl_coef))
    value, score, start = np.mean(found, axis=0).tolist()
    return value, score, start


def _secrets(history: History) -> list[str]:
    """The digits that the replies leave."""
    left = list(DIGITS)
    for guess, sign in zip(history[::2], history[1::2], strict=True):
        left = [digit for digit in left if (digit > guess if sign == ">" else digit < guess)]
    return left


def _histories(history: History = ()) -> Iterator[History]:
    """All histories after which there is a guess."""
    yield history
    if len(history) == 2 * (GUESSES - 1):
        return
    for guess, sign in itertools.product(DIGITS, "<>"):
        if _secrets((*history, guess, sign)):
            yield from _histories((*history, guess, sign))


def _plan(
    history: History, reference: dict[History, np.ndarray], kl_coef: float
) -> tuple[float, float, float]:
    """V, and the score to be expected of the optimal policy and of the reference."""
    left, reward = _secrets(history), 1.0 - PRICE * (len(history) // 2)
    outcomes = np.zeros((len(DIGITS), 3))  # Q, and both scores after each guess
    for guess, row in zip(DIGITS, outcomes, strict=True):
        row += reward * (guess in left) / len(left)
        for sign in "<>":
            after = (*history, guess, sign)
            chance = len(_secrets(after)) / len(left)
            if chance and len(after) < 2 * GUESSES:
                row += chance * np.array(_plan(after, reference, kl_coef))
    log_q = reference[history]
    weighed = log_q + outcomes[:, 0] / kl_coef
    log_z = np.logaddexp.reduce(weighed)
    best, q = np.exp(weighed - log_z), np.exp(log_q)
    return float(kl_coef * log_z), float(best @ outcomes[:, 1]), float(q @ outcomes[:, 2])


TASK = TaskSpec(
    id="GuessNumber-v0",
    description='Guess a secret digit in four tries; ">" and "<" tell where it is.',
    prompts=rows(),
    held_out=rows(held_out=True),
    reward="textenv.tasks.guess_number:score",
    max_new_tokens=GUESSES,
    legal_tokens=tuple(DIGITS),
    respond="textenv.tasks.guess_number:respond",
    max_turns=GUESSES,
    max_turn_tokens=1,
    max_reply_tokens=1,
    kl_coef=0.02,
    planned="textenv.tasks.guess_number:planned",
    # Digits and signs are new to the bundled model, so that the gradient is small at first: with
    # Adam's epsilon of 1e-3 PPO stays where it is. At half of this β it stops trying other guesses
    # too early, and then some secrets are never found.
    settings={
        "total_timesteps": 200_000,
        "n_envs": 512,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "adam_epsilon": 1e-5,
        "gae_lambda": 0.95,
    },
)
