"""The supervision with the production engine process, on the model-free backend."""

import asyncio
import os
import signal
from collections.abc import Sequence

from edged.core.types import SloTier
from edged.engine.wire import RequestState, TokensPrompt
from edged.errors import Reason
from edged.supervise.fleet import Fleet
from edged.supervise.model import ModelState, Stream, Submission
from edged.supervise.spec import WORKER, ModelSpec
from edged.supervise.stream import PauseCause, StreamDelta, StreamPaused, StreamResumed
from tests.supervise.harness import (
    MODEL,
    Transcript,
    engine_pid,
    read,
    read_all,
    read_until,
    serving,
    spec,
    start,
    submission,
    wait_for_state,
    wait_for_status,
)

TRIGGER = 255
"""A prompt token that faults are told to act on."""


def sim(
    *, max_sequences: int = 16, stall_s: float = 20.0, max_restarts: int = 5, **options: object
) -> ModelSpec:
    """Steps of about 2 ms, so that answers last while engines are lost."""
    given = {"step_s": 0.002, "eos_rate": 0.0} | options
    return spec(
        worker=WORKER,
        start=start(
            max_sequences=max_sequences,
            options={name: str(value) for name, value in given.items()},
        ),
        stall_s=stall_s,
        max_restarts=max_restarts,
    )


def work(count: int, *, prefix: str = "r", max_tokens: int = 300) -> list[Submission]:
    """Requests of every tier; the same count, the same prompts and seeds."""
    tiers = list(SloTier)
    return [
        submission(
            f"{prefix}{n}",
            max_tokens=max_tokens,
            tier=tiers[n % len(tiers)],
            prompt=TokensPrompt(tuple((7 * n + i) % 200 for i in range(20 + n))),
            seed=n,
        )
        for n in range(count)
    ]


async def undisturbed(fleet: Fleet, requests: Sequence[Submission]) -> list[Transcript]:
    return await read_all([fleet.submit(MODEL, request) for request in requests])


def check_equal(transcripts: Sequence[Transcript], wanted: Sequence[Transcript]) -> None:
    """Each answer whole, each token once, as in the undisturbed run."""
    for transcript, want in zip(transcripts, wanted, strict=True):
        assert transcript.error is None, transcript.error.detail
        assert transcript.token_ids == want.token_ids
        assert transcript.text == want.text
        transcript.check_order()


async def lose_rounds(model: ModelSpec, number: signal.Signals, rounds: int) -> None:
    async with serving(model) as fleet:
        wanted = await undisturbed(fleet, work(16, prefix="u"))
        assert all(len(want.token_ids) == 300 for want in wanted)
        streams: list[Stream] = [fleet.submit(MODEL, request) for request in work(16)]
        transcripts = [Transcript() for _ in streams]
        for lost in range(rounds):
            await go_on(streams, transcripts, lost)
            os.kill(await engine_pid(fleet), number)
            await wait_for_losses(fleet, lost + 1)
        for stream, transcript in zip(streams, transcripts, strict=True):
            await read(stream, transcript)
        check_equal(transcripts, wanted)
        for transcript in transcripts:
            assert transcript.finish.event.timings.num_engine_losses == rounds
        assert fleet.status()[0].state is ModelState.READY


async def go_on(streams: Sequence[Stream], transcripts: Sequence[Transcript], lost: int) -> None:
    """Each has gone on since the last loss: tokens of before may still wait to be read."""

    def has_gone_on(seen: Transcript) -> bool:
        return len(seen.token_ids) >= 15 and seen.count(StreamResumed) >= lost

    for stream, transcript in zip(streams, transcripts, strict=True):
        if not has_gone_on(transcript):
            await read_until(stream, transcript, has_gone_on)


async def wait_for_losses(fleet: Fleet, count: int) -> None:
    await wait_for_status(fleet, lambda status: status.num_engine_losses >= count)


async def test_sixteen_streams_survive_an_engine_that_is_killed_again_and_again() -> None:
    await lose_rounds(sim(max_restarts=1), signal.SIGKILL, rounds=5)


async def test_sixteen_streams_survive_an_engine_that_is_stopped() -> None:
    await lose_rounds(sim(stall_s=1.0, max_restarts=1), signal.SIGSTOP, rounds=2)


async def test_requests_that_were_preempted_survive_the_loss_of_their_engine() -> None:
    async with serving(sim(max_sequences=2)) as fleet:
        wanted = {
            transcript.finish.event.request_id[1:]: transcript
            for transcript in await undisturbed(fleet, work(9, prefix="u", max_tokens=100))
        }
        requests = sorted(work(9, max_tokens=100), key=lambda r: r.service.tier)  # batch first
        streams = [fleet.submit(MODEL, requests[0])]
        seen = [Transcript() for _ in requests]
        await read_until(streams[0], seen[0], lambda seen: seen.count(StreamDelta) > 3)
        streams += [fleet.submit(MODEL, request) for request in requests[1:]]
        is_swapped = StreamPaused(PauseCause.SWAP)
        await read_until(streams[0], seen[0], lambda seen: is_swapped in seen.events)
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        for stream, transcript in zip(streams, seen, strict=True):
            await read(stream, transcript)
        check_equal(seen, [wanted[request.request_id[1:]] for request in requests])
        assert seen[0].finish.event.timings.num_preemptions > 0
        assert seen[0].finish.event.timings.num_engine_losses == 1


async def test_request_that_aborts_the_engine_ends_alone() -> None:
    async with serving(sim(abort_on_token=TRIGGER)) as fleet:
        wanted = await undisturbed(fleet, work(8, prefix="u"))
        streams = [fleet.submit(MODEL, request) for request in work(8)]
        poison = submission("bad", prompt=TokensPrompt((1, 2, TRIGGER)))
        streams.append(fleet.submit(MODEL, poison))
        *innocents, bad = await read_all(streams)
        assert bad.error is not None
        assert bad.reason is Reason.POISONED_REQUEST
        assert bad.error.detail.startswith("request bad took the engine down twice")
        assert "SIGABRT" in bad.error.detail
        check_equal(innocents, wanted)
        assert fleet.status()[0].num_engine_losses == 2


async def test_request_that_hangs_the_engine_ends_alone() -> None:
    async with serving(sim(hang_on_token=TRIGGER, stall_s=1.5)) as fleet:
        wanted = await undisturbed(fleet, work(4, prefix="u"))
        streams = [fleet.submit(MODEL, request) for request in work(4)]
        poison = submission("bad", prompt=TokensPrompt((1, 2, TRIGGER)))
        streams.append(fleet.submit(MODEL, poison))
        *innocents, bad = await read_all(streams)
        assert bad.reason is Reason.POISONED_REQUEST
        check_equal(innocents, wanted)


async def test_timings_of_a_replay_begin_with_its_first_engine() -> None:
    async with serving(sim()) as fleet:
        stream = fleet.submit(MODEL, work(1)[0])
        transcript = Transcript()
        await read_until(stream, transcript, lambda seen: len(seen.token_ids) > 20)
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        await read(stream, transcript)
        (resumed,) = [e for e in transcript.events if isinstance(e, StreamResumed)]
        timings = transcript.finish.event.timings
        assert timings.ttft_s is not None
        assert timings.queue_s is not None
        assert timings.queue_s <= timings.ttft_s < timings.total_s - resumed.paused_s


async def test_deadline_passes_on_the_engine() -> None:
    async with serving(sim()) as fleet:
        await engine_pid(fleet)
        request = submission("r", max_tokens=None, deadline_in_s=0.3)
        transcript = await read(fleet.submit(MODEL, request))
        assert transcript.reason is Reason.DEADLINE_EXCEEDED
        assert transcript.token_ids


async def test_cancel_and_list_reach_the_engine() -> None:
    async with serving(sim()) as fleet:
        stream = fleet.submit(MODEL, submission("r", max_tokens=None))
        transcript = Transcript()
        await read_until(stream, transcript, lambda seen: len(seen.token_ids) > 3)
        rows = await fleet.list_requests()
        states = [row.state for row in rows if isinstance(row.state, RequestState)]
        assert [state.request_id for state in states] == ["r"]
        assert len(rows) == 1
        stream.cancel("enough")
        assert (await read(stream, transcript)).reason is Reason.CANCELLED
        assert await fleet.list_requests() == ()


async def test_model_that_aborts_while_loading_fails_with_the_signal() -> None:
    async with serving(sim(load_abort=True)) as fleet:
        status = await wait_for_state(fleet, ModelState.FAILED)
        assert "the engine crashed while loading (SIGABRT)" in status.failure
        assert status.num_engine_losses == 2


async def test_drain_finishes_running_work_and_stops_the_engine() -> None:
    async with serving(sim()) as fleet:
        streams = [fleet.submit(MODEL, request) for request in work(4, max_tokens=50)]
        reading = asyncio.create_task(read_all(streams))
        await fleet.drain(20.0)
        for transcript in await reading:
            assert len(transcript.token_ids) == 50
        assert fleet.status()[0].num_engine_losses == 0
