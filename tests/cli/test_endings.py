"""How edgectl ends when things go wrong: one sentence on stderr, and a code for scripts."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from edged.cli.talk import MAX_PROMPT_BYTES
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.v1 import admin_pb2
from tests.cli.fake_daemon import WAIT_S, FakeDaemon, Served, admitted, delta
from tests.cli.program import Program


@pytest.fixture
def alone(environ: dict[str, str]) -> Program:
    """edgectl without a daemon."""
    return Program("edgectl", environ)


def unused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_no_daemon_is_unreachable_and_says_what_to_do(alone: Program) -> None:
    address = unused_address()
    done = alone.run("--host", address, "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"edgectl: no daemon answers at {address}; start one with `edged serve`, "
        "or name another with --host\n"
    )


def test_a_socket_that_is_not_there_is_unreachable(alone: Program) -> None:
    done = alone.run("--host", "unix:/nonexistent/edged.sock", "run", "Hi")
    assert done.returncode == 3


def test_version_tells_its_own_even_when_nobody_answers(alone: Program) -> None:
    done = alone.run("--host", unused_address(), "version", "--json")
    assert done.returncode == 3
    assert '"server": null' in done.stdout


def test_a_daemon_that_does_not_answer_in_time_is_unreachable(
    edgectl: Program, daemon: FakeDaemon, served: Served
) -> None:
    daemon.stalls_status = True
    done = edgectl.run("--timeout", "0.2", "status")
    assert (done.returncode, done.stderr) == (
        3,
        f"edgectl: the daemon at {served.address} did not answer within 0.2 s\n",
    )


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            EdgedError(Reason.QUEUE_FULL, "tier batch has 4096 waiting", retry_after_s=2.5),
            4,
            "tier batch has 4096 waiting; try again in 2.5 s",
        ),
        (
            EdgedError(Reason.CLIENT_SHARE, "16 of yours wait", retry_after_s=1.0),
            4,
            "16 of yours wait; try again in 1 s",
        ),
        (
            EdgedError(Reason.QUEUE_TIMEOUT, "waited 30 s", retry_after_s=1.0),
            4,
            "waited 30 s; try again in 1 s",
        ),
        (EdgedError(Reason.SLOW_READER, "read too slowly"), 1, "read too slowly"),
        (
            EdgedError(Reason.DRAINING, "the daemon is draining.", retry_after_s=5),
            1,
            "the daemon is draining; try again in 5 s",
        ),
        (EdgedError(Reason.UNKNOWN_MODEL, "there is no model 'x'"), 1, "there is no model 'x'"),
        (
            InvalidRequestError("sampling.top_p", "2 is not in (0, 1]"),
            1,
            "sampling.top_p: 2 is not in (0, 1]",
        ),
        (EdgedError(Reason.DEADLINE_EXCEEDED, "1 s is over"), 1, "1 s is over"),
        (
            EdgedError(Reason.POISONED_REQUEST, "it took 2 engines down"),
            1,
            "it took 2 engines down",
        ),
    ],
)
def test_an_error_of_the_daemon_is_told_in_its_words(
    edgectl: Program, daemon: FakeDaemon, error: EdgedError, code: int, sentence: str
) -> None:
    daemon.answers = []
    daemon.error = error
    done = edgectl.run("run", "Hi")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"edgectl: {sentence}\n"


def test_a_connection_that_breaks_in_an_answer_is_unreachable(
    edgectl: Program, daemon: FakeDaemon, served: Served
) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    running = edgectl.start("run", "Hi")
    with running:
        assert running.stdout is not None
        running.stdout.read(5)
        served.stop()
        _, errors = running.communicate(timeout=WAIT_S)
    assert running.returncode == 3
    assert errors.decode() == (
        f"edgectl: the connection to the daemon at {served.address} was lost\n"
    )


def test_an_answer_that_takes_too_long_is_an_error(edgectl: Program, daemon: FakeDaemon) -> None:
    daemon.holds = True
    daemon.answers = [admitted(), delta(0, "Hello")]
    done = edgectl.run("run", "Hi", "--timeout", "1")
    assert (done.returncode, done.stdout) == (1, "Hello\n")
    assert done.stderr == "edgectl: the answer took longer than the 1 s it may take\n"
    assert daemon.cancelled.wait(WAIT_S)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("run",),
        ("run", ""),
        ("run", "Hi", "--tier", "urgent"),
        ("run", "Hi", "--max-tokens", "0"),
        ("run", "Hi", "--raw", "--system", "x"),
        ("status", "--host", "no:port"),
        ("--host", "unix:", "status"),
    ],
)
def test_wrong_usage_is_told_and_has_a_code_of_its_own(
    alone: Program, arguments: tuple[str, ...]
) -> None:
    done = alone.run(*arguments, EDGED_HOST="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["edged", "edgectl"])
def test_ctrl_c_is_quiet_while_a_program_still_imports(
    name: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    slow = "import sys\nprint('importing', flush=True)\nsys.stdin.read()\n"
    (tmp_path / "typer.py").write_text(slow)
    running = Program(name, {**environ, "PYTHONPATH": str(tmp_path)}).start("--help")
    assert running.stdout is not None
    assert running.stdout.readline() == b"importing\n"
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=WAIT_S)
    assert (running.returncode, told) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("name", ["edged", "edgectl"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_defect(name: str, closed: str, environ: dict[str, str]) -> None:
    program = Program(name, environ)
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" --help {closed}', program.path],
        capture_output=True,
        env=environ,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [("run", "\udcff"), ("status", "--host", "\udcff:1")])
def test_arguments_that_are_no_utf8_are_wrong_usage(
    alone: Program, arguments: tuple[str, ...]
) -> None:
    done = alone.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'\\udcff" in done.stderr
    assert "is not UTF-8" in done.stderr


def test_a_message_that_is_too_large_is_an_error_and_no_overload(edgectl: Program) -> None:
    done = edgectl.run("run", "-", stdin="a" * MAX_PROMPT_BYTES)
    assert (done.returncode, done.stdout) == (1, "")
    assert "larger than max" in done.stderr


def test_help_documents_the_exit_codes(alone: Program) -> None:
    shown = " ".join(alone.run("--help").stdout.split())
    for text in ("0 ok", "1 error", "2 wrong usage", "3 no daemon", "4 overloaded", "130 inter"):
        assert text in shown


def test_a_reader_that_has_enough_is_no_error(edgectl: Program, daemon: FakeDaemon) -> None:
    # More than a pipe holds, so that the writer meets the closed pipe for certain.
    daemon.requests = [admin_pb2.RequestInfo(request_id=f"{number:064}") for number in range(2000)]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{edgectl.path} ps | head -1"],
        env=dict(edgectl.environ),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split()[0] == b"ID"


def test_what_is_not_a_daemon_is_told_without_a_traceback(alone: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        running = alone.start("--host", address, "--timeout", "5", "status")
        with running:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.shutdown(socket.SHUT_RDWR)
            _, errors = running.communicate(timeout=WAIT_S)
    assert running.returncode == 3
    assert errors.decode().startswith(f"edgectl: no daemon answers at {address}")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("edgectl run --model ", "tiny"),
        ("edgectl models load ", "tiny"),
        ("edgectl cancel ", "a1b2c3d4"),
    ],
)
def test_completion_asks_the_daemon(
    edgectl: Program, daemon: FakeDaemon, words: str, offered: str
) -> None:
    daemon.requests = [admin_pb2.RequestInfo(request_id="a1b2c3d4", client="app")]
    num_words = len(words.split())
    done = edgectl.run(
        _EDGECTL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(num_words)
    )
    assert done.stdout.splitlines() == [offered]


def test_completion_without_a_daemon_offers_nothing(alone: Program) -> None:
    done = alone.run(
        _EDGECTL_COMPLETE="complete_bash",
        COMP_WORDS="edgectl cancel ",
        COMP_CWORD="2",
        EDGED_HOST=unused_address(),
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_knows_the_tiers(alone: Program) -> None:
    done = alone.run(
        _EDGECTL_COMPLETE="complete_bash", COMP_WORDS="edgectl run --tier ", COMP_CWORD="3"
    )
    assert done.stdout.split() == ["interactive", "standard", "batch"]
