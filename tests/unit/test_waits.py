"""Waits: bounds that hold in 19 of 20 cases, from gaps while somebody waits."""

import random
from collections.abc import Callable, Iterator
from math import inf, isinf

import pytest

from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence
from edged.core.types import Rank, SeqId, SloTier
from edged.core.waits import Wait, Waits
from tests.factories import TIERS, request

JOB = SloTier.BATCH
BAND = 3


class _Line:
    """A queue of one tier and band, served from its head at moments that the test names."""

    def __init__(self, length: int) -> None:
        self.queue = WaitingQueue(TIERS)
        self.waits = Waits(self.queue, {})
        self.now_s = 0.0
        self.waiting: list[Sequence] = []
        self._count = 0
        for _ in range(length):
            self.come()

    def come(self) -> Sequence:
        wanted = request(f"r{self._count}", tier=JOB, prompt=4)
        seq = Sequence(SeqId(self._count), wanted, max_tokens=4, stop_token_ids=frozenset())
        seq.rank = Rank(BAND, 0, float(self._count))
        self._count += 1
        self.queue.add(seq)
        self.waits.arrived(seq)
        self.waiting.append(seq)
        return seq

    def start(self, gap_s: float) -> None:
        self.now_s += gap_s
        seq = self.waiting.pop(0)
        self.queue.remove(seq)
        self.waits.started(seq, self.now_s)

    def expect(self, place: int) -> Wait | None:
        return self.waits.expect(self.waiting[place], 0.0, self.now_s)


def _apart(draw: random.Random) -> Iterator[float]:
    while True:
        yield draw.expovariate(2.0)


def _bursty(draw: random.Random) -> Iterator[float]:
    """Long and short gaps, in runs of about eight."""
    mean_s = 0.1
    while True:
        if draw.random() < 1 / 8:
            mean_s = 1.1 - mean_s
        yield draw.expovariate(1 / mean_s)


@pytest.mark.parametrize("gaps_of", [_apart, _bursty])
@pytest.mark.parametrize("place", [20, 60])
def test_the_bound_holds_in_19_of_20_cases(
    gaps_of: Callable[[random.Random], Iterator[float]], place: int
) -> None:
    held, over_s = 0, 0.0
    num_trials = 300
    for seed in range(num_trials):
        gaps = gaps_of(random.Random(seed))
        line = _Line(128 + place + 2)
        for _ in range(128):
            line.start(next(gaps))
        wait = line.expect(place)
        assert wait is not None
        asked_s = line.now_s
        for _ in range(place + 1):
            line.start(next(gaps))
        waited_s = line.now_s - asked_s
        held += waited_s <= wait.bound_s
        over_s += wait.expected_s - waited_s
    assert held / num_trials >= 0.93
    assert abs(over_s) / num_trials < 0.1 * place


def test_a_bound_is_not_far_off_where_gaps_are_even() -> None:
    line = _Line(200)
    for _ in range(100):
        line.start(0.5)
    wait = line.expect(49)
    assert wait is not None
    assert wait.expected_s == pytest.approx(25.0)
    assert wait.bound_s == pytest.approx(25.0)


def test_time_since_the_last_start_is_waited_already() -> None:
    line = _Line(50)
    for _ in range(20):
        line.start(1.0)
    line.now_s += 0.75
    wait = line.expect(0)
    assert wait is not None
    assert wait.expected_s == pytest.approx(0.25)
    line.now_s += 100.0
    late = line.expect(0)
    assert late is not None
    assert late.expected_s == 0.0


def test_little_is_said_of_few_starts_and_no_bound_of_a_few_more() -> None:
    line = _Line(50)
    for _ in range(4):
        line.start(1.0)
    assert line.expect(3) is None
    line.start(1.0)
    wait = line.expect(3)
    assert wait is not None
    assert isinf(wait.bound_s)
    for _ in range(20):
        line.start(1.0)
    known = line.expect(3)
    assert known is not None
    assert known.bound_s < inf


def test_gaps_in_which_nobody_waited_do_not_count() -> None:
    line = _Line(10)
    for _ in range(10):
        line.start(1.0)
    for _ in range(5):
        line.come()
    line.start(3600.0)
    wait = line.expect(0)
    assert wait is not None
    assert wait.expected_s == pytest.approx(1.0)


def test_a_gap_in_which_who_waited_gave_up_does_not_count() -> None:
    line = _Line(12)
    for _ in range(10):
        line.start(1.0)
    for seq in (line.waiting.pop(), line.waiting.pop()):
        line.queue.remove(seq)
    line.now_s += 3600.0
    for _ in range(3):
        line.come()
    for _ in range(2):
        line.start(1.0)
    wait = line.expect(0)
    assert wait is not None
    assert wait.expected_s == pytest.approx(1.0)


def test_what_is_known_is_new_after_each_start() -> None:
    line = _Line(100)
    for _ in range(10):
        line.start(1.0)
    first = line.expect(9)
    for _ in range(40):
        line.start(3.0)
    second = line.expect(9)
    assert first is not None
    assert second is not None
    assert first.expected_s == pytest.approx(10.0)
    assert second.expected_s > 20.0
