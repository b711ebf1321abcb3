"""How long a step will take: a linear model, fitted while steps run.

Theory of operation: a step costs a constant (launching, reading the weights), so much a prompt
token, so much a decoding sequence, and so much a cell that attention reads:

    seconds = base + prefill · tokens + decode · sequences + cell · cells_read

The four coefficients are fitted by recursive least squares with exponential forgetting (Ljung,
System Identification, 1999, §11.2), so the model follows a machine that heats up or is shared. Two
guards keep it sane: an observation far off the prediction counts only as far as `_CLIP` times the
usual error (one hiccup of the host must not double every estimate), and the covariance is bounded
(an hour of pure decoding must not make the prefill coefficient jump at the next prompt).
Coefficients are never negative.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from edged.core.plan import Chunk

_SCALES = (1.0, 64.0, 8.0, 4096.0)
"""Typical sizes of the features, so that one covariance suits all."""
_PRIOR_S = (0.005, 0.05, 0.005, 0.001)
"""Seconds at those sizes before anything was measured: a slow laptop, on the safe side."""
_FORGETTING = 0.99
_MAX_VARIANCE = 1000.0
"""Also at the start: the prior gives way to the first measurements."""
_CLIP = 5.0
_ERROR_WINDOW = 64


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step computes, as far as its duration depends on it."""

    prefill_tokens: int = 0
    decodes: int = 0
    cells_read: float = 0.0
    """Σ over tokens of the cells each one attends to."""


class StepCostModel:
    """Predicts step seconds; mutable, owned by the scheduler."""

    def __init__(self) -> None:
        self._weights = list(_PRIOR_S)
        self._covariance = [[_MAX_VARIANCE * (i == j) for j in range(4)] for i in range(4)]
        self._errors: deque[float] = deque(maxlen=_ERROR_WINDOW)
        self._transfer_s_per_byte = 1e-9
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
        return self._weights[3] / _SCALES[3]

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
            + self.cell_s * shape.cells_read
        )

    def decode_cost_s(self, num_cells: int) -> float:
        """What one more decode with that many cells adds to a step."""
        return self.decode_s + self.cell_s * num_cells

    def prefill_cost_s(self, start: int, num_tokens: int) -> float:
        """What a chunk `[start, start + num_tokens)` adds to a step."""
        return self.prefill_token_s * num_tokens + self.cell_s * prefill_cells(start, num_tokens)

    def prefill_tokens_within(self, seconds: float, start: int, limit: int) -> int:
        """Longest chunk from `start` that adds at most `seconds`, and at most `limit` tokens."""
        if seconds == float("inf"):
            return limit
        if seconds <= 0:
            return 0
        # The positive root of cell/2 · n² + per_token · n − seconds, in the form that stays exact
        # when the cell coefficient is next to nothing.
        per_token_s = self.prefill_token_s + self.cell_s * start
        divisor = per_token_s + sqrt(per_token_s * per_token_s + 2 * self.cell_s * seconds)
        return limit if divisor * limit <= 2 * seconds else int(2 * seconds / divisor)

    def recompute_s(self, num_tokens: int, chunk_tokens: int) -> float:
        """Prefill of `num_tokens` from nothing, in chunks, alone on the engine."""
        num_steps = -(-num_tokens // chunk_tokens)
        return self.base_s * num_steps + self.prefill_cost_s(0, num_tokens)

    def transfer_s(self, num_bytes: int) -> float:
        """Saving or restoring that many bytes of KV, one way."""
        return self._transfer_s_per_byte * num_bytes

    def observe_transfer(self, num_bytes: int, seconds: float) -> None:
        if num_bytes > 0 and seconds > 0:
            self._transfer_s_per_byte += 0.2 * (seconds / num_bytes - self._transfer_s_per_byte)

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Learn from one measured step."""
        if seconds <= 0:
            return
        x = (
            1.0,
            shape.prefill_tokens / _SCALES[1],
            shape.decodes / _SCALES[2],
            shape.cells_read / _SCALES[3],
        )
        error = seconds - self.predict_s(shape)
        usual = max(self.median_error, 0.05) * seconds
        if self.num_observations >= _ERROR_WINDOW:
            error = max(-_CLIP * usual, min(_CLIP * usual, error))
        self._errors.append(abs(error) / seconds)
        self.num_observations += 1
        self._update(x, error)

    def _update(self, x: tuple[float, float, float, float], error: float) -> None:
        p = self._covariance
        px = [sum(a * b for a, b in zip(row, x, strict=True)) for row in p]
        denominator = _FORGETTING + sum(a * b for a, b in zip(x, px, strict=True))
        gain = [value / denominator for value in px]
        for i in range(4):
            self._weights[i] = max(0.0, self._weights[i] + gain[i] * error)
            row = p[i]
            for j in range(4):
                row[j] = (row[j] - gain[i] * px[j]) / _FORGETTING
        largest = max(p[i][i] for i in range(4))
        if largest > _MAX_VARIANCE:
            shrink = _MAX_VARIANCE / largest
            for row in p:
                for j in range(4):
                    row[j] *= shrink


def prefill_cells(start: int, num_tokens: int) -> float:
    """Cells read by a chunk: its k-th token attends to `start + k` cells."""
    return num_tokens * (start + (num_tokens + 1) / 2)


def step_shape(chunks: Iterable[Chunk]) -> StepShape:
    """The features of a step for the cost model."""
    prefill_tokens, decodes, cells = 0, 0, 0.0
    for chunk in chunks:
        num_tokens = len(chunk.token_ids)
        if num_tokens == 1:
            decodes += 1
        else:
            prefill_tokens += num_tokens
        cells += prefill_cells(chunk.start, num_tokens)
    return StepShape(prefill_tokens, decodes, cells)
