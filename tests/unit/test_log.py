"""What log lines look like, and what they never hold."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from edged.core.types import (
    ClientId,
    FinishEvent,
    FinishReason,
    RequestId,
    RequestTimings,
    SloTier,
)
from edged.log import (
    MAX_FOREIGN_LINES_PER_MINUTE,
    LogFormat,
    configure_logging,
    get_logger,
    log_finished,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's own, so what a test configures is taken back."""
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("edged").setLevel(logging.NOTSET)
    logging.raiseExceptions = raises


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def finished(reason: FinishReason, detail: str = "") -> FinishEvent:
    timings = RequestTimings(0.10049, 0.25, 0.012345, 1.5, 2, 1, True, None)
    return FinishEvent(RequestId("r1"), reason, 70, 24, timings, detail)


def test_off_a_terminal_a_line_is_json_with_the_event_first(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    get_logger("rpc").info("daemon ready", listen="127.0.0.1:7411")
    (line,) = lines(stream)
    assert list(line)[:4] == ["event", "at", "level", "component"]
    assert (line["event"], line["component"], line["listen"]) == (
        "daemon ready",
        "rpc",
        "127.0.0.1:7411",
    )


def test_on_a_terminal_a_line_is_for_the_eye() -> None:
    terminal = Terminal()
    configure_logging(stream=terminal)
    get_logger("rpc").info("daemon ready")
    assert "daemon ready" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()


def test_no_color_takes_the_colour_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure_logging(stream=terminal)
    get_logger("rpc").info("daemon ready")
    assert "\x1b[" not in terminal.getvalue()


def test_the_format_can_be_named(stream: io.StringIO) -> None:
    terminal = Terminal()
    configure_logging(log_format=LogFormat.JSON, stream=terminal)
    get_logger("rpc").info("one")
    assert lines(terminal)[0]["event"] == "one"
    configure_logging(log_format="console", stream=stream)
    get_logger("rpc").info("two")
    assert not stream.getvalue().startswith("{")


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure_logging("warning", stream=stream)
    get_logger("rpc").info("no")
    get_logger("rpc").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_other_libraries_are_heard_from_warning_on(stream: io.StringIO) -> None:
    configure_logging("debug", stream=stream)
    logging.getLogger("asyncio").info("no")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    assert [line["event"] for line in lines(stream)] == ["slow callback"]


def test_a_line_break_in_a_value_makes_no_second_line(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    get_logger("rpc").info("call", client='a\n{"event": "forged"}')
    assert len(lines(stream)) == 1


def test_an_exception_is_part_of_its_line(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    try:
        raise ValueError("odd")
    except ValueError:
        get_logger("rpc").exception("failed")
    (line,) = lines(stream)
    assert "ValueError: odd" in str(line["exception"])


def test_a_stream_that_is_gone_stops_nobody(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    stream.close()
    get_logger("rpc").info("into the void")


def test_a_later_call_replaces_the_first(stream: io.StringIO) -> None:
    first = io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=stream)
    get_logger("rpc").info("once")
    assert (first.getvalue(), len(lines(stream))) == ("", 1)


def test_a_finished_request_has_one_line_with_all_its_figures(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    log_finished(
        get_logger("rpc"),
        model="m",
        tier=SloTier.BATCH,
        client=ClientId("app"),
        event=finished(FinishReason.STOP),
    )
    (line,) = lines(stream)
    del line["at"]
    assert line == {
        "event": "request finished",
        "level": "info",
        "component": "rpc",
        "request_id": "r1",
        "model": "m",
        "tier": "batch",
        "client": "app",
        "reason": "stop",
        "prompt_tokens": 70,
        "cached_tokens": 0,
        "generated_tokens": 24,
        "queue_s": 0.1,
        "ttft_s": 0.25,
        "tpot_s": 0.0123,
        "total_s": 1.5,
        "preemptions": 2,
        "losses": 1,
    }


def test_a_request_that_ended_in_an_error_is_a_warning_that_tells_why(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    log_finished(
        get_logger("rpc"),
        model="m",
        tier=SloTier.BATCH,
        client=ClientId("app"),
        event=finished(FinishReason.ERROR, "it took two engines down"),
    )
    (line,) = lines(stream)
    assert (line["level"], line["detail"]) == ("warning", "it took two engines down")


def test_another_level_holds_for_loggers_that_were_bound_before(stream: io.StringIO) -> None:
    configure_logging("info", stream=stream)
    bound = get_logger("supervise").bind(model="m")
    bound.debug("not yet")
    configure_logging("debug", stream=stream)
    bound.debug("now")
    configure_logging("error", stream=stream)
    bound.warning("no more")
    assert [line["event"] for line in lines(stream)] == ["now"]


def test_a_library_has_so_many_lines_a_minute(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    for number in range(MAX_FOREIGN_LINES_PER_MINUTE + 10):
        _at_minute("grpc.aio", 1, f"line {number}")
    _at_minute("asyncio", 1, "another library")
    get_logger("rpc").info("our own")
    _at_minute("grpc.aio", 2, "the next minute")
    events = [line["event"] for line in lines(stream)]
    assert events[0] == "line 0"
    told = "grpc has too much to say; the rest of this minute is not logged"
    after = ["another library", "our own", "the next minute"]
    assert events[MAX_FOREIGN_LINES_PER_MINUTE - 1 :] == [told, *after]


def _at_minute(name: str, minute: int, text: str) -> None:
    logger = logging.getLogger(name)
    record = logger.makeRecord(name, logging.ERROR, __file__, 1, text, (), None)
    record.created = 60.0 * minute
    logger.handle(record)
