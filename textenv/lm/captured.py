"""A decode step that is captured once as a CUDA graph, and replayed at each token.

A step of a small language model is a thousand kernels of a few microseconds each: to launch them
one by one from Python takes several times as long as to run them. A graph launches them at once.
It reads and writes the same memory at each replay, so that a step has to be a function of static
tensors: the tokens, their positions, and the table of keys and values, whose read part grows by
`BUCKET` columns at a time. Weights are read where they are, and updates change them in place, so
a graph stays right as the policy learns.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

BUCKET = 64  # columns of the table by which the captured part grows
# The mean difference of the logits between a replay and the same step launched kernel by kernel,
# which may take other kernels and so round in another way. Of SmolLM2 in bfloat16, a row that is
# one position off differs by 0.3 at least, one with another token in its past by 0.5; by rounding
# alone the worst of 256 rows differed by 0.15. So a single row may differ by twice as much.
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.1, torch.float16: 0.02}


class Capture(NamedTuple):
    """A graph with the tensors that a replay writes."""

    replay: Callable[[], None]
    logits: Tensor
    hidden: Tensor


class CapturedStep:
    """A step of all rows of a table, from static tensors.

    What cannot be captured (a model whose forward pass waits for the device) is run as it is, with
    one warning. Elsewhere than on CUDA nothing is captured, but the step gets the same tensors.
    """

    def __init__(self, num_rows: int, max_length: int, device: torch.device, dtype: torch.dtype):
        self.max_length, self.device, self.dtype = max_length, device, dtype
        self.tokens = torch.zeros(num_rows, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.captures: dict[int, Capture] = {}  # by the columns that are read
        self.possible = device.type == "cuda"
        self.pool: Any = None  # of memory, which all captures share

    def __call__(
        self, step: Step, tokens: Tensor, positions: Tensor, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[B, V]`` and hidden states ``[B, H]`` of the next token, from tokens and
        positions ``[B, 1]`` and the columns of the longest row. ``step`` is the same one at each
        call."""
        columns = min(-(-columns // BUCKET) * BUCKET, self.max_length)
        self.tokens.copy_(tokens)
        self.positions.copy_(positions)
        if self.possible and columns not in self.captures:
            self._capture(step, columns)
        if columns not in self.captures:
            return step(self.tokens, self.positions, columns)
        capture = self.captures[columns]
        capture.replay()
        return capture.logits.clone(), capture.hidden.clone()  # the next replay overwrites them

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the computation: that of the weights, or of an autocast around the step."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype

    def _capture(self, step: Step, columns: int) -> None:
        """Capture the step; on failure say so, and give up capturing."""
        try:
            capture = self._captured(step, columns)
            wanted, _ = step(self.tokens, self.positions, columns)
            capture.replay()
            mean, largest = differences(capture.logits, wanted)
            tolerance = TOLERANCE[self.precision]
            if not (mean <= tolerance and largest <= 2 * tolerance):
                raise RuntimeError(
                    f"its logits would differ by {mean:.2g}, a row's by {largest:.2g}"
                )
        except (RuntimeError, NotImplementedError) as error:
            self.possible = False
            warnings.warn(
                "Decoding launches its kernels one by one, which is slower: a step of this model "
                f"cannot be captured as a CUDA graph ({str(error).splitlines()[0]}).",
                stacklevel=2,
            )
        else:
            self.captures[columns] = capture

    def _captured(self, step: Step, columns: int) -> Capture:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # in which libraries choose kernels and take workspace
                step(self.tokens, self.positions, columns)
        torch.cuda.current_stream().wait_stream(aside)
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits, hidden = step(self.tokens, self.positions, columns)
        return Capture(graph.replay, logits, hidden)


def differences(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The mean of |one − other| over all logits ``[B, V]``, and over those of the row where it is
    largest, which of many rows rounding alone takes far. Both are nan if a logit of either is.
    """
    # A logit that both exclude has −∞ − (−∞), which is no difference.
    apart = (one - other).masked_fill(one == other, 0).abs().mean(dim=1)
    mean, largest = torch.stack([apart.mean(), apart.max()]).tolist()
    return mean, largest
