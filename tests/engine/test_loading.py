"""An engine process before its model is loaded, and models that cannot be."""

import pytest

from edged.engine.wire import (
    Event,
    Inspect,
    Inspected,
    LoadFailed,
    Loading,
    Ready,
    Refusal,
    RequestRefused,
    Stop,
    TextPrompt,
    Tokenize,
    Tokenized,
)
from edged.errors import Reason
from tests.engine.process import FAST, engine_process, start_command, submit
from tests.engine.runtimes import HOST_LEFT_BYTES


def test_loading_reports_its_progress_and_what_was_loaded() -> None:
    options = {**FAST, "load_s": "0.5"}
    with engine_process(start_command(options=options)) as engine:
        seen = []
        while isinstance(event := engine.receive(), Loading):
            seen.append(event.progress)
    assert isinstance(event, Ready)
    assert (event.backend, event.device, event.kv.num_slots) == ("sim", "cpu", 4)
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


def test_scarce_memory_and_other_warnings_are_told_with_what_was_loaded() -> None:
    with engine_process(start_command(backend="tests.engine.runtimes:create_scarce")) as engine:
        told = engine.ready()
    assert told.snapshot_bytes == HOST_LEFT_BYTES
    slow, scarce = told.warnings
    assert slow == "the device is slow"
    assert scarce.startswith("saved KV can have 5 MiB of host memory, not ")


def test_an_engine_process_imports_nothing_of_the_daemon() -> None:
    with engine_process(start_command(backend="tests.engine.runtimes:create_lean")) as engine:
        assert engine.ready().backend == "sim"
