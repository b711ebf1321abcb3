"""Decides when a stream has been silent for too long."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from edged.supervise.model import Stream
from edged.supervise.stream import StreamEvent


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing came for the whole interval."""


async def with_silences(
    stream: Stream, interval_s: float
) -> AsyncGenerator[StreamEvent | Silence, None]:
    """The stream's events, and a `Silence` after each `interval_s` in which there was none.

    Waiting for an event goes on while a silence is told, so none is lost and the stream is never
    cancelled by it. Raises what the stream raises. Close it (`aclosing`) where it is left early.
    """
    events = aiter(stream)
    coming = asyncio.create_task(_next_event(events))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=interval_s)
            if not done:
                yield Silence()
                continue
            event = coming.result()
            if event is None:
                return
            yield event
            coming = asyncio.create_task(_next_event(events))
    finally:
        if not coming.cancel() and not coming.cancelled():
            coming.exception()  # seen: nobody waits for this end of the stream any more


async def _next_event(events: AsyncIterator[StreamEvent]) -> StreamEvent | None:
    """None at the end."""
    return await anext(events, None)
