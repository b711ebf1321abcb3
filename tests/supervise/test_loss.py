"""Engines that die, hang or go mad: no request is lost, and only the guilty one ends."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from edged.clock import MonotonicClock
from edged.core.types import SloTier
from edged.engine.wire import TextPrompt
from edged.errors import EdgedError, Reason
from edged.supervise.fleet import Fleet
from edged.supervise.model import ModelState, ModelStatus, Stream
from edged.supervise.spec import ModelSpec
from edged.supervise.stream import PauseCause, StreamPaused, StreamResumed
from tests.supervise.harness import (
    MODEL,
    Transcript,
    engine_pid,
    read,
    read_all,
    read_until,
    serving,
    spec,
    stub,
    submission,
    wait_for_state,
    wait_for_status,
)

ENGINE_LOST = StreamPaused(PauseCause.ENGINE_LOST)


def has_tokens(count: int) -> Callable[[Transcript], bool]:
    return lambda seen: len(seen.token_ids) >= count


def goes_on(num_losses: int) -> Callable[[Transcript], bool]:
    """It got tokens and runs again, so that the next loss is one to it too."""
    return lambda seen: (
        has_tokens(20 * num_losses + 10)(seen) and (seen.count(StreamResumed) == num_losses)
    )


def has_lost(count: int) -> Callable[[ModelStatus], bool]:
    return lambda status: status.num_engine_losses == count


def submit_innocents(fleet: Fleet, count: int, *, max_tokens: int = 40) -> list[Stream]:
    return [
        fleet.submit(MODEL, submission(f"r{n}", f"say {n}", max_tokens=max_tokens))
        for n in range(count)
    ]


def check_innocents(transcripts: Sequence[Transcript], *, max_tokens: int = 40) -> None:
    for n, transcript in enumerate(transcripts):
        transcript.check_answer(f"say {n}", max_tokens)


async def lose_rounds(fleet: Fleet, number: signal.Signals, *, rounds: int) -> None:
    """Signal the engine in mid-stream, again and again; every answer must be whole."""
    num_tokens = 100 * (rounds + 1)
    streams = submit_innocents(fleet, 6, max_tokens=num_tokens)
    transcripts = [Transcript() for _ in streams]
    for lost in range(rounds):
        for stream, transcript in zip(streams, transcripts, strict=True):
            await read_until(stream, transcript, goes_on(lost))
        os.kill(await engine_pid(fleet), number)
        await wait_for_status(fleet, has_lost(lost + 1))
    for stream, transcript in zip(streams, transcripts, strict=True):
        await read(stream, transcript)
    check_innocents(transcripts, max_tokens=num_tokens)
    for transcript in transcripts:
        assert transcript.events.count(ENGINE_LOST) == rounds
        assert transcript.finish.event.timings.num_engine_losses == rounds
    assert fleet.status()[0].state is ModelState.READY


async def test_streams_go_on_exactly_after_the_engine_is_killed_again_and_again() -> None:
    async with serving(spec(max_restarts=1)) as fleet:
        await lose_rounds(fleet, signal.SIGKILL, rounds=4)


async def test_engine_that_is_stopped_is_replaced_and_nobody_is_blamed() -> None:
    async with serving(spec(stall_s=0.6, max_restarts=1)) as fleet:
        await lose_rounds(fleet, signal.SIGSTOP, rounds=3)


async def test_kill_from_outside_blames_nobody_however_often() -> None:
    async with serving(spec(max_restarts=1)) as fleet:
        stream = fleet.submit(MODEL, submission("r", "say alone", max_tokens=400))
        transcript = Transcript()
        for lost in range(4):
            await read_until(stream, transcript, has_tokens(20 * (lost + 1)))
            os.kill(await engine_pid(fleet), signal.SIGKILL)
            await wait_for_status(fleet, has_lost(lost + 1))
        (await read(stream, transcript)).check_answer("say alone", 400)


async def test_request_that_comes_while_the_engine_restarts_is_served() -> None:
    async with serving() as fleet:
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        await wait_for_state(fleet, ModelState.RESTARTING)
        transcript = await read(fleet.submit(MODEL, submission("r")))
        transcript.check_answer("say a word", 16)
        assert transcript.count(StreamPaused) == 0


@pytest.mark.parametrize("prank", ["garbage-once", "gap-once", "exit-once", "abort-once"])
async def test_engine_that_misbehaves_once_is_replaced(prank: str) -> None:
    async with serving() as fleet:
        odd = fleet.submit(MODEL, submission("odd", f"{prank} please", max_tokens=30))
        *innocents, last = await read_all([*submit_innocents(fleet, 4), odd])
        check_innocents(innocents)
        last.check_answer(f"{prank} please", 30)
        assert fleet.status()[0].num_engine_losses == 1


@pytest.mark.parametrize("prank", ["hang-once", "idle-once"])
async def test_stall_while_running_replaces_the_engine(prank: str) -> None:
    async with serving(spec(stall_s=1.0)) as fleet:
        odd = fleet.submit(MODEL, submission("odd", f"{prank} please", max_tokens=30))
        *innocents, last = await read_all([*submit_innocents(fleet, 3), odd])
        check_innocents(innocents)
        last.check_answer(f"{prank} please", 30)
        assert fleet.status()[0].num_engine_losses == 1


async def test_steps_that_go_on_are_no_stall_though_a_request_gets_no_token() -> None:
    stall_s = 0.5
    async with serving(spec(stall_s=stall_s)) as fleet:
        await engine_pid(fleet)
        silent = fleet.submit(MODEL, submission("silent", "silent one"))
        stream = fleet.submit(MODEL, submission("r", max_tokens=None))
        clock = MonotonicClock()
        until_s = clock.now_s() + 2 * stall_s
        await read_until(stream, Transcript(), lambda _: clock.now_s() > until_s)
        for ended in (stream, silent):
            ended.cancel("enough")
            await read(ended)
        assert fleet.status()[0].num_engine_losses == 0


async def test_pause_begins_with_the_loss_and_ends_with_the_next_token() -> None:
    """How long it was, to the second: `test_entry`."""
    async with serving() as fleet:
        clock = MonotonicClock()
        began_s = clock.now_s()
        transcript = await read(fleet.submit(MODEL, submission("r", "abort-once", max_tokens=5)))
        assert transcript.events.count(ENGINE_LOST) == 1
        (resumed,) = [e for e in transcript.events if isinstance(e, StreamResumed)]
        assert 0 < resumed.paused_s < clock.now_s() - began_s


# ── Poison ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prank", ["poison", "late-poison", "choke"])
async def test_poison_among_innocents_ends_alone(prank: str) -> None:
    async with serving() as fleet:
        streams = submit_innocents(fleet, 8)
        streams.insert(4, fleet.submit(MODEL, submission("bad", f"{prank} pill")))
        transcripts = await read_all(streams)
        bad = transcripts.pop(4)
        assert bad.error is not None
        assert bad.reason is Reason.POISONED_REQUEST
        assert bad.error.detail == (
            "request bad took the engine down twice; the second time it crashed (SIGABRT): "
            "ggml.c:2112: GGML_ASSERT(a->ne[0] == b->ne[0]) failed"
        )
        check_innocents(transcripts)
        status = fleet.status()[0]
        assert (status.state, status.num_engine_losses) == (ModelState.READY, 2)


async def test_request_that_hangs_the_engine_twice_ends_alone() -> None:
    async with serving(spec(stall_s=1.0)) as fleet:
        streams = [*submit_innocents(fleet, 3), fleet.submit(MODEL, submission("bad", "hang on"))]
        *innocents, bad = await read_all(streams)
        assert bad.error is not None
        assert bad.reason is Reason.POISONED_REQUEST
        assert "finished no step in 1 s" in bad.error.detail
        check_innocents(innocents)


async def test_lone_poison_is_convicted_at_the_second_loss() -> None:
    async with serving() as fleet:
        assert (await read(fleet.submit(MODEL, submission("bad", "poison")))).reason is (
            Reason.POISONED_REQUEST
        )
        assert fleet.status()[0].num_engine_losses == 2
        (await read(fleet.submit(MODEL, submission("r")))).check_answer("say a word", 16)


async def test_two_poisons_among_innocents_both_end() -> None:
    async with serving() as fleet:
        streams = submit_innocents(fleet, 4)
        streams += [fleet.submit(MODEL, submission(name, "poison")) for name in ("bad1", "bad2")]
        *innocents, first, second = await read_all(streams)
        assert [first.reason, second.reason] == [Reason.POISONED_REQUEST] * 2
        check_innocents(innocents)


async def test_newcomers_wait_while_a_suspect_is_tried_and_are_never_blamed() -> None:
    """A second poison that arrives during a trial must not have the tried innocent convicted."""
    async with serving() as fleet:
        streams = submit_innocents(fleet, 3, max_tokens=60)
        streams.append(fleet.submit(MODEL, submission("bad1", "late-poison", tier=SloTier.BATCH)))
        await wait_for_status(fleet, has_lost(1))
        streams.append(fleet.submit(MODEL, submission("bad2", "poison")))
        *innocents, first, second = await read_all(streams)
        check_innocents(innocents, max_tokens=60)
        assert [first.reason, second.reason] == [Reason.POISONED_REQUEST] * 2


# ── Limits ───────────────────────────────────────────────────────────────────────────────────────


def failing_reloads(tmp_path: Path, num_good: int) -> ModelSpec:
    """A model whose engine is killed while loading, after its first good launches."""
    loads = ("ok",) * num_good + ("die",)
    worker = stub(loads=loads, launches=tmp_path / "launches")
    return spec(worker=worker, max_restarts=2)


async def test_losses_without_progress_are_bounded(tmp_path: Path) -> None:
    async with serving(failing_reloads(tmp_path, 1), spec("other")) as fleet:
        stream = fleet.submit(MODEL, submission("r", max_tokens=None))
        transcript = Transcript()
        await read_until(stream, transcript, has_tokens(3))
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        await read(stream, transcript)
        assert transcript.error is not None
        assert transcript.reason is Reason.ENGINE_LOST
        assert "was lost 3 times in a row without a token" in transcript.error.detail
        assert "was killed while loading from outside (SIGKILL)" in transcript.error.detail
        status = fleet.status()[0]
        assert (status.state, status.num_engine_losses) == (ModelState.FAILED, 3)
        assert len((tmp_path / "launches").read_text().splitlines()) == 3
        (await read(fleet.submit("other", submission("r")))).check_answer("say a word", 16)


async def test_cancel_and_deadline_end_requests_while_the_engine_is_replaced(
    tmp_path: Path,
) -> None:
    worker = stub(loads=("ok", "hang"), launches=tmp_path / "launches")
    async with serving(spec(worker=worker)) as fleet:
        cancelled = fleet.submit(MODEL, submission("c", max_tokens=None))
        expiring = fleet.submit(MODEL, submission("d", max_tokens=None, deadline_in_s=0.8))
        transcript = Transcript()
        await read_until(cancelled, transcript, has_tokens(3))
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        await wait_for_state(fleet, ModelState.RESTARTING)
        cancelled.cancel("not needed")
        assert (await read(cancelled, transcript)).reason is Reason.CANCELLED
        assert transcript.events[-1] == ENGINE_LOST
        assert (await read(expiring)).reason is Reason.DEADLINE_EXCEEDED
        assert fleet.num_in_flight == 0


async def test_cancel_under_way_when_the_engine_dies_ends_the_request() -> None:
    async with serving() as fleet:
        deaf = fleet.submit(MODEL, submission("deaf", "deaf one", max_tokens=None))
        transcript = Transcript()
        await read_until(deaf, transcript, has_tokens(3))
        deaf.cancel("not needed")
        os.kill(await engine_pid(fleet), signal.SIGKILL)
        assert (await read(deaf, transcript)).reason is Reason.CANCELLED


async def test_question_under_way_when_the_engine_dies_fails_at_once() -> None:
    async with serving(spec(call_s=60.0)) as fleet:
        pid = await engine_pid(fleet)
        os.kill(pid, signal.SIGSTOP)
        asking = asyncio.create_task(fleet.tokenize(MODEL, TextPrompt("abc")))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EdgedError, match="was killed from outside") as raised:
            await asking
        assert raised.value.reason is Reason.ENGINE_LOST


async def test_engine_that_owes_the_tokens_of_a_text_for_too_long_is_replaced() -> None:
    async with serving(spec(call_s=60.0, stall_s=0.3)) as fleet:
        os.kill(await engine_pid(fleet), signal.SIGSTOP)
        with pytest.raises(EdgedError, match="was stopped by a signal") as raised:
            await fleet.tokenize(MODEL, TextPrompt("abc"))
        assert raised.value.reason is Reason.ENGINE_LOST
        (await read(fleet.submit(MODEL, submission("r")))).check_answer("say a word", 16)
        assert fleet.status()[0].num_engine_losses == 1


async def test_question_under_way_when_the_model_is_unloaded_fails_with_its_engine() -> None:
    async with serving(spec(call_s=60.0, stop_s=0.1)) as fleet:
        os.kill(await engine_pid(fleet), signal.SIGSTOP)
        asking = asyncio.create_task(fleet.tokenize(MODEL, TextPrompt("abc")))
        await asyncio.sleep(0)
        await fleet.unload(MODEL)
        with pytest.raises(EdgedError, match="the engine was stopped") as raised:
            await asking
        assert raised.value.reason is Reason.ENGINE_LOST


async def test_drain_finishes_work_though_the_engine_is_lost_meanwhile() -> None:
    async with serving() as fleet:
        stream = fleet.submit(MODEL, submission("r", max_tokens=200))
        transcript = Transcript()
        await read_until(stream, transcript, has_tokens(3))
        pid = await engine_pid(fleet)
        draining = asyncio.create_task(fleet.drain(20.0))
        await wait_for_state(fleet, ModelState.UNLOADING)
        os.kill(pid, signal.SIGKILL)
        (await read(stream, transcript)).check_answer("say a word", 200)
        assert transcript.events.count(ENGINE_LOST) == 1
        await draining
        assert fleet.status()[0].state is ModelState.UNLOADED


async def test_drain_ends_an_engine_that_does_not_listen() -> None:
    async with serving(spec(stop_s=0.1)) as fleet:
        pid = await engine_pid(fleet)
        os.kill(pid, signal.SIGSTOP)
        await fleet.drain(0.0)
        assert not psutil.pid_exists(pid)
