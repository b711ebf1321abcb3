"""The bounded stream between the engine and one reader."""

import asyncio

import pytest

from edged.errors import EdgedError, Reason
from edged.supervise.stream import (
    PauseCause,
    RequestStream,
    StreamDelta,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)


def stream(max_backlog_tokens: int = 10) -> RequestStream:
    return RequestStream(max_backlog_tokens, lambda detail: None)


def delta(index: int, count: int = 1) -> StreamDelta:
    return StreamDelta(index, tuple(range(index, index + count)), "t" * count, ())


async def test_deltas_that_wait_are_merged_up_to_the_next_other_event() -> None:
    events = stream()
    for event in (delta(0), delta(1, 2), StreamPaused(PauseCause.SWAP), delta(3)):
        assert events.put(event)
    assert await anext(events) == StreamDelta(0, (0, 1, 2), "ttt", ())
    assert await anext(events) == StreamPaused(PauseCause.SWAP)
    assert await anext(events) == delta(3)


async def test_of_the_places_in_the_queue_that_wait_the_latest_is_told() -> None:
    events = stream(3)
    for position in range(100, 0, -1):
        assert events.put(StreamQueued(position, 1.0, 2.0))
    assert events.put(delta(0))
    assert await anext(events) == StreamQueued(1, 1.0, 2.0)
    assert await anext(events) == delta(0)


async def test_reader_waits_for_the_next_event() -> None:
    events = stream()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert not waiting.done()
    events.put(delta(0))
    assert await waiting == delta(0)


async def test_backlog_may_be_as_long_as_the_limit_and_no_longer() -> None:
    events = stream(10)
    assert events.put(delta(0, 10))
    assert not events.put(delta(10))
    with pytest.raises(EdgedError, match="more than 10 tokens waited") as raised:
        await anext(events)
    assert raised.value.reason is Reason.SLOW_READER
    assert events.put(delta(11)), "an ended stream takes nothing and complains of nothing"


async def test_what_was_read_does_not_count() -> None:
    events = stream(3)
    for index in range(100):
        assert events.put(delta(index))
        assert events.put(StreamDelta(index + 1, (), "text alone", ()))
        await anext(events)


def test_events_without_tokens_are_bounded_too() -> None:
    events = stream(10)
    results = [
        events.put(event)
        for _ in range(6)
        for event in (StreamPaused(PauseCause.SWAP), StreamResumed(1.0))
    ]
    assert results[:11] == [True] * 10 + [False]


async def test_error_comes_after_what_waits() -> None:
    events = stream()
    events.put(delta(0))
    events.fail(EdgedError(Reason.CANCELLED, "gone"))
    assert await anext(events) == delta(0)
    for _ in range(2):
        with pytest.raises(EdgedError, match="gone"):
            await anext(events)


async def test_gap_in_the_tokens_is_never_passed_on() -> None:
    events = stream()
    events.put(delta(0))
    with pytest.raises(AssertionError, match="I4"):
        events.put(delta(2))


async def test_cancel_reaches_the_request_once_and_not_after_its_end() -> None:
    details: list[str] = []
    events = RequestStream(10, details.append)
    events.cancel("first")
    events.fail(EdgedError(Reason.CANCELLED, "first"))
    events.cancel("second")
    assert details == ["first"]
