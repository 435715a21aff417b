"""Calculator-v0: products that a small model cannot guess, and a calculator that it may ask."""

import ast
import operator
import random

from textenv.dialogues import Reply
from textenv.episode import Episode
from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
LARGEST = 10**9  # of a result, and of the numbers in a call
# What goes on with examples (few-shot prompting, Brown et al. 2020); one of them guesses.
WORKED = ((31, 12), (54, 23))


def rows(size: int = 256, seed: int = 0, held_out: bool = False) -> list[Row]:
    """Rows with the columns ``prompt`` and ``answer``; the arguments are those of
    `textenv.tasks.drawing.draw_rows`."""

    def draw(generator: random.Random) -> tuple[str, tuple[int, int]]:
        one, other = generator.randint(12, 99), generator.randint(12, 99)
        return (f"{one}*{other}", (one, other)) if (one, other) not in WORKED else draw(generator)

    return draw_rows(draw, _row, size, seed, held_out)


def _row(factors: tuple[int, int], _: random.Random) -> Row:
    worked = "".join(
        f"Question: {a} times {b}? [{a}*{b}] = {a * b}. Answer: {a * b}\n" for a, b in WORKED
    )
    one, other = factors
    return {"prompt": f"{worked}Question: {one} times {other}?", "answer": one * other}


def respond(episode: Episode) -> str | Reply:
    """The value of ``[expression``, which a turn ends with; a turn without one ends the episode."""
    said = episode.turns[-1]
    if "[" not in said.text or said.finish_reason != "stop":
        return Reply(end=True)
    try:
        return f" = {value(said.text.rpartition('[')[2].rstrip(']'))}."
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return " = ?"


def value(expression: str) -> int:
    """What +, − and · of whole numbers and brackets come to; a ValueError for anything else."""
    if len(expression) > 60:
        raise ValueError("too long")
    return _value(ast.parse(expression.strip(), mode="eval").body)


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        found = node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        found = OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        found = -_value(node.operand)
    else:
        raise ValueError("no arithmetic")
    if abs(found) > LARGEST:
        raise ValueError("too large")
    return found


TASK = TaskSpec(
    id="Calculator-v0",
    description="Multiply two numbers of two digits, with a calculator: [23*17] gets its value.",
    prompts=rows(),
    held_out=rows(64, held_out=True),
    reward="last_number",
    max_new_tokens=40,
    stop=("]", "\n"),
    respond="textenv.tasks.calculator:respond",
    max_turns=3,
    max_reply_tokens=12,
)
