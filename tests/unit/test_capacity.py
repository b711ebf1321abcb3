"""Room for claims is there when it was said to be, and a look at blocks says what a look at each
would."""

import random
from heapq import heapify, heappop, heappush
from math import inf

import pytest

from edged.core.capacity import Holder, PromisedPace, Room, breaks_a_promise, claims_before
from edged.core.cost import StepCostModel
from edged.core.sequence import Sequence
from edged.core.timeline import Claims, Entry, Timeline
from edged.core.types import SeqId, SlotId
from tests.factories import request

MANY = 10**9


def _entry(number: int, due_s: float, hold_s: float, num_cells: int, work_s: float = 0.1) -> Entry:
    seq = Sequence(SeqId(number), request(), max_tokens=4, stop_token_ids=frozenset())
    return Entry(due_s, seq.seq_id, work_s, work_s, seq, hold_s, num_cells)


def _starts_s(ends_s: list[float], num_free: int, holds_s: list[float]) -> list[float]:
    """One after the other takes the slot that is free first."""
    free_s = [0.0] * num_free + ends_s
    heapify(free_s)
    starts_s = []
    for hold_s in holds_s:
        starts_s.append(heappop(free_s))
        heappush(free_s, starts_s[-1] + hold_s)
    return starts_s


@pytest.mark.parametrize("seed", range(50))
def test_a_slot_is_there_when_it_was_said_to_be(seed: int) -> None:
    draw = random.Random(seed)
    num_slots = draw.randint(1, 8)
    ends_s = [draw.uniform(0.1, 20) for _ in range(draw.randint(0, num_slots))]
    room = Room(num_slots, MANY, [Holder(end_s, end_s, 10) for end_s in ends_s])
    holds_s = [draw.uniform(0.1, 20) for _ in range(20)]
    before = Claims()
    starts_s = _starts_s(ends_s, num_slots - len(ends_s), holds_s)
    for start_s, hold_s in zip(starts_s, holds_s, strict=True):
        said_s = room.wait_s(before, 10, 1.0)
        assert start_s <= said_s + 1e-9
        assert (said_s == 0.0) == (start_s == 0.0)
        before = before.plus(Claims(1, 10, hold_s, 10 * hold_s))


@pytest.mark.parametrize("seed", range(50))
def test_cells_are_there_when_they_were_said_to_be(seed: int) -> None:
    """All need the same number: so many places."""
    draw = random.Random(seed)
    num_places = draw.randint(1, 8)
    ends_s = [draw.uniform(0.1, 20) for _ in range(draw.randint(0, num_places))]
    room = Room(MANY, 10 * num_places + 3, [Holder(end_s, end_s, 10) for end_s in ends_s])
    holds_s = [draw.uniform(0.1, 20) for _ in range(20)]
    before = Claims()
    starts_s = _starts_s(ends_s, num_places - len(ends_s), holds_s)
    for start_s, hold_s in zip(starts_s, holds_s, strict=True):
        assert start_s <= room.wait_s(before, 10, 1.0) + 1e-9
        before = before.plus(Claims(1, 10, hold_s, 10 * hold_s))


def test_what_is_certain_is_not_doubled_for_caution() -> None:
    room = Room(2, 100, [Holder(3.0, 2.0, 10), Holder(9.0, 4.0, 10)])
    assert room.wait_s(Claims(), 10, 2.0) == 3.0
    assert room.wait_s(Claims(1, 10, 1.0, 10.0), 10, 2.0) == pytest.approx(2 * 7.0 / 2)


def test_there_is_room_for_what_fits_beside_what_is_held() -> None:
    room = Room(3, 100, [Holder(1.0, 1.0, 40)])
    assert room.has(Claims(2, 60))
    assert not room.has(Claims(3, 10))
    assert not room.has(Claims(1, 61))


@pytest.mark.parametrize("seed", range(200))
def test_blocks_say_of_promises_what_a_look_at_each_says(seed: int) -> None:
    draw = random.Random(seed)
    timeline, entries = Timeline(), []
    for number in range(draw.choice((3, 60, 250))):
        entry = _entry(
            number, draw.uniform(0, 200), draw.uniform(0.1, 2), draw.randint(1, 50), draw.random()
        )
        if draw.random() < 0.1:
            entry.seq.slot = SlotId(0)
        timeline.add(entry)
        entries.append(entry)
    promised = {one.seq_id for one in entries if draw.random() < draw.choice((0.02, 0.5))}
    pauses = [_entry(1000 + number, draw.uniform(0, 250), 1.0, 20) for number in range(3)]
    promised |= {one.seq_id for one in pauses if draw.random() < 0.5}
    holders = [Holder(2 * end_s, end_s, 20) for end_s in (draw.uniform(0.1, 9) for _ in range(4))]
    room = Room(draw.choice((5, 6, 40)), draw.choice((300, 10_000)), holders)
    arrival = _entry(5000, draw.uniform(0, 200), draw.choice((1.0, 40.0)), 30)

    claims = sorted([*(one for one in entries if one.seq.slot is None), *pauses, arrival])
    expected, before = False, Claims()
    for one in claims:
        if one > arrival and one.seq_id in promised:
            expected |= room.wait_s(before, one.num_cells, 1.0) > one.due_s - one.left_s
        before = before.plus(Claims.of((one,)))
    found = breaks_a_promise(
        arrival, room, timeline, pauses, is_promised=lambda one: one.seq_id in promised, now_s=0.0
    )
    assert found == expected
    ahead = [one for one in claims if one < arrival]
    assert claims_before(arrival, timeline, pauses) == pytest.approx(Claims.of(ahead))


def test_paces_share_a_step_within_the_least_of_their_targets() -> None:
    cost = StepCostModel()
    paces = PromisedPace(cost)
    both_s = cost.base_s + 2 * cost.decode_cost_s(50)
    paces.promise(SeqId(1), 1.0, 50)
    assert paces.fits(both_s / 0.69, 50, 8)
    assert not paces.fits(both_s / 0.71, 50, 8)
    paces.promise(SeqId(2), both_s / 0.69, 50)
    assert not paces.fits(1.0, 50, 8), "the others have a target too"
    assert paces.fits(1.0, 50, 2), "never more than two at once"
    paces.leave(SeqId(2))
    paces.leave(SeqId(2))
    assert paces.fits(1.0, 50, 8)
    assert list(paces.seq_ids) == [1]


def test_there_is_never_room_for_more_cells_than_there_are() -> None:
    room = Room(1, 100, [])
    assert room.wait_s(Claims(), 100, 1.0) == 0.0
    assert room.wait_s(Claims(), 300, 1.0) == inf
