from __future__ import annotations

import numpy as np
import pytest

from textenv.episode import Episode


@pytest.fixture
def make_episodes():
    """Episodes with the given responses; a response has as many tokens as words, and a stop."""

    def make(*responses: str, prompt: str = "Write: ") -> list[Episode]:
        return [
            Episode(
                prompt=prompt,
                response=response,
                prompt_ids=np.arange(2),
                response_ids=np.arange(len(response.split()) + 1),
                finish_reason="stop",
            )
            for response in responses
        ]

    return make
