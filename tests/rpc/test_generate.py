"""Generate: events in order, ends, heartbeats, limits."""

import grpc

from edged.supervise.stream import PauseCause, StreamPaused, StreamResumed
from tests.rpc.fakes import admitted, delta, finished
from tests.rpc.front import Front, text_request


async def test_events_arrive_in_the_order_of_the_engine(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(
        admitted(stream),
        delta(0, "Hel"),
        StreamPaused(PauseCause.SWAP),
        StreamResumed(1.5),
        delta(1, "lo"),
        finished(stream, num_tokens=2),
    )
    kinds = [event.WhichOneof("event") async for event in call]
    assert kinds == ["admitted", "token", "preempted", "resumed", "token", "finished"]
    assert await call.code() == grpc.StatusCode.OK
    assert not stream.cancel_details
