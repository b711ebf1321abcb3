"""Answers as they come, and what becomes of those that nobody reads to the end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf

import pytest
import pytest_asyncio

from edged.client import AsyncClient, Timeouts
from edged.client.errors import DeadlineExceededError, RequestCancelledError, UnreachableError
from edged.client.events import (
    Admitted,
    Finished,
    Outcome,
    PositionLogprobs,
    Preempted,
    PreemptionCause,
    Queued,
    Resumed,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from edged.client.stream import AsyncStream
from edged.core.types import FinishReason
from edged.engine.wire import DeltaLogprob, TopLogprob
from edged.supervise.stream import (
    PauseCause,
    StreamDelta,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)
from edged.v1 import inference_pb2 as pb
from tests.client.scripted import WHOLE, is_silent, playing, says, then, within_time
from tests.client.scripted import admitted as is_admitted
from tests.client.servers import mute_host
from tests.rpc.fakes import GATE_TIMEOUT_S, PlayedStream, admitted, delta, finished
from tests.rpc.front import Front


@pytest_asyncio.fixture
async def client(front: Front) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(front.target) as made:
        yield made


async def play(front: Front) -> PlayedStream:
    """An answer that goes on for ever."""
    played = await front.models.next_stream()
    played.put(admitted(played), delta(0, "Par"), delta(1, "is"))
    return played


# ── What comes ───────────────────────────────────────────────────────────────────────────────────


async def test_events_come_with_all_that_they_carry(front: Front, client: AsyncClient) -> None:
    stream = client.generate("Hi")
    reading = asyncio.create_task(collected(stream))
    played = await front.models.next_stream()
    position = DeltaLogprob(9, -0.5, b"\xc3", (TopLogprob(8, -1.5, b"\xa4"),))
    played.put(
        admitted(played),
        StreamQueued(4, 2.5, inf),
        StreamQueued(1, 0.5, 0.75),
        StreamDelta(0, (9,), "é", (position,)),
        StreamPaused(PauseCause.SWAP),
        StreamResumed(2.5),
        finished(played, FinishReason.LENGTH, num_tokens=1, stop_string="END"),
    )
    request_id = str(played.submission.request_id)
    logprobs = PositionLogprobs(TokenLogprob(9, -0.5, b"\xc3"), (TokenLogprob(8, -1.5, b"\xa4"),))
    assert await reading == [
        Admitted(request_id, front.target, 2, 0.25, 7),
        Queued(4, 2.5),
        Queued(1, 0.5, 0.75),
        Token("é", (9,), 0, (logprobs,)),
        Preempted(PreemptionCause.SWAP),
        Resumed(2.5),
        Finished(
            FinishReason.LENGTH,
            Usage(7, 1, 0),
            Timings(2.0, 0.5, 0.75, 0.125, 3, 1, met_ttft=True),
            "END",
        ),
    ]
    assert (stream.text, stream.request_id, stream.daemon) == ("é", request_id, front.target)
    assert stream.finished is not None


async def test_what_only_newer_clients_know_is_none_or_not_shown() -> None:
    unknown = pb.GenerateResponse(preempted=pb.Preempted(cause=99))  # type: ignore[arg-type]  # of the future
    ending = pb.Finished(reason=99, outcome=pb.Outcome(held=False, miss_cause=99))  # type: ignore[arg-type]  # of the future
    scene = says(pb.GenerateResponse(), WHOLE[0], unknown, pb.GenerateResponse(finished=ending))
    async with playing(scene) as daemon, AsyncClient(daemon.address) as client:
        _, preempted, last = [event async for event in client.generate("Hi")]
    assert preempted == Preempted(None)
    assert isinstance(last, Finished)
    assert last.reason is None
    assert last.outcome == Outcome(None, False, None)


async def test_a_whole_answer_has_its_text_and_its_figures(
    front: Front, client: AsyncClient
) -> None:
    asking = asyncio.create_task(client.complete("Hi", max_tokens=5))
    played = await play(front)
    played.put(finished(played, num_tokens=2))
    answer = await asking
    assert (answer.text, answer.token_ids) == ("Paris", (0, 1))
    assert answer.admitted.request_id == played.submission.request_id
    assert answer.finished.usage.num_generated_tokens == 2


async def test_an_answer_can_be_read_on_as_a_whole(front: Front, client: AsyncClient) -> None:
    stream = client.generate("Hi")
    first = asyncio.create_task(anext(stream))
    played = await play(front)
    assert isinstance(await first, Admitted)
    played.put(finished(played))
    assert (await stream.answer()).text == "Paris"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_nothing_is_asked_before_the_first_event_is(
    front: Front, client: AsyncClient
) -> None:
    client.generate("Hi")
    await client.status()
    assert front.models.submitted.empty()


async def test_the_models_hear_no_cancel_of_a_call_that_was_read_to_its_end(
    front: Front, client: AsyncClient
) -> None:
    reading = asyncio.create_task(collected(client.generate("Hi")))
    played = await play(front)
    played.put(finished(played))
    await reading
    assert not played.cancelled.is_set()


async def collected(stream: AsyncStream) -> list[object]:
    return [event async for event in stream]


# ── Leaving early ────────────────────────────────────────────────────────────────────────────────


async def leave_the_loop(stream: AsyncStream) -> None:
    async for event in stream:
        if event.text:
            break
    del stream


async def raise_in_the_loop(stream: AsyncStream) -> None:
    async def read() -> None:
        async with stream:
            async for event in stream:
                if event.text:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read()


async def leave_the_block(stream: AsyncStream) -> None:
    async with stream:
        await anext(stream)


async def close_it(stream: AsyncStream) -> None:
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(RuntimeError, match="closed before its answer"):
        await stream.answer()


async def leave_it_in_a_cycle(stream: AsyncStream) -> None:
    await anext(stream)
    stream.myself = stream  # type: ignore[attr-defined]  # on purpose
    del stream


async def cancel_the_task(stream: AsyncStream) -> None:
    is_reading = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            is_reading.set()

    task = asyncio.create_task(read())
    await is_reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def wait_too_short(stream: AsyncStream) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stream.answer()


@pytest.mark.parametrize(
    "leave",
    [
        leave_the_loop,
        raise_in_the_loop,
        leave_the_block,
        close_it,
        leave_it_in_a_cycle,
        cancel_the_task,
        wait_too_short,
    ],
)
async def test_whoever_leaves_an_answer_cancels_it_on_the_daemon(
    front: Front, client: AsyncClient, leave: Callable[[AsyncStream], Awaitable[None]]
) -> None:
    playing_it = asyncio.create_task(play(front))
    await leave(client.generate("Hi"))
    gc.collect()
    await (await playing_it).wait_until_cancelled()


async def test_leaving_before_anybody_has_admitted_cancels_too() -> None:
    async with playing(is_silent()) as daemon, AsyncClient(daemon.address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.complete("Hi")
        await daemon.wait_until_given_up()


async def test_closing_the_client_ends_its_answers_with_an_error(
    front: Front, client: AsyncClient
) -> None:
    stream = client.generate("Hi")
    playing_it = asyncio.create_task(play(front))
    await anext(stream)
    reading = asyncio.create_task(stream.answer())
    played = await playing_it
    await played.wait_until_taken(2)
    await client.aclose()
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        await reading
    await played.wait_until_cancelled()
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        await client.status()


@pytest.mark.parametrize("admission", [[], [is_admitted()]])
async def test_closing_an_answer_that_another_task_waits_for_ends_both(
    admission: list[pb.GenerateResponse],
) -> None:
    async with playing(then(says(*admission), is_silent())) as daemon:
        async with AsyncClient(daemon.address) as client:
            stream = client.generate("Hi")
            reading = asyncio.create_task(stream.answer())
            await within_time(daemon.called)
            await stream.aclose()
            with pytest.raises(RequestCancelledError, match="the stream was closed"):
                await asyncio.wait_for(reading, GATE_TIMEOUT_S)
            await daemon.wait_until_given_up()
            await stream.aclose()
            assert await anext(stream, None) is None
        assert daemon.num_calls == 1


async def test_two_tasks_cannot_wait_for_one_answer() -> None:
    scene = then(says(is_admitted()), is_silent())
    async with playing(scene) as daemon, AsyncClient(daemon.address) as client:
        stream = client.generate("Hi")
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.wait([waiting], timeout=0)
        with pytest.raises(RuntimeError, match="another task waits"):
            await anext(stream)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


# ── Limits of time ───────────────────────────────────────────────────────────────────────────────


async def test_a_method_that_is_not_answered_ends_in_time() -> None:
    timeouts = Timeouts(call_s=0.2)
    async with playing(is_silent()) as daemon:
        async with AsyncClient(daemon.address, timeouts=timeouts) as client:
            with pytest.raises(DeadlineExceededError, match=r"did not answer within 0\.2 s"):
                await client.status()
        await daemon.wait_until_given_up()


async def test_a_host_that_says_nothing_ends_in_time() -> None:
    timeouts = Timeouts(connect_s=0.2)
    with mute_host() as address:
        async with AsyncClient(address, timeouts=timeouts, retry=None) as client:
            with pytest.raises(UnreachableError, match=f"no daemon answers at {address}"):
                await asyncio.wait_for(client.status(), GATE_TIMEOUT_S)


async def test_a_host_that_says_nothing_is_no_reason_not_to_ask_another(front: Front) -> None:
    timeouts = Timeouts(connect_s=0.2, call_s=0.1)
    with mute_host() as address:
        async with AsyncClient([address, front.target], timeouts=timeouts) as client:
            assert (await client.status()).version == "1.2.3"


async def test_a_deadline_holds_while_it_connects() -> None:
    with mute_host() as address:
        async with AsyncClient(address) as client:
            with pytest.raises(DeadlineExceededError, match="could not be connected to within"):
                await client.complete("Hi", deadline_s=0.2)


@pytest.mark.parametrize("wrong", [{"connect_s": 0.0}, {"call_s": -1.0}, {"idle_s": float("nan")}])
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        Timeouts(**wrong)
