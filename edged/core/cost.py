"""How long a step will take: a linear model, fitted while steps run.

Theory of operation: a step costs a constant (launching, reading the weights), so much a prompt
token, so much a decoding sequence, and so much a cell that attention reads:

    seconds = base + prefill · tokens + decode · sequences
              + cell · cells of the decodes + prefill_cell · Σ over prompt tokens of their cells

A decode reads its cells from memory once for one token; the tokens of a prompt's chunk share what
they read, so that a cell costs them far less where memory is what attention waits for, as on a GPU.

The five coefficients minimize the squared relative errors of recent steps, where a step counts 1 %
less with each one that follows, under the condition that none is negative. The normal equations are
kept, and a few sweeps of coordinate descent after every few steps bring the coefficients to the new
minimum (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23, for the problem). A
coefficient that recent steps say nothing about stays what it was: an hour of pure decoding does not
make the prefill coefficient drift. An observation far off the prediction counts only as far as
`_CLIP` times the usual error: one hiccup of the host must not double every estimate.
"""

from collections import deque
from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

from edged.core.moving_cost import MovingCost
from edged.core.plan import Chunk

_SCALES = (1.0, 64.0, 8.0, 4096.0, 65536.0)
"""Typical sizes of the features; coefficients are per that many."""
_NUM_FEATURES = len(_SCALES)
_PRIOR_S = (0.005, 0.05, 0.005, 0.001, 0.004)
"""Seconds at those sizes before anything was measured: a slow laptop, on the safe side."""
_FORGETTING = 0.99
_INERTIA = 0.01
"""Weight, in observations, of what a coefficient was before."""
_SWEEPS = 4
_FIT_EVERY = 8
"""Steps between two fits, once there are some: a fit takes as long as planning a small step."""
_CLIP = 5.0
_ERROR_WINDOW = 64


class StepShape(NamedTuple):
    """What a step computes, as far as its duration depends on it."""

    prefill_tokens: int = 0
    decodes: int = 0
    decode_cells: int = 0
    """Cells that the decodes attend to."""
    prefill_cells: float = 0.0
    """Σ over prompt tokens of the cells each one attends to."""


class StepCosts(NamedTuple):
    """What the model has learned: seconds for every step, and for each unit of what it computes."""

    base_s: float
    prefill_token_s: float
    decode_s: float
    cell_s: float
    """For each cell of a decode."""
    prefill_cell_s: float
    """For each cell of each token of a prompt's chunk."""
    transfer_byte_s: float
    """For each byte of KV that is saved or restored."""


class StepCostModel:
    """Predicts step seconds; mutable, owned by the scheduler."""

    def __init__(self) -> None:
        self._weights = list(_PRIOR_S)
        self._products = [[0.0] * _NUM_FEATURES for _ in range(_NUM_FEATURES)]
        self._targets = [0.0] * _NUM_FEATURES
        self._errors: deque[float] = deque(maxlen=_ERROR_WINDOW)
        self._usual_error = 0.0
        """The median at the last fit."""
        self._transfer = MovingCost(1e-9)
        self._read = MovingCost(5e-9)
        self.num_observations = 0

    @property
    def base_s(self) -> float:
        return self._weights[0]

    @property
    def prefill_token_s(self) -> float:
        return self._weights[1] / _SCALES[1]

    @property
    def decode_s(self) -> float:
        return self._weights[2] / _SCALES[2]

    @property
    def cell_s(self) -> float:
        """For each cell of a decode."""
        return self._weights[3] / _SCALES[3]

    @property
    def prefill_cell_s(self) -> float:
        """For each cell of each token of a prompt's chunk."""
        return self._weights[4] / _SCALES[4]

    @property
    def costs(self) -> StepCosts:
        return StepCosts(
            self.base_s,
            self.prefill_token_s,
            self.decode_s,
            self.cell_s,
            self.prefill_cell_s,
            self._transfer.byte_s,
        )

    @property
    def median_error(self) -> float:
        """Median of |predicted − measured| / measured over recent steps; 0 before the first."""
        if not self._errors:
            return 0.0
        return sorted(self._errors)[len(self._errors) // 2]

    def predict_s(self, shape: StepShape) -> float:
        return (
            self.base_s
            + self.prefill_token_s * shape.prefill_tokens
            + self.decode_s * shape.decodes
            + self.cell_s * shape.decode_cells
            + self.prefill_cell_s * shape.prefill_cells
        )

    def decode_cost_s(self, num_cells: int) -> float:
        """What one more decode with that many cells adds to a step."""
        return self.decode_s + self.cell_s * num_cells

    def prefill_cost_s(self, start: int, num_tokens: int) -> float:
        """What a chunk `[start, start + num_tokens)` adds to a step."""
        cells = attended_cells(start, num_tokens)
        return self.prefill_token_s * num_tokens + self.prefill_cell_s * cells

    def prefill_tokens_within(self, seconds: float, start: int, limit: int) -> int:
        """Longest chunk from `start` that adds at most `seconds`, and at most `limit` tokens."""
        if seconds == float("inf"):
            return limit
        if seconds <= 0:
            return 0
        # The positive root of cell/2 · n² + per_token · n − seconds, in the form that stays exact
        # when the cell coefficient is next to nothing.
        cell_s = self.prefill_cell_s
        per_token_s = self.prefill_token_s + cell_s * (start + 0.5)
        divisor = per_token_s + sqrt(per_token_s * per_token_s + 2 * cell_s * seconds)
        return limit if divisor * limit <= 2 * seconds else int(2 * seconds / divisor)

    def recompute_s(self, num_tokens: int, chunk_tokens: int) -> float:
        """Prefill of `num_tokens` from nothing, in chunks, alone on the engine."""
        num_steps = -(-num_tokens // chunk_tokens)
        return self.base_s * num_steps + self.prefill_cost_s(0, num_tokens)

    def transfer_s(self, num_bytes: int) -> float:
        """Saving or restoring that many bytes of KV, one way."""
        return self._transfer.byte_s * num_bytes

    def observe_transfer(self, num_bytes: int, seconds: float) -> None:
        self._transfer.observe(num_bytes, seconds)

    def read_s(self, num_bytes: int) -> float:
        """Reading that many bytes of KV from disk."""
        return self._read.byte_s * num_bytes

    def observe_read(self, num_bytes: int, seconds: float) -> None:
        self._read.observe(num_bytes, seconds)

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Learn from one measured step."""
        if seconds <= 0:
            return
        x = (
            1.0,
            shape.prefill_tokens / _SCALES[1],
            shape.decodes / _SCALES[2],
            shape.decode_cells / _SCALES[3],
            shape.prefill_cells / _SCALES[4],
        )
        predicted_s = self.predict_s(shape)
        error = abs(predicted_s - seconds) / seconds
        if self.num_observations >= _ERROR_WINDOW:
            off = _CLIP * max(self._usual_error, 0.05)
            seconds = min(max(seconds, predicted_s / (1 + off)), predicted_s * (1 + off))
        self._errors.append(error)
        self.num_observations += 1
        self._add([value / seconds for value in x])
        if self.num_observations < _ERROR_WINDOW or self.num_observations % _FIT_EVERY == 0:
            self._usual_error = self.median_error
            for _ in range(_SWEEPS):
                self._descend()

    def _add(self, x: list[float]) -> None:
        """Take up the equation x · weights = 1."""
        for i in range(_NUM_FEATURES):
            row, x_i = self._products[i], x[i]
            for j in range(_NUM_FEATURES):
                row[j] = _FORGETTING * row[j] + x_i * x[j]
            self._targets[i] = _FORGETTING * self._targets[i] + x_i

    def _descend(self) -> None:
        """Bring each coefficient to the best value that the others leave it."""
        weights = self._weights
        for i in range(_NUM_FEATURES):
            row = self._products[i]
            inertia = _INERTIA / (_PRIOR_S[i] * _PRIOR_S[i])
            others = sum(a * w for a, w in zip(row, weights, strict=True)) - row[i] * weights[i]
            best = (self._targets[i] - others + inertia * weights[i]) / (row[i] + inertia)
            weights[i] = max(0.0, best)


def step_shape(chunks: Iterable[Chunk]) -> StepShape:
    """The features of a step for the cost model."""
    prefill_tokens, decodes, decode_cells, prefill_cells = 0, 0, 0, 0.0
    for chunk in chunks:
        num_tokens = len(chunk.token_ids)
        if num_tokens == 1:
            decodes += 1
            decode_cells += chunk.start + 1
        else:
            prefill_tokens += num_tokens
            prefill_cells += attended_cells(chunk.start, num_tokens)
    return StepShape(prefill_tokens, decodes, decode_cells, prefill_cells)


def attended_cells(start: int, num_tokens: int) -> float:
    """Cells read by a chunk: its k-th token attends to `start + k` cells."""
    return num_tokens * (start + (num_tokens + 1) / 2)
