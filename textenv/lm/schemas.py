"""JSON schemas of functions, which chat templates show to a model as tools."""

from collections.abc import Callable
from typing import Any


def schema_of(function: Callable) -> dict[str, Any]:
    """The schema that transformers makes of type hints and of a docstring in Google's style."""
    from transformers.utils import get_json_schema

    return get_json_schema(function)
