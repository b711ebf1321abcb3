"""When those who wait can expect their first token, and how sure that is.

Theory of operation (after QLM's request waiting time estimator, arXiv 2407.00047). Behind a queue's
head the starts of others follow one another at gaps that vary, and the wait of the *k*-th is the
sum of *k* gaps: its mean is k times theirs, and its spread, by the central limit theorem, grows
with the root of k only. Gaps are counted within a tier and a band while somebody of them waits, so
what passes them meanwhile is in the gaps already. Neighbouring gaps are alike, so the variance is
also taken from sums of several, and the largest counts; a variance from few sums is uncertain, so
the quantile is Student's; and so is the mean of *n* gaps:

    bound = k · mean + margin · t · √(k · variance · (1 + k / n))

Arrivals of more urgent work come and go, so that the next minutes are not always like the last, and
no formula knows that. So the margin is learned (after Gibbs and Candès, Adaptive conformal
inference under distribution shift, NeurIPS 2021): a bound that was too low raises it 24 times as
far as one that held lowers it, so that in the long run 24 of 25 would hold, and 19 of 20 do though
it follows with a delay.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from math import exp, inf, sqrt
from statistics import fmean
from typing import NamedTuple

from edged.core.moments import Moments
from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence
from edged.core.types import SeqId, SloTier

_MOST_GAPS = 128
_FEWEST_GAPS = 4
_FEWEST_GAPS_TO_BOUND = 24
_BLOCKS = (1, 8, 16, 32)
"""Gaps in a sum."""
_FEWEST_SUMS = 3
_MISSED_PART = 0.04
"""Of the bounds that are told; fewer than one in 20, since the margin follows with a delay."""
_PACE = 0.2
"""What a bound that was too low adds to the margin's logarithm."""
_MOST_LOG_MARGIN = 3.0


class Wait(NamedTuple):
    """Seconds from now until a sequence gets its slot."""

    expected_s: float
    bound_s: float
    """Not to be exceeded in 19 of 20 cases; inf where nothing can be said."""


class _Starts:
    __slots__ = ("_log_margin", "_spread", "gaps_s", "is_busy", "last_s")

    def __init__(self) -> None:
        self.gaps_s: deque[float] = deque(maxlen=_MOST_GAPS)
        self._spread: tuple[float, float] | None = None
        self.last_s = 0.0
        self.is_busy = False
        """Whether somebody has waited since the last start."""
        self._log_margin = 0.0

    @property
    def margin(self) -> float:
        return exp(self._log_margin)

    def learn(self, *, held: bool) -> None:
        step = -_MISSED_PART if held else 1.0 - _MISSED_PART
        self._log_margin = min(max(0.0, self._log_margin + _PACE * step), _MOST_LOG_MARGIN)

    def add(self, gap_s: float) -> None:
        self.gaps_s.append(gap_s)
        self._spread = None

    @property
    def mean_and_spread(self) -> tuple[float, float]:
        """Computed once for all that ask between two starts."""
        if self._spread is None:
            self._spread = fmean(self.gaps_s), _spread(self.gaps_s)
        return self._spread


class Waits:
    """Mutable; owned by the scheduler."""

    def __init__(self, queue: WaitingQueue, live: Mapping[SeqId, Sequence]) -> None:
        """`live` is the owner's own, as it changes."""
        self._queue = queue
        self._live = live
        self._bounds = Moments(live)
        """When the first of those that each was told ends."""
        self._starts: dict[tuple[SloTier, int], _Starts] = {}

    def arrived(self, seq: Sequence) -> None:
        """It was just queued."""
        starts = self._starts.get((seq.tier, seq.rank.band))
        if starts is not None and self._queue.num_in_band(seq.tier, seq.rank.band) == 1:
            starts.is_busy = False  # whoever waited at the last start is gone

    def started(self, seq: Sequence, now_s: float) -> None:
        """A sequence left the queue for its first step."""
        self.learn(now_s)
        self._judge(seq, seq.wait_bounds, held=True)
        seq.wait_bounds = []
        band = seq.rank.band
        starts = self._starts.get((seq.tier, band))
        if starts is None:
            starts = self._starts[seq.tier, band] = _Starts()
        if starts.is_busy:
            starts.add(now_s - starts.last_s)
        starts.last_s = now_s
        starts.is_busy = self._queue.num_in_band(seq.tier, band) > 0

    def expect(self, seq: Sequence, next_s: float, now_s: float) -> Wait | None:
        """`next_s`: seconds until a slot can be expected to become free. None: too few have
        started to say."""
        starts = self._starts.get((seq.tier, seq.rank.band))
        if starts is None or len(starts.gaps_s) < _FEWEST_GAPS or not starts.is_busy:
            return None
        num_gaps = len(starts.gaps_s)
        num_starts = self._queue.ahead_in_band(seq) + 1
        mean_s, spread_s = starts.mean_and_spread
        since_s = now_s - starts.last_s
        later_s = (num_starts - 1) * mean_s
        expected_s = later_s + max(next_s, mean_s - since_s, 0.0)
        if num_gaps < _FEWEST_GAPS_TO_BOUND:
            return Wait(expected_s, inf)
        margin_s = starts.margin * spread_s * sqrt(num_starts * (1 + num_starts / num_gaps))
        return Wait(expected_s, later_s + max(next_s, mean_s) + margin_s)

    def told(self, seq: Sequence, wait: Wait, now_s: float) -> None:
        """It was told the bound, and will show whether it held."""
        until_s = now_s + wait.bound_s
        seq.wait_bounds.append((until_s, seq.rank.band))
        self._bounds.add(min(until_s for until_s, _ in seq.wait_bounds), seq.seq_id)

    def learn(self, now_s: float) -> None:
        """From those who wait longer than they were told."""
        for seq_id in self._bounds.due(now_s):
            seq = self._live[seq_id]
            kept = [bound for bound in seq.wait_bounds if bound[0] > now_s]
            self._judge(seq, (bound for bound in seq.wait_bounds if bound[0] <= now_s), held=False)
            seq.wait_bounds = kept
            if kept:
                self._bounds.add(min(until_s for until_s, _ in kept), seq_id)

    def _judge(self, seq: Sequence, bounds: Iterable[tuple[float, int]], *, held: bool) -> None:
        for _, band in bounds:
            self._starts[seq.tier, band].learn(held=held)


def _spread(gaps_s: Iterable[float]) -> float:
    """Seconds that one gap exceeds the mean by at most, one-sided, 95 %: the most that single gaps
    or sums of several say."""
    values = list(gaps_s)
    most_s = 0.0
    for block in _BLOCKS:
        first = len(values) % block
        sums = [sum(values[start : start + block]) for start in range(first, len(values), block)]
        if len(sums) >= _FEWEST_SUMS:
            mean_s, degrees = fmean(sums), len(sums) - 1
            variance = sum((one - mean_s) ** 2 for one in sums) / degrees
            most_s = max(most_s, _student(degrees) * sqrt(variance / block))
    return most_s


def _student(degrees: int) -> float:
    """Student's quantile at 95 %, by its expansion about the normal one."""
    return 1.645 + 1.524 / degrees + 1.42 / degrees**2
