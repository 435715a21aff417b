"""Exact values of arithmetic expressions, without running them as code."""

import re
from fractions import Fraction

LONGEST = 200  # characters; it bounds how deep brackets are nested
TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """The value of an expression, and the whole numbers in it in their order.

    An expression has whole numbers, + - * / with their usual precedence, and brackets. There are no
    signs before numbers, powers or decimals. What is no such expression is a ValueError.
    """
    return _Parser(_tokens(expression)).parse()


def _tokens(expression: str) -> list[str]:
    if len(expression) > LONGEST:
        raise ValueError(f"the expression is longer than {LONGEST} characters")
    tokens, at = [], 0
    while expression[at:].strip():
        match = TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"{expression[at:].strip()[0]!r} belongs to no expression")
        tokens.append(match[1])
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent: a sum of products of numbers and sums in brackets."""

    def __init__(self, tokens: list[str]):
        self.left = tokens[::-1]
        self.numbers: list[int] = []

    def parse(self) -> tuple[Fraction, list[int]]:
        value = self._sum()
        if self.left:
            raise ValueError(f"the expression goes on with {self.left[-1]!r} after its end")
        return value, self.numbers

    def _next_is(self, operators: str) -> bool:
        return bool(self.left) and self.left[-1] in operators

    def _sum(self) -> Fraction:
        value = self._product()
        while self._next_is("+-"):
            operator, term = self.left.pop(), self._product()
            value = value + term if operator == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while self._next_is("*/"):
            operator, factor = self.left.pop(), self._factor()
            if operator == "/" and factor == 0:
                raise ValueError("the expression divides by zero")
            value = value * factor if operator == "*" else value / factor
        return value

    def _factor(self) -> Fraction:
        if not self.left:
            raise ValueError("the expression ends where a number is expected")
        token = self.left.pop()
        if token == "(":
            value = self._sum()
            if not self._next_is(")"):
                raise ValueError("a bracket is not closed")
            self.left.pop()
            return value
        if not token.isdigit():
            raise ValueError(f"{token!r} stands where a number is expected")
        self.numbers.append(int(token))
        return Fraction(int(token))
