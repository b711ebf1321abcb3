"""How an engine process ends: told to, left alone, or with what went wrong on stderr."""

import contextlib
import signal

import pytest

from edged.core.types import FinishReason
from edged.engine.desk import LARGE_PROMPT_CHARACTERS
from edged.engine.wire import Loading, Stop, TextPrompt, Tokenize
from tests.engine.process import FAST, R, engine_process, finished, start_command, submit


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
