"""One engine process: what it inherits, what is kept of it, and that nothing of it is left."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil
import pytest

from edged.clock import MonotonicClock
from edged.core.types import FinishReason, RequestId
from edged.engine.wire import Cancel, Inspected, TextPrompt, Tokenize
from edged.errors import EdgedError, Reason
from edged.log import Logger, get_logger
from edged.supervise.calls import MAX_CALLS, PendingCalls
from edged.supervise.channel import MAX_UNSENT_BYTES
from edged.supervise.output import MAX_LINE_BYTES, MAX_TAIL_BYTES, OutputTail
from edged.supervise.process import EngineProcess
from edged.supervise.spec import WORKER
from tests.supervise.harness import children, stub

ROOT = Path(__file__).parent.parent.parent

DAEMON = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from edged.clock import MonotonicClock
from edged.supervise.fleet import Fleet
from edged.engine.wire import TokensPrompt
from edged.supervise.stream import StreamAdmitted
from tests.supervise import harness, test_real_worker

async def main():
    hanging = test_real_worker.sim(hang_on_token=255)
    specs = [harness.spec("stub"), harness.spec("sim", worker=hanging.worker, start=hanging.start)]
    fleet = Fleet(specs, "stub", MonotonicClock())
    for spec in specs:
        await fleet.load(spec.name)
    stream = fleet.submit("sim", harness.submission("r", prompt=TokensPrompt((255,))))
    assert isinstance(await anext(aiter(stream)), StreamAdmitted)
    while any(status.ready is None for status in fleet.status()):
        await fleet.wait_for_change()
    print(*(status.engine_pid for status in fleet.status()), file=sys.stderr, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class OutputLog:
    """A log that keeps the lines of output it is given, and tells when there are more."""

    lines: list[str] = field(default_factory=list)
    _written: asyncio.Event = field(default_factory=asyncio.Event)

    def debug(self, event: str, *, line: str) -> None:
        assert event == "engine output"
        self.lines.append(line)
        self._written.set()

    async def wait_for(self, line: str) -> None:
        async with asyncio.timeout(20.0):
            while line not in self.lines:
                self._written.clear()
                await self._written.wait()


@asynccontextmanager
async def engine(*argv: str, log: OutputLog | None = None) -> AsyncIterator[EngineProcess]:
    before = children()
    logger = get_logger("test") if log is None else cast(Logger, log)
    process = await EngineProcess.spawn(argv, logger, lambda: None)
    try:
        yield process
    finally:
        await process.close()
    assert children() == before


def script(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_engines_end_when_the_daemon_is_killed() -> None:
    """One idle engine, and a production one in the middle of a step that does not end."""
    command = (*script(DAEMON), str(ROOT))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        try:
            engines = [psutil.Process(int(pid)) for pid in daemon.stderr.readline().split()]
        finally:
            daemon.kill()
    assert len(engines) == 2
    _, alive = psutil.wait_procs(engines, timeout=20)
    for process in alive:
        process.kill()
    assert not alive, "an engine has outlived its daemon"


async def test_engine_has_a_process_group_of_its_own() -> None:
    async with engine(*stub()) as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)


async def test_engine_reads_nothing_from_the_terminal() -> None:
    code = "import sys; sys.exit(len(sys.stdin.read()))"
    async with engine(*script(code)) as process:
        assert await process.wait(20.0) == 0


async def test_exit_code_and_output_are_kept() -> None:
    code = "import os; print('one', flush=True); os.write(2, b'two'); os._exit(7)"
    async with engine(*script(code)) as process:
        assert await process.receive() is None
        assert await process.wait(20.0) == 7
        assert process.output == "one\ntwo"


async def test_end_of_the_output_is_kept_and_no_more() -> None:
    code = "import os, sys; sys.stderr.write('x' * 300_000 + 'the end'); sys.stderr.flush()"
    async with engine(*script(code)) as process:
        assert await process.wait(20.0) == 0
        assert len(process.output) == MAX_TAIL_BYTES
        assert process.output.endswith("xthe end")


async def test_wait_gives_up_on_a_process_that_runs_on() -> None:
    async with engine(*stub()) as process:
        assert await process.wait(0.01) is None


async def test_children_of_an_engine_end_with_it() -> None:
    """The context looks for processes that are left; here is one that would be."""
    code = (
        "import os, signal; os.write(1, b'child\\n' if os.fork() else b'parent\\n'); signal.pause()"
    )
    log = OutputLog()
    async with engine(*script(code), log=log) as process:
        await log.wait_for("child")
        await log.wait_for("parent")
        assert len(psutil.Process(process.pid).children()) == 1


async def test_stopped_process_is_seen_to_be_stopped() -> None:
    async with engine(*stub()) as process:
        assert not process.is_stopped()
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert process.is_stopped()


async def test_channel_to_an_engine_that_does_not_read_fills_up_to_its_limit() -> None:
    async with engine(*stub()) as process:
        os.kill(process.pid, signal.SIGSTOP)
        prompt = TextPrompt("x" * (MAX_UNSENT_BYTES // 4))
        num_sent = 0
        while process.is_writable:
            process.send(Tokenize(num_sent, prompt))
            num_sent += 1
            assert num_sent < 8
        process.send(Cancel(RequestId("r"), FinishReason.CANCELLED))


async def test_command_to_an_engine_that_is_gone_is_dropped() -> None:
    async with engine(*script("pass")) as process:
        await process.wait(20.0)
        assert await process.receive() is None
        for _ in range(3):
            process.send(Cancel(RequestId("r"), FinishReason.CANCELLED))
            await asyncio.sleep(0)


async def test_program_that_does_not_exist_leaves_nothing_open() -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        await EngineProcess.spawn(("/nonexistent/engine",), get_logger("test"), lambda: None)
    await asyncio.sleep(0)
    assert psutil.Process().num_fds() == before


async def test_processes_leave_no_descriptor_open() -> None:
    async with engine(*script("pass")) as process:
        await process.wait(20.0)
    before = psutil.Process().num_fds()
    for _ in range(3):
        async with engine(*script("pass")) as process:
            await process.wait(20.0)
    await asyncio.sleep(0)
    assert psutil.Process().num_fds() == before


async def test_worker_starts_with_warnings_as_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    async with engine(*WORKER) as process:
        process.send(Cancel(RequestId("r"), FinishReason.CANCELLED))
        assert await process.receive() is None
        assert await process.wait(20.0) == 70
        assert "the first command is Cancel, not Start" in process.output


@pytest.mark.parametrize("num_bytes", [MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES])
@pytest.mark.parametrize("end", ["", "\n"])
async def test_line_of_output_is_logged_in_pieces_of_the_longest_line(
    num_bytes: int, end: str
) -> None:
    """It arrives whole; its end may be that of the output, or a newline."""
    log = OutputLog()
    read_end, write_end = os.pipe()
    tail = await OutputTail.open(read_end, cast(Logger, log))
    os.write(write_end, b"before\n" + b"y" * num_bytes + end.encode())
    os.close(write_end)
    await tail.wait_closed()
    tail.close()
    before, *pieces = log.lines
    assert before == "before"
    assert "".join(pieces) == "y" * num_bytes
    assert len(pieces) == -(-num_bytes // MAX_LINE_BYTES)
    assert max(map(len, pieces)) == MAX_LINE_BYTES


async def test_line_of_output_that_never_ends_is_logged_as_it_comes() -> None:
    log = OutputLog()
    read_end, write_end = os.pipe()
    tail = await OutputTail.open(read_end, cast(Logger, log))
    os.write(write_end, b"y" * (MAX_LINE_BYTES + 1))
    await log.wait_for("y" * MAX_LINE_BYTES)
    os.write(write_end, b"z\n")
    await log.wait_for("yz")
    os.close(write_end)
    await tail.wait_closed()
    tail.close()
    assert log.lines == ["y" * MAX_LINE_BYTES, "yz"]
    assert tail.text == "y" * (MAX_LINE_BYTES + 1) + "z\n"


async def test_calls_that_wait_are_bounded() -> None:
    calls: PendingCalls[Inspected] = PendingCalls("list of requests", MonotonicClock())
    sent: list[int] = []
    waiting = [asyncio.ensure_future(calls.ask(sent.append, 20.0)) for _ in range(MAX_CALLS)]
    await asyncio.sleep(0)
    with pytest.raises(EdgedError, match="1024 calls wait") as raised:
        await calls.ask(sent.append, 20.0)
    assert raised.value.reason is Reason.QUEUE_FULL
    calls.answer(sent[0], Inspected(sent[0], ()))
    assert await waiting[0] == Inspected(0, ())
    calls.fail_all(EdgedError(Reason.ENGINE_LOST, "gone"))
    for call in waiting[1:]:
        with contextlib.suppress(EdgedError):
            await call
        assert isinstance(call.exception(), EdgedError)
    calls.answer(sent[0], Inspected(sent[0], ()))
