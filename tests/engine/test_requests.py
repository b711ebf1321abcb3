"""Requests to an engine process that are refused, cancelled, preempted or fail."""

import pytest

from edged.core.types import FinishReason, RequestId, SamplingParams, SloTier
from edged.engine.wire import (
    Cancel,
    Preempted,
    Refusal,
    RequestRefused,
    Resumed,
    SetTiers,
    Statistics,
    TextPrompt,
    Tokenize,
    TokensPrompt,
)
from edged.errors import Reason
from tests.engine.process import (
    FAST,
    SLOW_PREFILL,
    R,
    engine_process,
    expected_tokens,
    finished,
    start_command,
    submit,
    token_ids,
)
from tests.factories import tiers


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_cancelled_request_ends_and_frees_its_cells(phase: str) -> None:
    with engine_process(start_command(options=SLOW_PREFILL, max_step_tokens=64)) as engine:
        engine.ready()
        length = 3000 if phase == "prefill" else 30
        engine.admitted(submit(prompt="x" * length, max_tokens=1000))
        if phase == "decode":
            engine.receive()
        engine.send(Cancel(R, FinishReason.CANCELLED, "the caller hung up"))
        items = engine.answer(R)
        while not (engine.statistics and engine.statistics[-1].num_cells_used == 0):
            statistics = engine.receive_any()
            assert isinstance(statistics, Statistics)
            engine.statistics.append(statistics)
        assert engine.inspect().requests == ()
    event = finished(items).event
    assert event.reason is FinishReason.CANCELLED
    assert event.detail == "the caller hung up"
    assert (event.num_generated_tokens == 0) == (phase == "prefill")
    assert event.num_generated_tokens < 1000


def test_a_cancel_of_an_unknown_request_changes_nothing() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.send(Cancel(RequestId("nobody"), FinishReason.CANCELLED))
        engine.admitted(submit())
        assert finished(engine.answer(R)).event.reason is FinishReason.LENGTH


def test_a_deadline_ends_a_request() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit(max_tokens=4000, deadline_in_s=0.05))
        event = finished(engine.answer(R)).event
    assert event.reason is FinishReason.DEADLINE
    assert event.detail


def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.send(submit(prompt="x" * 5000))
        event = engine.receive()
    assert isinstance(event, RequestRefused)
    refusal = event.refusal
    assert (refusal.reason, refusal.field) == (Reason.PROMPT_TOO_LONG, "prompt")
    assert "5001" in refusal.detail
    assert "4096" in refusal.detail


def test_a_bad_prompt_is_refused_by_its_field() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.send(submit(prompt=TokensPrompt((1, 260))))
        refused = engine.receive()
        engine.send(submit(sampling=SamplingParams(stop_token_ids=(300,))))
        refused_sampling = engine.receive()
    assert isinstance(refused, RequestRefused)
    refusal = refused.refusal
    assert (refusal.reason, refusal.field) == (Reason.INVALID_ARGUMENT, "prompt.token_ids.ids")
    assert isinstance(refused_sampling, RequestRefused)
    assert refused_sampling.refusal.field == "sampling.stop_token_ids"


def test_a_full_queue_declines_with_a_time_to_retry() -> None:
    start = start_command(options=SLOW_PREFILL, tiers=tiers(max_waiting=2), max_sequences=1)
    with engine_process(start) as engine:
        engine.ready()
        for i in range(8):
            engine.send(submit(f"r{i}", prompt="x" * 2000, max_tokens=1))
        refusals: list[Refusal] = []
        while len(refusals) < 5:
            event = engine.receive()
            refusals += [event.refusal] if isinstance(event, RequestRefused) else []
    assert {refusal.reason for refusal in refusals} == {Reason.QUEUE_FULL}
    assert all(refusal.retry_after_s for refusal in refusals)


def test_a_large_prompt_is_tokenized_beside_the_frames() -> None:
    with engine_process(start_command(context_tokens=40_000)) as engine:
        engine.ready()
        engine.send(Tokenize(1, TextPrompt("x" * 20_000)))
        engine.send(submit(prompt="y" * 20_000, max_tokens=3))
        items = engine.items(R)[R]
        assert len(token_ids(items)) == 3
        assert finished(items).event.num_prompt_tokens == 20_001


def test_interactive_work_preempts_batch_work_which_resumes_unchanged() -> None:
    batch_id, urgent_id = RequestId("batch"), RequestId("urgent")
    with engine_process(start_command(max_sequences=1)) as engine:
        engine.ready()
        batch = submit(batch_id, tier=SloTier.BATCH, max_tokens=300)
        admitted = engine.admitted(batch)
        engine.receive()
        engine.send(submit(urgent_id, tier=SloTier.INTERACTIVE, max_tokens=5))
        streams = engine.items(batch_id, urgent_id)
    kinds = [type(item) for item in streams[batch_id]]
    assert kinds.count(Preempted) == kinds.count(Resumed) == 1
    assert kinds.index(Preempted) < kinds.index(Resumed)
    expected = expected_tokens(admitted.prompt_token_ids, batch.sampling)
    assert token_ids(streams[batch_id])[-200:] == expected[-200:]
    assert finished(streams[batch_id]).event.timings.num_preemptions == 1


def test_a_lost_slot_recomputes_and_the_answer_is_unchanged() -> None:
    options = {**FAST, "fail_step_on_token": str(ord("~"))}
    with engine_process(start_command(options=options)) as engine:
        engine.ready()
        admitted = engine.admitted(submit(prompt="a~b", max_tokens=20))
        items = engine.answer(R)
    sampling = SamplingParams(max_tokens=20, seed=7)
    assert any(isinstance(item, Preempted) for item in items)
    assert token_ids(items) == expected_tokens(admitted.prompt_token_ids, sampling)


def test_a_request_whose_step_always_fails_ends_with_an_error() -> None:
    options = {**FAST, "fail_step_on_token": str(ord("~")), "fail_step_always": "true"}
    with engine_process(start_command(options=options)) as engine:
        engine.ready()
        engine.send(submit(prompt="a~b"))
        engine.send(submit("other", max_tokens=10))
        streams = engine.items(R, RequestId("other"))
    event = finished(streams[R]).event
    assert event.reason is FinishReason.ERROR
    assert "lost 2 times" in event.detail
    assert finished(streams[RequestId("other")]).event.reason is FinishReason.LENGTH


def test_tiers_are_changed_for_whoever_comes_next() -> None:
    """The queue's limit: the one thing of them that an answer shows at once."""
    with engine_process(start_command(options=SLOW_PREFILL, max_sequences=1)) as engine:
        engine.ready()
        engine.admitted(submit("runs", prompt="x" * 2000, tier=SloTier.BATCH, max_tokens=200))
        engine.admitted(submit("waits", tier=SloTier.BATCH))
        engine.send(SetTiers(tuple(tiers(max_waiting=1).values())))
        engine.send(submit("refused", tier=SloTier.BATCH))
        refused = engine.receive_any()
        while not isinstance(refused, RequestRefused):
            refused = engine.receive_any()
        assert refused.refusal.reason is Reason.QUEUE_FULL
        for items in engine.items(RequestId("runs"), RequestId("waits")).values():
            assert finished(items).event.reason is FinishReason.LENGTH
