"""The engine process from outside: real processes, real sockets, the simulated model."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import pytest

from backends.sim.tokenizer import ByteTokenizer
from edged.core.types import FinishReason, RequestId, SamplingParams, SloTier
from edged.engine.desk import LARGE_PROMPT_CHARACTERS
from edged.engine.recorder import RecordReader, create_page
from edged.engine.wire import (
    Cancel,
    ChatMessage,
    ChatPrompt,
    Event,
    Inspect,
    Inspected,
    LoadFailed,
    Loading,
    Preempted,
    Ready,
    Refusal,
    RequestRefused,
    Resumed,
    Statistics,
    Stop,
    TextPrompt,
    Tokenize,
    Tokenized,
    TokensPrompt,
)
from edged.errors import Reason
from tests.engine.process import (
    FAST,
    EngineProcess,
    deltas,
    engine_process,
    expected_tokens,
    finished,
    start_command,
    submit,
    text,
    token_ids,
)
from tests.factories import tiers

R = RequestId("r")
SLOW_PREFILL = {"step_s": "0.001", "prefill_token_s": "0.001", "decode_token_s": "0"}


def decoded(tokens: list[int]) -> str:
    return b"".join(map(ByteTokenizer().piece, tokens)).decode(errors="replace")


def inspect(engine: EngineProcess) -> Inspected:
    engine.send(Inspect(1))
    while not isinstance(event := engine.receive(), Inspected):
        pass
    return event


def test_a_request_is_admitted_streamed_and_finished() -> None:
    sampling = SamplingParams(max_tokens=40, seed=3)
    with engine_process() as engine:
        engine.ready()
        admitted = engine.admitted(submit(prompt="hello", sampling=sampling))
        assert admitted.request_id == R
        assert bytes(admitted.prompt_token_ids[1:]) == b"hello"
        assert admitted.position == 0
        items = engine.answer(R)
    expected = expected_tokens(admitted.prompt_token_ids, sampling)
    assert token_ids(items) == expected
    assert text(items) == decoded(expected)
    assert deltas(items)[0].index == 0
    times_s = [delta.at_s for delta in deltas(items)]
    assert times_s == sorted(times_s)
    event = finished(items).event
    assert event.reason is FinishReason.LENGTH
    assert (event.num_prompt_tokens, event.num_generated_tokens) == (6, 40)
    assert event.timings.ttft_s is not None


def test_several_requests_stream_at_once_and_undisturbed() -> None:
    names = [RequestId(f"r{i}") for i in range(8)]
    with engine_process() as engine:
        engine.ready()
        commands = [submit(name, prompt=name, max_tokens=30) for name in names]
        for each in commands:
            engine.send(each)
        streams = engine.items(*names)
    for each in commands:
        prompt = ByteTokenizer().encode(each.request_id, add_special=True, parse_special=False)
        assert token_ids(streams[each.request_id]) == expected_tokens(tuple(prompt), each.sampling)


def test_a_chat_goes_through_the_models_template() -> None:
    with engine_process() as engine:
        engine.ready()
        chat = ChatPrompt((ChatMessage("user", "Hi"),))
        admitted = engine.admitted(submit(prompt=chat))
        engine.send(Tokenize(5, chat))
        tokenized = engine.receive()
        while not isinstance(tokenized, Tokenized):
            tokenized = engine.receive()
    rendered = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = ByteTokenizer().encode(rendered, add_special=False, parse_special=True)
    assert admitted.prompt_token_ids == tuple(ids)
    assert tokenized == Tokenized(5, tuple(ids))


def test_a_stop_string_spread_over_tokens_ends_the_answer_before_it() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=200))
        whole = text(engine.answer(RequestId("probe")))
        stop = whole[100:104]
        before = whole[: whole.index(stop)]
        engine.admitted(submit(max_tokens=200, stop=("never met", stop)))
        items = engine.answer(R)
        assert inspect(engine).requests == ()
    end = finished(items)
    assert text(items) == before
    assert end.stop_string == stop
    assert end.event.reason is FinishReason.STOP
    assert end.event.num_generated_tokens == len(token_ids(items))
    assert decoded(token_ids(items)) == before + stop


def test_a_stop_string_completed_by_the_last_token_allowed_is_a_stop() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=20))
        tokens = token_ids(engine.answer(RequestId("probe")))
        # The character that is used for the first time as late as possible.
        last = max((token for token in tokens if token < 128), key=tokens.index)
        engine.admitted(submit(max_tokens=tokens.index(last) + 1, stop=(chr(last),)))
        items = engine.answer(R)
    assert finished(items).stop_string == chr(last)
    assert finished(items).event.reason is FinishReason.STOP


def test_held_text_comes_with_the_end_when_no_stop_string_follows() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("probe", max_tokens=20))
        whole = text(engine.answer(RequestId("probe")))
        engine.admitted(submit(max_tokens=20, stop=(whole[-1] + "\x01",)))
        items = engine.answer(R)
    assert text(items) == whole
    assert deltas(items)[-1].token_ids == ()
    assert deltas(items)[-1].index == 20
    assert finished(items).event.reason is FinishReason.LENGTH


def test_logprobs_come_with_their_tokens() -> None:
    sampling = SamplingParams(max_tokens=5, logprobs=2)
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit(sampling=sampling))
        items = engine.answer(R)
    for delta in deltas(items):
        (logprob,) = delta.logprobs
        assert logprob.token_id == delta.token_ids[0]
        assert logprob.piece == ByteTokenizer().piece(logprob.token_id)
        assert len(logprob.top) == 2


def test_a_replay_goes_on_from_the_token_it_had_reached() -> None:
    with engine_process() as engine:
        engine.ready()
        admitted = engine.admitted(submit("first", max_tokens=60))
        first = engine.answer(RequestId("first"))
        tokens = token_ids(first)
        stop = (decoded(tokens)[40:43],)
        replayed = submit(
            prompt=TokensPrompt(admitted.prompt_token_ids),
            max_tokens=60,
            generated=tuple(tokens[:25]),
        )
        engine.admitted(replayed)
        items = engine.answer(R)
        done = submit("done", prompt=replayed.prompt, stop=stop, generated=tuple(tokens[:59]))
        engine.admitted(done)
        ended = engine.answer(done.request_id)
    assert deltas(items)[0].index == 25
    assert token_ids(items) == tokens[25:]
    assert text(first).endswith(text(items))
    assert deltas(ended) == []
    assert finished(ended).stop_string == stop[0]


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
        assert inspect(engine).requests == ()
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
    assert (refusal.reason, refusal.field) == (Reason.INVALID_ARGUMENT, "prompt.token_ids")
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
    preempted = next(item for item in streams[batch_id] if isinstance(item, Preempted))
    assert preempted.cause == urgent_id
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


def test_inspect_tells_the_state_of_every_request() -> None:
    with engine_process(start_command(options=SLOW_PREFILL, max_sequences=1)) as engine:
        engine.ready()
        engine.admitted(submit("first", prompt="x" * 1000, max_tokens=50))
        engine.admitted(submit("second", tier=SloTier.BATCH))
        for call_id in (1, 2, 3):
            engine.send(Inspect(call_id))
        answers: list[Inspected] = []
        while len(answers) < 3:
            event = engine.receive()
            answers += [event] if isinstance(event, Inspected) else []
    assert [answer.call_id for answer in answers] == [1, 2, 3]
    first, second = answers[0].requests
    assert (first.request_id, first.num_prompt_tokens, first.max_tokens) == ("first", 1001, 50)
    assert (second.request_id, second.state, second.position) == ("second", "waiting", 0)
    assert second.tier is SloTier.BATCH
    assert second.age_s >= 0


def test_statistics_come_when_they_change_and_settle_when_idle() -> None:
    with engine_process() as engine:
        engine.ready()
        started_s = time.monotonic()
        engine.admitted(submit(max_tokens=1200))
        engine.answer(R)
        elapsed_s = time.monotonic() - started_s
        num_while_busy = len(engine.statistics)
        assert 1 <= num_while_busy <= elapsed_s / 0.5 + 2
        assert any(each.decode_tokens_per_s > 0 for each in engine.statistics)
        while True:
            event = engine.receive_any()
            assert isinstance(event, Statistics)
            if event.decode_tokens_per_s == 0:
                break
    assert event.num_generated_tokens == 1200
    assert event.num_slots_used == event.num_cells_used == 0
    standard = next(tier for tier in event.tiers if tier.tier is SloTier.STANDARD)
    assert (standard.num_finished, standard.num_generated_tokens) == (1, 1200)


def test_loading_reports_its_progress_and_what_was_loaded() -> None:
    options = {**FAST, "load_s": "0.5", "vocab_size": "1000"}
    with engine_process(start_command(options=options)) as engine:
        seen = []
        while isinstance(event := engine.receive(), Loading):
            seen.append(event.progress)
    assert isinstance(event, Ready)
    assert (event.backend, event.vocab_size, event.can_swap) == ("sim", 1000, True)
    assert event.kv.num_slots == 4
    assert 3 <= len(seen) <= 7
    assert seen == sorted(seen)


def test_commands_during_loading_are_answered_at_once() -> None:
    with engine_process(start_command(options={"load_s": "60"})) as engine:
        assert isinstance(engine.receive(), Loading)
        engine.send(submit())
        engine.send(Tokenize(4, TextPrompt("x")))
        engine.send(Inspect(5))
        events: list[Event] = []
        while len(events) < 3:
            event = engine.receive()
            events += [] if isinstance(event, Loading) else [event]
        engine.send(Stop())
        assert engine.exit_code() == 0
    refused, tokenized, inspected = events
    assert isinstance(refused, RequestRefused)
    assert refused.refusal.reason is Reason.MODEL_LOADING
    assert refused.refusal.retry_after_s
    assert tokenized == Tokenized(
        4, (), Refusal(Reason.MODEL_LOADING, "the model is still loading", None, 1.0)
    )
    assert inspected == Inspected(5, ())


@pytest.mark.parametrize(
    ("backend", "options", "reason", "detail"),
    [
        ("sim", {"load_fail": "BAD_MODEL_FILE"}, Reason.BAD_MODEL_FILE, "load_fail"),
        ("sim", {"speed": "1"}, Reason.BAD_CONFIG, "speed"),
        ("absent", {}, Reason.MODEL_FAILED, "no backend 'absent'"),
        ("tests.engine.runtimes:create_without_memory", {}, Reason.OUT_OF_MEMORY, "memory"),
        ("tests.engine.runtimes:create_unreadable", {}, Reason.BAD_MODEL_FILE, "Permission"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_reported_with_its_reason(
    backend: str, options: dict[str, str], reason: Reason, detail: str
) -> None:
    with engine_process(start_command(backend=backend, options=options)) as engine:
        while isinstance(event := engine.receive(), Loading):
            pass
        assert isinstance(event, LoadFailed)
        assert event.reason is reason
        assert detail in event.detail
        assert "/secret" not in event.detail
        assert engine.exit_code() == 1


def test_stop_ends_the_process_with_code_0() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit(max_tokens=4000))
        engine.send(Stop())
        assert engine.exit_code() == 0


def test_a_closed_socket_ends_the_process_in_the_middle_of_a_step() -> None:
    options = {**FAST, "hang_on_token": str(ord("~"))}
    with engine_process(start_command(options=options)) as engine:
        engine.ready()
        engine.admitted(submit(prompt="~"))
        engine.socket.close()
        assert engine.exit_code() == 0


def test_a_closed_socket_ends_the_process_while_it_loads() -> None:
    with engine_process(start_command(options={"load_s": "60"})) as engine:
        assert isinstance(engine.receive(), Loading)
        engine.socket.close()
        assert engine.exit_code() == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [("create_broken", "I99: nothing holds"), ("create_with_a_bug", "a bug of the backend")],
)
def test_an_unexpected_exception_ends_the_process_with_a_traceback(
    function: str, message: str
) -> None:
    start = start_command(backend=f"tests.engine.runtimes:{function}")
    with engine_process(start) as engine:
        if function == "create_broken":
            engine.ready()
            engine.send(submit())
        assert engine.exit_code() == 70
        stderr = engine.stderr()
    assert "Traceback" in stderr
    assert message in stderr


@pytest.mark.parametrize("length", [5, LARGE_PROMPT_CHARACTERS + 1])
def test_a_tokenizer_that_fails_ends_the_process_with_a_traceback(length: int) -> None:
    start = start_command(backend="tests.engine.runtimes:create_with_a_failing_tokenizer")
    with engine_process(start) as engine:
        engine.ready()
        engine.send(submit(prompt="x" * length))
        assert engine.exit_code() == 70
        assert "a bug of the tokenizer" in engine.stderr()


def test_a_command_that_is_none_ends_the_process_with_a_traceback() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.socket.sendall(b"\x01\x00\x00\x00\xc0")
        assert engine.exit_code() == 70
        assert "ValidationError" in engine.stderr()


def test_a_runtime_that_aborts_leaves_its_stack_on_stderr() -> None:
    options = {**FAST, "abort_on_token": str(ord("~"))}
    with engine_process(start_command(options=options)) as engine:
        engine.ready()
        engine.send(submit(prompt="~"))
        assert engine.exit_code() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in engine.stderr()


def test_a_daemon_that_does_not_read_ends_the_process() -> None:
    with engine_process(start_command(context_tokens=64)) as engine:
        engine.ready()
        long_prompt = TextPrompt("x" * 4_000_000)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for call_id in range(200):
                engine.send(Tokenize(call_id, long_prompt))
        assert engine.exit_code() == 74
        assert "unread" in engine.stderr()


def test_an_interrupt_from_the_terminal_is_the_daemons_business() -> None:
    with engine_process() as engine:
        engine.ready()
        engine.process.send_signal(signal.SIGINT)
        engine.admitted(submit())
        assert finished(engine.answer(R)).event.reason is FinishReason.LENGTH
        engine.process.send_signal(signal.SIGTERM)
        assert engine.exit_code() == -signal.SIGTERM


def test_an_engine_process_imports_nothing_of_the_daemon() -> None:
    with engine_process(start_command(backend="tests.engine.runtimes:create_lean")) as engine:
        assert engine.ready().backend == "sim"


def test_the_flight_recorder_names_the_requests_of_the_step_that_hangs() -> None:
    fd = create_page()
    reader = RecordReader(fd)
    options = {**FAST, "hang_on_token": str(ord("~"))}
    with engine_process(start_command(options=options), recorder_fd=fd) as engine:
        os.close(fd)
        engine.ready()
        engine.admitted(submit("good", max_tokens=5))
        engine.answer(RequestId("good"))
        before = reader.read()
        engine.admitted(submit("bad", prompt="~"))
        while not ((record := reader.read()) and record.executing):
            engine.process.poll()
    reader.close()
    assert before is not None
    assert before.executing == frozenset()
    assert before.num_steps_begun >= 5
    assert record.executing == {RequestId("bad")}


def test_sampling_is_used_as_given() -> None:
    sampling = replace(SamplingParams(max_tokens=10), temperature=0.0, seed=1)
    with engine_process() as engine:
        engine.ready()
        engine.admitted(submit("one", sampling=sampling))
        one = token_ids(engine.answer(RequestId("one")))
        engine.admitted(submit("two", sampling=replace(sampling, seed=2)))
        assert token_ids(engine.answer(RequestId("two"))) == one
