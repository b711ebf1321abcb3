"""One model on a stub engine: answers, questions, limits, cancel, deadline, load and drain."""

import asyncio
from pathlib import Path

import pytest

from edged.core.types import SloTier
from edged.engine.wire import RequestState, TextPrompt, TokensPrompt
from edged.errors import EdgedError, Reason
from edged.supervise.model import ModelState, RequestView
from edged.supervise.stream import (
    PauseCause,
    StreamAdmitted,
    StreamDelta,
    StreamPaused,
    StreamResumed,
)
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


async def test_answer_is_streamed_token_by_token() -> None:
    async with serving() as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r", "say hello", max_tokens=20)))
        transcript.check_answer("say hello", 20)
        assert transcript.events[0] == StreamAdmitted(submission("r").request_id, 0, 0.25, 9)


async def test_model_without_a_name_is_the_default_model() -> None:
    async with serving(spec("first"), spec("second")) as fleet:
        await read(fleet.submit("", submission("r")))
        assert [status.is_default for status in fleet.status()] == [True, False]


async def test_requests_that_come_while_loading_are_held_and_served() -> None:
    async with serving() as fleet:
        assert fleet.status()[0].state is ModelState.LOADING
        streams = [fleet.submit(MODEL, submission(f"r{n}", f"say {n}")) for n in range(20)]
        for n, transcript in enumerate(await read_all(streams)):
            transcript.check_answer(f"say {n}", 16)


async def test_more_requests_than_may_be_held_are_refused() -> None:
    async with serving(spec(max_held=3)) as fleet:
        streams = [fleet.submit(MODEL, submission(f"r{n}")) for n in range(3)]
        with pytest.raises(EdgedError, match="3 standard requests wait for the engine") as raised:
            fleet.submit(MODEL, submission("r3"))
        assert raised.value.reason is Reason.QUEUE_FULL
        assert raised.value.retry_after_s is not None
        streams.append(fleet.submit(MODEL, submission("chat", tier=SloTier.INTERACTIVE)))
        for transcript in await read_all(streams):
            transcript.check_answer("say a word", 16)


async def test_request_id_that_is_in_use_is_refused() -> None:
    async with serving(spec("first"), spec("second")) as fleet:
        stream = fleet.submit("first", submission("r"))
        for model in ("first", "second"):
            with pytest.raises(EdgedError, match="request r exists already") as raised:
                fleet.submit(model, submission("r"))
            assert raised.value.reason is Reason.DUPLICATE_REQUEST
        await read(stream)
        (await read(fleet.submit("first", submission("r")))).check_answer("say a word", 16)


async def test_unknown_model_is_refused_with_the_names_there_are() -> None:
    async with serving(load=False) as fleet:
        with pytest.raises(EdgedError, match="no model 'other'; configured are: 'stub'"):
            fleet.submit("other", submission("r"))


async def test_model_that_is_not_loaded_refuses_work() -> None:
    async with serving(load=False) as fleet:
        with pytest.raises(EdgedError) as raised:
            fleet.submit(MODEL, submission("r"))
        assert raised.value.reason is Reason.MODEL_UNLOADED


async def test_refusal_of_the_engine_names_the_field() -> None:
    async with serving() as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r", "refuse me")))
        assert transcript.events == []
        assert transcript.error is not None
        assert transcript.reason is Reason.PROMPT_TOO_LONG
        assert [violation.field for violation in transcript.error.violations] == ["prompt"]


async def test_preemption_shows_as_a_pause() -> None:
    async with serving() as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r", "preempt me")))
        transcript.check_answer("preempt me", 16)
        pauses = [e for e in transcript.events if isinstance(e, StreamPaused | StreamResumed)]
        assert pauses == [StreamPaused(PauseCause.SWAP), StreamResumed(0.125)]


async def test_duplicate_tokens_are_dropped() -> None:
    async with serving() as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r", "twice over")))
        transcript.check_answer("twice over", 16)


# ── Cancel and deadline ──────────────────────────────────────────────────────────────────────────


async def test_cancelled_request_ends_with_what_the_caller_said() -> None:
    async with serving() as fleet:
        stream = fleet.submit(MODEL, submission("r", max_tokens=None))
        transcript = Transcript()
        await read_until(stream, transcript, lambda seen: seen.count(StreamDelta) > 3)
        stream.cancel("the client went away")
        await read(stream, transcript)
        assert transcript.error is not None
        assert (transcript.reason, transcript.error.detail) == (
            Reason.CANCELLED,
            "the client went away",
        )
        assert fleet.num_in_flight == 0


async def test_cancelling_a_held_request_ends_it_at_once() -> None:
    async with serving(spec(worker=stub(loads=("hang",)))) as fleet:
        stream = fleet.submit(MODEL, submission("r"))
        stream.cancel("not needed")
        assert fleet.num_in_flight == 0
        assert (await read(stream)).reason is Reason.CANCELLED


async def test_deadline_ends_a_request_that_is_held() -> None:
    async with serving(spec(worker=stub(loads=("hang",)))) as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r", deadline_in_s=0.05)))
        assert transcript.error is not None
        assert transcript.reason is Reason.DEADLINE_EXCEEDED
        assert "the deadline of 0.05 s passed after 0 tokens" in transcript.error.detail
        assert fleet.num_in_flight == 0


async def test_queue_time_limit_ends_a_request_that_is_held() -> None:
    model = spec(worker=stub(loads=("hang",)))
    tiers = tuple(
        type(tier)(tier.tier, None, None, 9, 9, 0.05, True, 0.0) for tier in model.start.tiers
    )
    fields = {name: getattr(model.start, name) for name in model.start.__struct_fields__}
    limited = type(model.start)(**(fields | {"tiers": tiers}))
    async with serving(spec(worker=model.worker, start=limited)) as fleet:
        transcript = await read(fleet.submit(MODEL, submission("r")))
        assert transcript.reason is Reason.QUEUE_TIMEOUT


async def test_operator_cancels_by_a_prefix_that_is_unique() -> None:
    async with serving() as fleet:
        streams = [
            fleet.submit(MODEL, submission(name, max_tokens=None))
            for name in ("abc1", "abc2", "ab")
        ]
        with pytest.raises(EdgedError, match="3 requests begin with 'a'"):
            fleet.cancel("a")
        with pytest.raises(EdgedError, match="no request begins with 'x'"):
            fleet.cancel("x")
        assert [fleet.cancel(prefix) for prefix in ("abc2", "ab", "abc")] == ["abc2", "ab", "abc1"]
        assert {transcript.reason for transcript in await read_all(streams)} == {Reason.CANCELLED}


# ── Questions ────────────────────────────────────────────────────────────────────────────────────


async def test_tokenize_answers_when_the_model_is_ready() -> None:
    async with serving() as fleet:
        with pytest.raises(EdgedError) as raised:
            await fleet.tokenize(MODEL, TextPrompt("abc"))
        assert raised.value.reason is Reason.MODEL_LOADING
        await engine_pid(fleet)
        assert await fleet.tokenize(MODEL, TextPrompt("abc")) == (97, 98, 99)


async def test_prompt_that_cannot_be_tokenized_is_an_invalid_argument() -> None:
    async with serving() as fleet:
        await engine_pid(fleet)
        with pytest.raises(EdgedError, match=r"prompt\.text: is empty") as raised:
            await fleet.tokenize(MODEL, TextPrompt(""))
        assert raised.value.reason is Reason.INVALID_ARGUMENT
        assert [one.field for one in raised.value.violations] == ["prompt.text"]


async def test_question_without_an_answer_ends_in_time() -> None:
    async with serving(spec(call_s=0.05, stop_s=0.05)) as fleet:
        await engine_pid(fleet)
        with pytest.raises(EdgedError, match=r"no tokens within 0.05 s") as raised:
            await fleet.tokenize(MODEL, TextPrompt("hang"))
        assert raised.value.reason is Reason.QUEUE_FULL


async def test_list_has_running_requests_by_the_engine_and_held_ones_by_the_daemon() -> None:
    waiting = spec("loading", worker=stub(loads=("hang",)))
    async with serving(spec(), waiting) as fleet:
        streams = [
            fleet.submit(MODEL, submission("r", max_tokens=None)),
            fleet.submit("loading", submission("h", prompt=TokensPrompt((1, 2)))),
        ]
        transcript = Transcript()
        await read_until(streams[0], transcript, lambda seen: seen.count(StreamDelta) > 0)
        running, held = await fleet.list_requests()
        assert isinstance(running.state, RequestState)
        assert (running.model, running.state.request_id) == (MODEL, "r")
        assert isinstance(held.state, RequestView)
        assert held.state.submission.request_id == "h"


# ── Slow readers ─────────────────────────────────────────────────────────────────────────────────


async def test_reader_that_falls_behind_loses_its_request_and_nobody_else_does() -> None:
    async with serving(spec(max_backlog_tokens=2000)) as fleet:
        slow = fleet.submit(MODEL, submission("slow", "flood me", max_tokens=None))
        (await read(fleet.submit(MODEL, submission("fast", max_tokens=200)))).check_answer(
            "say a word", 200
        )
        transcript = await read(slow)
        assert transcript.reason is Reason.SLOW_READER
        assert transcript.token_ids == []
        (await read(fleet.submit(MODEL, submission("next")))).check_answer("say a word", 16)
        assert fleet.num_in_flight == 0


async def test_deltas_that_wait_are_read_as_one() -> None:
    async with serving() as fleet:
        late = fleet.submit(MODEL, submission("late", "say late", max_tokens=50))
        await read(fleet.submit(MODEL, submission("later", "say later", max_tokens=100)))
        transcript = await read(late)
        transcript.check_answer("say late", 50)
        assert transcript.count(StreamDelta) == 1


# ── Load, unload, drain ──────────────────────────────────────────────────────────────────────────


async def test_status_follows_a_model_through_its_life() -> None:
    async with serving(load=False) as fleet:
        assert fleet.status()[0].state is ModelState.UNLOADED
        await fleet.load(MODEL)
        assert fleet.status()[0].state is ModelState.LOADING
        status = await wait_for_state(fleet, ModelState.READY)
        assert status.ready is not None
        assert status.ready.model_description == "a stub"
        await fleet.load(MODEL)
        assert fleet.status()[0].engine_pid == status.engine_pid
        await fleet.unload(MODEL)
        status = fleet.status()[0]
        assert (status.state, status.engine_pid) == (ModelState.UNLOADED, None)
        await fleet.load(MODEL)
        (await read(fleet.submit(MODEL, submission("r")))).check_answer("say a word", 16)


async def test_progress_of_a_load_is_shown() -> None:
    async with serving(spec(worker=stub(loads=("hang",)))) as fleet:
        status = await wait_for_status(fleet, lambda status: status.load_progress > 0)
        assert (status.state, status.load_progress) == (ModelState.LOADING, 0.5)


async def test_drain_lets_running_and_held_work_finish() -> None:
    async with serving() as fleet:
        streams = [fleet.submit(MODEL, submission(f"r{n}", max_tokens=60)) for n in range(8)]
        reading = asyncio.create_task(read_all(streams))
        draining = asyncio.create_task(fleet.drain(20.0))
        await wait_for_state(fleet, ModelState.UNLOADING)
        with pytest.raises(EdgedError, match="shutting down") as raised:
            fleet.submit(MODEL, submission("new"))
        assert raised.value.reason is Reason.DRAINING
        await draining
        for transcript in await reading:
            transcript.check_answer("say a word", 60)
        assert fleet.status()[0].state is ModelState.UNLOADED


@pytest.mark.parametrize("text", ["say it", "deaf one"])
async def test_drain_cancels_what_does_not_finish_in_time(text: str) -> None:
    async with serving() as fleet:
        stream = fleet.submit(MODEL, submission("r", text, max_tokens=None))
        transcript = Transcript()
        await read_until(stream, transcript, lambda seen: seen.count(StreamDelta) > 0)
        await fleet.drain(0.05)
        await read(stream, transcript)
        assert transcript.error is not None
        assert transcript.reason is Reason.CANCELLED
        assert transcript.error.detail == "the server is shutting down"


async def test_drain_while_a_model_is_loading_does_not_wait_for_it() -> None:
    async with serving(spec(worker=stub(loads=("hang",)))) as fleet:
        await fleet.drain(60.0)
        assert fleet.status()[0].state is ModelState.UNLOADED


async def test_drain_overtakes_an_unload_that_has_more_time() -> None:
    async with serving(spec(drain_s=3600.0)) as fleet:
        stream = fleet.submit(MODEL, submission("r", max_tokens=None))
        unloading = asyncio.create_task(fleet.unload(MODEL))
        await wait_for_state(fleet, ModelState.UNLOADING)
        with pytest.raises(EdgedError, match="being unloaded"):
            await fleet.load(MODEL)
        await fleet.drain(0.05)
        await unloading
        assert (await read(stream)).reason is Reason.CANCELLED


async def test_unload_goes_on_when_its_caller_goes_away() -> None:
    async with serving() as fleet:
        await engine_pid(fleet)
        stream = fleet.submit(MODEL, submission("r", max_tokens=100))
        unloading = asyncio.create_task(fleet.unload(MODEL))
        await wait_for_state(fleet, ModelState.UNLOADING)
        unloading.cancel()
        (await read(stream)).check_answer("say a word", 100)
        await wait_for_state(fleet, ModelState.UNLOADED)


# ── Models that cannot be loaded ─────────────────────────────────────────────────────────────────


async def test_model_that_the_engine_refuses_fails_with_its_reason_and_without_a_retry(
    tmp_path: Path,
) -> None:
    launches = tmp_path / "launches"
    worker = stub(loads=("refuse",), launches=launches)
    async with serving(spec(worker=worker), spec("other")) as fleet:
        held = fleet.submit(MODEL, submission("r"))
        status = await wait_for_state(fleet, ModelState.FAILED)
        assert "the file ends in the middle" in status.failure
        assert (await read(held)).reason is Reason.MODEL_FAILED
        with pytest.raises(EdgedError, match="the file ends in the middle") as raised:
            fleet.submit(MODEL, submission("r"))
        assert raised.value.reason is Reason.MODEL_FAILED
        assert len(launches.read_text().splitlines()) == 1
        (await read(fleet.submit("other", submission("r")))).check_answer("say a word", 16)


@pytest.mark.parametrize("how", ["crash", "garbage"])
async def test_crash_while_loading_is_answered_with_one_more_attempt(
    tmp_path: Path, how: str
) -> None:
    worker = stub(loads=(how, "ok"), launches=tmp_path / "launches")
    async with serving(spec(worker=worker)) as fleet:
        (await read(fleet.submit(MODEL, submission("r")))).check_answer("say a word", 16)
        assert fleet.status()[0].num_engine_losses == 1


async def test_second_crash_while_loading_fails_the_model_with_its_cause(tmp_path: Path) -> None:
    launches = tmp_path / "launches"
    async with serving(spec(worker=stub(loads=("crash",), launches=launches))) as fleet:
        held = fleet.submit(MODEL, submission("r"))
        status = await wait_for_state(fleet, ModelState.FAILED)
        assert status.failure == (
            "model 'stub' has failed: the engine crashed while loading (SIGABRT): "
            "ggml.c:2112: GGML_ASSERT(a->ne[0] == b->ne[0]) failed"
        )
        assert (await read(held)).reason is Reason.MODEL_FAILED
        assert len(launches.read_text().splitlines()) == 2


async def test_load_that_takes_too_long_fails_the_model_with_the_number() -> None:
    async with serving(spec(worker=stub(loads=("hang",)), load_timeout_s=0.2)) as fleet:
        status = await wait_for_state(fleet, ModelState.FAILED)
        assert "loading took longer than 0.2 s" in status.failure


async def test_failed_model_can_be_loaded_again(tmp_path: Path) -> None:
    worker = stub(loads=("refuse", "ok"), launches=tmp_path / "launches")
    async with serving(spec(worker=worker)) as fleet:
        await wait_for_state(fleet, ModelState.FAILED)
        await fleet.load(MODEL)
        (await read(fleet.submit(MODEL, submission("r")))).check_answer("say a word", 16)
        assert fleet.status()[0].failure == ""


async def test_engine_that_cannot_be_started_fails_the_model() -> None:
    async with serving(spec(worker=("/nonexistent/engine",))) as fleet:
        status = await wait_for_state(fleet, ModelState.FAILED)
        assert "cannot be started: No such file or directory" in status.failure
