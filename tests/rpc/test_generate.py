"""Generate: what arrives, in which order, and what the models are handed."""

import asyncio
from dataclasses import replace
from math import inf
from pathlib import Path

import grpc
import pytest

from edged.core.types import FinishReason, MissCause, Outcome, SloTier
from edged.engine.wire import DeltaLogprob, TextPrompt, TopLogprob
from edged.errors import Reason
from edged.rpc.inference import InferenceLimits
from edged.supervise.stream import (
    PauseCause,
    StreamDelta,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)
from edged.v1 import inference_pb2 as pb
from tests.rpc.fakes import GATE_TIMEOUT_S, admitted, delta, finished
from tests.rpc.front import (
    LOOPBACK,
    Front,
    ended,
    over_socket,
    read_all,
    running_front,
    text_request,
    told_by,
)


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


async def test_admitted_names_the_request_and_its_place(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(admitted(stream), finished(stream))
    event = await call.read()
    assert event.admitted.request_id == stream.submission.request_id
    assert len(event.admitted.request_id) == 16
    assert event.admitted.position == 2
    assert event.admitted.predicted_ttft_s == 0.25
    assert event.admitted.num_prompt_tokens == 7


@pytest.mark.parametrize("promised", [True, False, None])
async def test_admitted_says_what_is_promised(front: Front, promised: bool | None) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(replace(admitted(stream), promised=promised), finished(stream))
    event = await call.read()
    told = event.admitted.promised if event.admitted.HasField("promised") else None
    assert told is promised


async def test_who_waits_is_told_its_place_and_how_long(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(
        admitted(stream),
        StreamQueued(4, 2.5, inf),
        StreamQueued(1, 0.5, 0.75),
        finished(stream),
    )
    events = [event async for event in call]
    first, second = events[1].queued, events[2].queued
    assert (first.position, first.eta_s, first.HasField("eta_bound_s")) == (4, 2.5, False)
    assert (second.position, second.eta_s, second.eta_bound_s) == (1, 0.5, 0.75)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(True, True, None),
        Outcome(None, True, None),
        *(Outcome(False, False, cause) for cause in MissCause),
        None,
    ],
)
async def test_finished_says_what_became_of_its_targets(
    front: Front, outcome: Outcome | None
) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    ending = finished(stream)
    stream.put(admitted(stream), replace(ending, event=replace(ending.event, outcome=outcome)))
    told = [event async for event in call][-1].finished
    assert told.HasField("outcome") == (outcome is not None)
    if outcome is not None:
        known = told.outcome.promised if told.outcome.HasField("promised") else None
        assert (known, told.outcome.held) == (outcome.promised, outcome.held)
        cause = pb.MissCause.Name(told.outcome.miss_cause).removeprefix("MISS_CAUSE_")
        named = "UNSPECIFIED" if outcome.miss_cause is None else outcome.miss_cause.name
        assert cause == named


async def test_a_delta_carries_text_tokens_and_logprobs(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    position = DeltaLogprob(
        9, -0.5, b"\xc3", (TopLogprob(9, -0.5, b"\xc3"), TopLogprob(8, -1.5, b"\xa4"))
    )
    stream.put(StreamDelta(4, (9,), "é", (position,)), finished(stream))
    token = (await call.read()).token
    assert (token.index, token.text, list(token.token_ids)) == (4, "é", [9])
    [told] = token.logprobs
    assert told.chosen == pb.TokenLogprob(token_id=9, logprob=-0.5, piece=b"\xc3")
    assert list(told.top) == [
        pb.TokenLogprob(token_id=9, logprob=-0.5, piece=b"\xc3"),
        pb.TokenLogprob(token_id=8, logprob=-1.5, piece=b"\xa4"),
    ]


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (PauseCause.PARK, pb.PREEMPTION_CAUSE_PARK),
        (PauseCause.SWAP, pb.PREEMPTION_CAUSE_SWAP),
        (PauseCause.RECOMPUTE, pb.PREEMPTION_CAUSE_RECOMPUTE),
        (PauseCause.ENGINE_LOST, pb.PREEMPTION_CAUSE_ENGINE_LOST),
    ],
)
async def test_a_pause_tells_its_cause_and_its_length(
    front: Front, cause: PauseCause, told: int
) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(StreamPaused(cause), StreamResumed(2.5), finished(stream))
    assert (await call.read()).preempted.cause == told
    assert (await call.read()).resumed.paused_s == 2.5


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FinishReason.STOP, pb.FINISH_REASON_STOP),
        (FinishReason.LENGTH, pb.FINISH_REASON_LENGTH),
    ],
)
async def test_the_last_event_tells_reason_usage_and_timings(
    front: Front, reason: FinishReason, told: int
) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(finished(stream, reason, num_tokens=5, stop_string="END"))
    last = (await call.read()).finished
    assert (last.reason, last.stop) == (told, "END")
    assert last.usage == pb.Usage(num_prompt_tokens=7, num_generated_tokens=5)
    timings = last.timings
    assert (timings.queue_s, timings.ttft_s, timings.tpot_s) == (0.5, 0.75, 0.125)
    assert (timings.total_s, timings.num_preemptions, timings.num_engine_losses) == (2.0, 3, 1)
    assert timings.met_ttft
    assert timings.HasField("met_ttft")
    assert not timings.HasField("met_tpot")


async def test_the_models_get_model_prompt_and_the_moment_of_arrival(front: Front) -> None:
    front.clock.advance_to(1234.5)
    call = front.inference.Generate(text_request("Once", model="tiny"))
    stream = await front.models.next_stream()
    stream.put(finished(stream))
    assert await call.read()
    assert front.models.asked_models == ["tiny"]
    assert stream.submission.prompt == TextPrompt("Once")
    assert stream.submission.arrival_s == 1234.5
    assert stream.submission.deadline_s is None
    assert stream.submission.service.tier == SloTier.STANDARD


async def test_two_requests_get_ids_and_seeds_of_their_own(front: Front) -> None:
    calls = [front.inference.Generate(text_request()) for _ in range(2)]
    first, second = [(await front.models.next_stream()).submission for _ in calls]
    assert first.request_id != second.request_id
    assert first.sampling.seed != second.sampling.seed


async def test_a_caller_over_tcp_is_named_by_its_address(front: Front) -> None:
    call = front.inference.Generate(text_request())
    assert (await front.models.next_stream()).submission.client_id == "127.0.0.1"
    call.cancel()


async def test_a_caller_over_the_socket_is_local(tmp_path: Path) -> None:
    async with running_front(over_socket(tmp_path / "e.sock")) as front:
        call = front.inference.Generate(text_request())
        assert (await front.models.next_stream()).submission.client_id == "local"
        call.cancel()


async def test_a_silent_stream_beats_and_loses_no_event() -> None:
    limits = InferenceLimits(heartbeat_s=0.02)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        call = front.inference.Generate(text_request())
        stream = await front.models.next_stream()
        stream.put(admitted(stream))
        kinds = [(await call.read()).WhichOneof("event") for _ in range(3)]
        assert kinds == ["admitted", "heartbeat", "heartbeat"]
        stream.put(delta(0, "a"), StreamResumed(1.0), delta(1, "b"), finished(stream))
        later = [event.WhichOneof("event") for event in await read_all(call)]
        events = [kind for kind in later if kind != "heartbeat"]
        assert events == ["token", "resumed", "token", "finished"]


async def test_silence_before_admission_beats_too() -> None:
    limits = InferenceLimits(heartbeat_s=0.02)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        call = front.inference.Generate(text_request())
        stream = await front.models.next_stream()
        assert (await call.read()).WhichOneof("event") == "heartbeat"
        assert stream.num_taken == 0


async def test_one_call_over_the_limit_is_refused_until_one_ends() -> None:
    limits = InferenceLimits(max_generate_calls=2)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        calls = [front.inference.Generate(text_request()) for _ in range(2)]
        streams = [await front.models.next_stream() for _ in calls]
        told = await told_by(front.inference.Generate(text_request()))
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told.reason == Reason.QUEUE_FULL
        assert told.retry_s == 1.0
        assert told.pushback_ms == "1000"
        assert "2 standard Generate calls" in told.detail
        chat = front.inference.Generate(text_request(tier=pb.TIER_INTERACTIVE))
        stream = await front.models.next_stream()
        stream.put(finished(stream))
        assert await ended(chat) == grpc.StatusCode.OK
        for stream in streams:
            stream.put(finished(stream))
        for call in calls:
            assert await ended(call) == grpc.StatusCode.OK
        again = front.inference.Generate(text_request())
        stream = await front.models.next_stream()
        stream.put(finished(stream))
        assert await ended(again) == grpc.StatusCode.OK


async def test_64_streams_at_once_each_get_their_own_tokens(front: Front) -> None:
    async def read_text(number: int) -> tuple[str, str]:
        texts = [
            event.token.text
            async for event in front.inference.Generate(text_request(f"prompt {number}"))
            if event.HasField("token")
        ]
        return f"prompt {number}", "".join(texts)

    async with asyncio.timeout(GATE_TIMEOUT_S), asyncio.TaskGroup() as group:
        reading = [group.create_task(read_text(number)) for number in range(64)]
        streams = [await front.models.next_stream() for _ in range(64)]
        for index in range(20):
            for stream in streams:
                assert isinstance(stream.submission.prompt, TextPrompt)
                stream.put(delta(index, f"{stream.submission.prompt.text}/{index};"))
        for stream in streams:
            stream.put(finished(stream))
    for prompt, text in [await task for task in reading]:
        assert text == "".join(f"{prompt}/{index};" for index in range(20))


async def test_a_deadline_of_the_call_reaches_the_models(front: Front) -> None:
    request = text_request(targets=pb.Targets(deadline_s=5000))
    call = front.inference.Generate(request, timeout=600)
    submission = (await front.models.next_stream()).submission
    assert submission.deadline_s is not None
    # Some of the 600 seconds have passed on the way, and gRPC rounds them up to whole units.
    assert 500 < submission.deadline_s - submission.arrival_s <= 606
    call.cancel()


async def test_a_nearer_deadline_of_the_request_wins(front: Front) -> None:
    call = front.inference.Generate(text_request(targets=pb.Targets(deadline_s=20)), timeout=600)
    submission = (await front.models.next_stream()).submission
    assert submission.deadline_s == submission.arrival_s + 20
    call.cancel()


async def test_tokenize_returns_the_ids_of_the_model(front: Front) -> None:
    answer = await front.inference.Tokenize(pb.TokenizeRequest(prompt=pb.Prompt(text="Hi")))
    assert list(answer.token_ids) == [1, 2, 3]
    assert front.models.prompts == [TextPrompt("Hi")]


async def test_count_tokens_tells_how_many_fit(front: Front) -> None:
    answer = await front.inference.CountTokens(pb.CountTokensRequest(prompt=pb.Prompt(text="Hi")))
    assert (answer.num_tokens, answer.max_tokens) == (3, 512)


async def test_count_tokens_of_a_model_that_is_not_ready_is_unavailable(front: Front) -> None:
    front.models.set_status("tiny", ready=None)
    call = front.inference.CountTokens(pb.CountTokensRequest(prompt=pb.Prompt(text="Hi")))
    told = await told_by(call)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.MODEL_LOADING)
    assert told.retry_s == 1.0


async def test_tokenizing_has_its_own_limit() -> None:
    limits = InferenceLimits(max_tokenize_calls=1)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        front.models.may_tokenize.clear()
        request = pb.TokenizeRequest(prompt=pb.Prompt(text="Hi"))
        first, second = front.inference.Tokenize(request), front.inference.Tokenize(request)
        refused, _ = await asyncio.wait(
            [asyncio.ensure_future(told_by(call)) for call in (first, second)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [(await one).reason for one in refused] == [Reason.QUEUE_FULL]
        front.models.may_tokenize.set()
        codes = [await call.code() for call in (first, second)]
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
