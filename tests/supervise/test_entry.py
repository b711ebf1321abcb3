"""What the stream is told of a request's pauses, and how long each of them was."""

import asyncio

import pytest

from edged.core.types import PreemptMode
from edged.engine.wire import Delta, Preempted, Queued, RequestAdmitted, Resumed
from edged.supervise.entry import Entry
from edged.supervise.stream import (
    PauseCause,
    RequestStream,
    StreamAdmitted,
    StreamDelta,
    StreamEvent,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)
from tests.supervise.harness import submission

REQUEST = submission("r")
ID = REQUEST.request_id
ADMITTED = RequestAdmitted(ID, 0, 0.1, (5, 6))
LOST = StreamPaused(PauseCause.ENGINE_LOST)
SWAPPED = StreamPaused(PauseCause.SWAP)


def delta(index: int, at_s: float) -> Delta:
    return Delta(ID, index, (10 + index,), "t", (), at_s)


def told(index: int) -> StreamDelta:
    return StreamDelta(index, (10 + index,), "t", ())


class Told:
    """An entry that an engine admitted, and what its stream says from then on."""

    def __init__(self) -> None:
        self.stream = RequestStream(100, lambda detail: None)
        self.entry = Entry(REQUEST, self.stream)
        assert self.entry.admit(ADMITTED)
        self.entry.deliver(delta(0, 1.0), 1.0)

    async def events(self) -> list[StreamEvent]:
        """All that waits to be read, after the admission and the first token."""
        found: list[StreamEvent] = []
        async with asyncio.timeout(20.0):
            while not found or found[-1] != told(1):
                found.append(await anext(self.stream))
        assert isinstance(found[0], StreamAdmitted)
        assert found[1] == told(0)
        return found[2:]


async def test_pause_by_a_lost_engine_is_as_long_as_the_time_to_the_next_token() -> None:
    request = Told()
    request.entry.lose_engine(100.0)
    assert request.entry.admit(ADMITTED), "the next engine's admission ends no pause"
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [LOST, StreamResumed(3.0), told(1)]


async def test_token_that_was_delivered_before_ends_no_pause() -> None:
    request = Told()
    request.entry.lose_engine(100.0)
    request.entry.deliver(delta(0, 101.0), 101.0)
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [LOST, StreamResumed(3.0), told(1)]


async def test_engines_lost_in_a_row_are_one_pause() -> None:
    request = Told()
    request.entry.lose_engine(100.0)
    request.entry.lose_engine(102.0)
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [LOST, StreamResumed(3.0), told(1)]


async def test_engine_that_is_lost_in_a_pause_prolongs_it() -> None:
    """The next engine's own pause and its end are part of it."""
    request = Told()
    request.entry.tell(Preempted(ID, PreemptMode.SWAP), 98.0)
    request.entry.lose_engine(100.0)
    request.entry.tell(Preempted(ID, PreemptMode.SWAP), 101.0)
    request.entry.tell(Resumed(ID, 1.0), 102.0)
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [SWAPPED, LOST, StreamResumed(5.0), told(1)]


async def test_pause_by_preemption_is_as_long_as_the_engine_says() -> None:
    request = Told()
    request.entry.tell(Preempted(ID, PreemptMode.SWAP), 100.0)
    request.entry.tell(Resumed(ID, 2.5), 102.5)
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [SWAPPED, StreamResumed(2.5), told(1)]


@pytest.mark.parametrize("mode", PreemptMode)
async def test_pause_by_preemption_says_how_the_engine_made_room(mode: PreemptMode) -> None:
    request = Told()
    request.entry.tell(Preempted(ID, mode), 100.0)
    request.entry.deliver(delta(1, 103.0), 103.0)
    causes = {
        PreemptMode.PARK: PauseCause.PARK,
        PreemptMode.SWAP: PauseCause.SWAP,
        PreemptMode.RECOMPUTE: PauseCause.RECOMPUTE,
    }
    assert await request.events() == [StreamPaused(causes[mode]), StreamResumed(3.0), told(1)]


async def test_engine_that_is_lost_before_the_admission_is_no_pause() -> None:
    stream = RequestStream(100, lambda detail: None)
    entry = Entry(REQUEST, stream)
    entry.lose_engine(100.0)
    entry.admit(ADMITTED)
    entry.deliver(delta(0, 103.0), 103.0)
    assert await anext(stream) == StreamAdmitted(ID, 0, 0.1, 2)
    assert await anext(stream) == told(0)


async def test_one_that_waits_is_told_where_it_stands_but_not_in_a_pause() -> None:
    request = Told()
    request.entry.tell(Queued(ID, 3, 2.0, 4.0), 98.0)
    request.entry.lose_engine(100.0)
    request.entry.tell(Queued(ID, 1, 1.0, 2.0), 101.0)
    request.entry.deliver(delta(1, 103.0), 103.0)
    assert await request.events() == [StreamQueued(3, 2.0, 4.0), LOST, StreamResumed(3.0), told(1)]
