"""Silences of a stream, without a server."""

import asyncio
import gc
from contextlib import aclosing

import pytest

from edged.core.types import ClientId, RequestId, SamplingParams, ServiceLevel, SloTier
from edged.engine.wire import TextPrompt
from edged.errors import EdgedError, Reason
from edged.rpc.heartbeat import Silence, with_silences
from edged.supervise.model import Submission
from edged.supervise.stream import StreamResumed
from tests.rpc.fakes import GATE_TIMEOUT_S, PlayedStream, delta, finished

FOR_EVER_S = 1000.0


@pytest.fixture
def stream() -> PlayedStream:
    return PlayedStream(
        Submission(
            request_id=RequestId("abcd"),
            client_id=ClientId("app"),
            prompt=TextPrompt("x"),
            sampling=SamplingParams(),
            service=ServiceLevel(SloTier.STANDARD),
            stop=(),
            arrival_s=0.0,
            deadline_s=None,
        )
    )


async def test_a_stream_that_talks_is_never_silent(stream: PlayedStream) -> None:
    stream.put(delta(0), StreamResumed(1.0), delta(1), finished(stream))
    events = [event async for event in with_silences(stream, FOR_EVER_S)]
    assert [type(event).__name__ for event in events] == [
        "StreamDelta",
        "StreamResumed",
        "StreamDelta",
        "StreamFinished",
    ]


async def test_an_event_in_the_middle_of_silences_is_not_lost(stream: PlayedStream) -> None:
    async with asyncio.timeout(GATE_TIMEOUT_S), aclosing(with_silences(stream, 0.01)) as events:
        assert [await anext(events) for _ in range(3)] == [Silence()] * 3
        stream.put(delta(0))
        while (event := await anext(events)) == Silence():
            pass
        assert event == delta(0)
        assert await anext(events) == Silence()


async def test_an_error_of_the_stream_is_raised_after_its_events(stream: PlayedStream) -> None:
    stream.put(delta(0))
    stream.fail(EdgedError(Reason.ENGINE_LOST, "gone"))
    events = with_silences(stream, FOR_EVER_S)
    assert await anext(events) == delta(0)
    with pytest.raises(EdgedError, match="gone"):
        await anext(events)


async def test_an_error_that_nobody_waits_for_is_not_reported(stream: PlayedStream) -> None:
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with aclosing(with_silences(stream, 0.01)) as events:
        assert await anext(events) == Silence()
        stream.fail(EdgedError(Reason.ENGINE_LOST, "gone"))
        # Lets the wait for the next event meet the error while nobody asks for an event.
        for _ in range(5):
            await asyncio.sleep(0)
    gc.collect()
    assert reported == []
