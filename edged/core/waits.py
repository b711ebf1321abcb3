"""When those who wait can expect their first token, and how sure that is.

Theory of operation (after QLM's request waiting time estimator, arXiv 2407.00047). Behind a queue's
head the starts of others follow one another at gaps that vary, and the wait of the *k*-th is the
sum of *k* gaps: its mean is k times theirs, and its spread, by the central limit theorem, grows
with the root of k only. Gaps are counted within a tier and a band while somebody of them waits, so
what passes them meanwhile is in the gaps already. Neighbouring gaps are alike, so their variance is
also taken from sums of `_BLOCK`; and the mean of *n* gaps is itself uncertain:

    bound = k · mean + z · √(k · variance · (1 + k / n))
"""

from collections import deque
from math import inf, sqrt
from statistics import fmean, pvariance
from typing import NamedTuple

from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence
from edged.core.types import SloTier

_MOST_GAPS = 128
_FEWEST_GAPS = 4
_BLOCK = 8
_Z = 1.645
"""One side, 95 %."""


class Wait(NamedTuple):
    """Seconds from now until a sequence gets its slot."""

    expected_s: float
    bound_s: float
    """Not to be exceeded in 19 of 20 cases; inf where nothing can be said."""


class _Starts:
    __slots__ = ("gaps_s", "is_busy", "last_s")

    def __init__(self) -> None:
        self.gaps_s: deque[float] = deque(maxlen=_MOST_GAPS)
        self.last_s = 0.0
        self.is_busy = False
        """Whether somebody waited at the last start."""


class Waits:
    """Mutable; owned by the scheduler."""

    def __init__(self, queue: WaitingQueue) -> None:
        self._queue = queue
        self._starts: dict[tuple[SloTier, int], _Starts] = {}

    def started(self, seq: Sequence, now_s: float) -> None:
        """A sequence left the queue for its first step."""
        band = seq.rank.band
        starts = self._starts.get((seq.tier, band))
        if starts is None:
            starts = self._starts[seq.tier, band] = _Starts()
        if starts.is_busy:
            starts.gaps_s.append(now_s - starts.last_s)
        starts.last_s = now_s
        starts.is_busy = self._queue.has_in_band(seq.tier, band)

    def expect(self, seq: Sequence, now_s: float) -> Wait | None:
        """None: too few have started to say."""
        starts = self._starts.get((seq.tier, seq.rank.band))
        if starts is None or len(starts.gaps_s) < _FEWEST_GAPS or not starts.is_busy:
            return None
        num_gaps = len(starts.gaps_s)
        num_starts = self._queue.ahead_in_band(seq) + 1
        mean_s = fmean(starts.gaps_s)
        spread_s = sqrt(num_starts * _variance(starts.gaps_s) * (1 + num_starts / num_gaps))
        since_s = now_s - starts.last_s
        expected_s = max(0.0, num_starts * mean_s - since_s)
        bound_s = num_starts * mean_s + _Z * spread_s
        return Wait(expected_s, bound_s if num_gaps >= _BLOCK else inf)


def _variance(gaps_s: "deque[float]") -> float:
    """Of one gap, as sums of gaps have it."""
    single = pvariance(gaps_s)
    values = list(gaps_s)
    sums = [
        sum(values[start : start + _BLOCK]) for start in range(0, len(values) - _BLOCK + 1, _BLOCK)
    ]
    return max(single, pvariance(sums) / _BLOCK) if len(sums) > 1 else single
