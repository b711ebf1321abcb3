"""The timeline in blocks says what a plain list would."""

import random
from collections.abc import Callable
from itertools import accumulate

import pytest

from edged.core.sequence import Sequence
from edged.core.timeline import Claims, Entry, Timeline
from edged.core.types import SeqId, SlotId
from tests.factories import request

PROMPT = 16


def _entry(number: int, due_s: float, work_s: float) -> Entry:
    seq = Sequence(SeqId(number), request(prompt=PROMPT), max_tokens=4, stop_token_ids=frozenset())
    return Entry(due_s, seq.seq_id, work_s, work_s, seq, 10 * work_s, number % 7, PROMPT)


def _waiting(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.seq.slot is None]


def _timeline(draw: random.Random, num_entries: int) -> tuple[Timeline, list[Entry]]:
    """With some that have come and gone, and some that have begun."""
    timeline, entries = Timeline(), []
    for number in range(num_entries):
        entry = _entry(number, draw.choice((5.0, draw.uniform(0, 100))), draw.uniform(0.01, 1.0))
        timeline.add(entry)
        entries.append(entry)
        if draw.random() < 0.3:
            gone = entries.pop(draw.randrange(len(entries)))
            assert timeline.remove(gone)
        if entries and draw.random() < 0.2:
            begun = draw.choice(entries)
            begun.seq.num_computed_tokens = draw.randrange(PROMPT)
            begun.seq.slot = SlotId(0) if draw.random() < 0.5 else None
            timeline.progressed(begun)
    return timeline, sorted(entries)


@pytest.mark.parametrize("num_entries", [0, 1, 64, 65, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_it_holds_what_came_and_has_not_gone_in_order(seed: int, num_entries: int) -> None:
    draw = random.Random(seed)
    timeline, entries = _timeline(draw, num_entries)
    assert list(timeline) == entries
    assert len(timeline) == len(entries)
    asked = _entry(10**6, draw.uniform(-10, 110), 1.0)
    before = [entry for entry in entries if entry < asked]
    assert timeline.claims_before(asked) == pytest.approx(Claims.of(_waiting(before)))
    claims = Claims()
    for block in timeline.blocks:
        claims = claims.plus(block.claims)
        work_s, num_cells = block.dearest
        assert all(one.work_s <= work_s and one.num_cells <= num_cells for one in block.entries)
    assert claims == pytest.approx(Claims.of(_waiting(entries)))
    assert timeline.work_before_s(asked) == pytest.approx(sum(entry.left_s for entry in before))


def _line(draw: random.Random) -> Callable[[float], float]:
    """Concave: it rises fast and then slower, or falls."""
    first, second, bend_s = draw.uniform(1, 8), draw.uniform(-2, 1), draw.uniform(0, 100)
    return lambda due_s: first * min(due_s, bend_s) + second * max(0.0, due_s - bend_s)


@pytest.mark.parametrize("seed", range(40))
def test_overruns_are_those_of_a_look_at_each(seed: int) -> None:
    draw = random.Random(seed)
    timeline, entries = _timeline(draw, draw.choice((3, 70, 800)))
    limit = _line(draw)
    done_s = accumulate(entry.left_s for entry in entries)
    expected = {
        entry.seq_id: over_s
        for entry, done in zip(entries, done_s, strict=True)
        if (over_s := done - limit(entry.due_s)) > 1e-9
    }
    found = [(entry.seq_id, over_s) for entry, over_s in timeline.overruns(limit) if over_s > 1e-9]
    assert [seq_id for seq_id, _ in found] == list(expected)
    assert dict(found) == pytest.approx(expected)


def test_who_is_not_there_cannot_be_removed() -> None:
    timeline = Timeline()
    assert not timeline.remove(_entry(0, 1.0, 1.0))
    timeline.add(_entry(1, 2.0, 1.0))
    assert not timeline.remove(_entry(0, 1.0, 1.0))
    assert not timeline.remove(_entry(2, 3.0, 1.0))
    assert len(timeline) == 1


def test_those_around_an_entry_begin_so_many_blocks_before_it() -> None:
    timeline, entries = _timeline(random.Random(3), 2000)
    entries.sort()
    middle = entries[len(entries) // 2]
    for num_blocks in (0, 2, 10**6):
        found = list(timeline.around(middle, num_blocks))
        assert found == entries[-len(found) :]
        assert middle in found
        assert (num_blocks < 10**6) == (len(found) < len(entries))
