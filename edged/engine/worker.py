"""The engine process: `python -m edged.engine.worker --fd N [--recorder-fd M]`.

Theory of operation: the main thread runs asyncio over the inherited socket. It reads commands,
renders and tokenizes prompts (large ones on two threads beside it, so that frames go on), decodes
the tokens of each step and writes all events of a step as one frame. The other thread is the
engine's (`edged.engine.engine_thread`). Every limit on what waits here is checked on arrival: of
requests that the engine has not answered and prompts being tokenized by the desk, of bytes that the
daemon has not read here.

| exit code | why |
|---|---|
| 0 | `Stop`, or the daemon closed the socket: at once, whatever the engine thread is doing |
| 1 | the model could not be loaded; `LoadFailed` was sent |
| 70 | an exception nobody expected; its traceback is on stderr |
| 74 | the daemon does not read what it is sent |

SIGINT is ignored: a Ctrl-C in a terminal reaches the whole process group, and the daemon decides.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Never

from edged.clock import MonotonicClock
from edged.engine.desk import Desk
from edged.engine.engine_thread import EXIT_INTERNAL, EngineThread, StepRecorder
from edged.engine.mailbox import Closed, CloseEngine, EngineReport, Loaded
from edged.engine.recorder import FlightRecorder
from edged.engine.wire import (
    FRAME_HEADER_BYTES,
    Command,
    Event,
    LoadFailed,
    Start,
    Stop,
    decode_command,
    encode_frame,
    frame_length,
)

EXIT_LOAD_FAILED = 1
EXIT_DAEMON_STUCK = 74
"""EX_IOERR of sysexits.h."""
MAX_UNREAD_BYTES = 32 * 1024 * 1024
"""What may wait for the daemon to read, before one more frame."""
CLOSE_S = 5.0
"""Longest wait for the daemon to read the last frames."""
NUM_TEXT_THREADS = 2
SWITCH_INTERVAL_S = 0.0001
"""Longest that one thread keeps the interpreter from another. With chats of 3000 messages being
rendered all the time, steps of 5.7 ms take 22 ms with Python's default of 5 ms, 8.8 ms with 0.5 ms
and 7.7 ms with 0.1 ms (2 cores, 2026-11-22)."""


class Worker:
    """Frames in and out; owned by the I/O thread."""

    def __init__(
        self,
        start: Start,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        recorder: StepRecorder | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._reader = reader
        self._writer = writer
        self._closed: asyncio.Future[int] = loop.create_future()
        self._engine = EngineThread(start, self._forward, MonotonicClock(), recorder)
        self._desk = Desk(
            start,
            post=self._engine.post,
            send=self._send,
            executor=ThreadPoolExecutor(NUM_TEXT_THREADS, "text"),
            run_in_loop=loop.call_soon_threadsafe,
        )

    async def run(self) -> int:
        """Serve until `Stop` or a failed load; the exit code."""
        self._engine.launch()
        reading = asyncio.create_task(self._obey_all())
        await asyncio.wait((reading, self._closed), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        code = await self._closed
        reading.cancel()  # closing the socket below must not look like the daemon's death
        await self._flush()
        return code

    async def _obey_all(self) -> None:
        while not isinstance(command := await read_command(self._reader), Stop):
            assert not isinstance(command, Start), "a second Start"
            self._desk.obey(command)
        if self._desk.is_loaded:
            self._engine.post(CloseEngine())
        else:  # nothing of it is worth closing, and loading may take minutes
            self._close(0)

    def _forward(self, report: EngineReport) -> None:
        """Called on the engine thread."""
        self._loop.call_soon_threadsafe(self._take, report)

    def _take(self, report: EngineReport) -> None:
        """One report of the engine thread."""
        self._engine.taken()
        match report:
            case Closed():
                self._close(0)
            case LoadFailed():
                self._send(report)
                self._close(EXIT_LOAD_FAILED)
            case Loaded():
                self._desk.take(report)
                # What is loaded stays: the collector need not look at it in the middle of a step.
                gc.collect()
                gc.freeze()
            case _:
                self._desk.take(report)

    def _send(self, event: Event) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            print(f"the daemon has left {MAX_UNREAD_BYTES} bytes unread", file=sys.stderr)
            end_process(EXIT_DAEMON_STUCK)
        transport.write(encode_frame(event))

    def _close(self, code: int) -> None:
        if not self._closed.done():
            self._closed.set_result(code)

    async def _flush(self) -> None:
        self._writer.close()
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(self._writer.wait_closed(), CLOSE_S)


async def read_command(reader: asyncio.StreamReader) -> Command:
    """The next command. Does not return when the daemon has closed the socket: that happens only
    when it died, and then this process ends where it stands."""
    try:
        header = await reader.readexactly(FRAME_HEADER_BYTES)
        return decode_command(await reader.readexactly(frame_length(header)))
    except (asyncio.IncompleteReadError, ConnectionError):
        end_process(0)


def end_process(code: int) -> Never:
    """End now, whatever other threads are doing and without closing anything: the system frees
    what a runtime holds faster and more surely than its destructors do."""
    sys.stderr.flush()
    os._exit(code)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """A callback on the I/O thread raised: its state is not to be trusted any more."""
    error = context.get("exception")
    print(context["message"], file=sys.stderr)
    if isinstance(error, BaseException):
        traceback.print_exception(error)
    end_process(EXIT_INTERNAL)


async def serve(fd: int, recorder_fd: int | None) -> int:
    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    start = await read_command(reader)
    assert isinstance(start, Start), f"the first command is {type(start).__name__}, not Start"
    recorder = None if recorder_fd is None else FlightRecorder(recorder_fd, MonotonicClock())
    return await Worker(start, reader, writer, recorder).run()


def main() -> Never:
    """Run one engine until the daemon stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    parser = argparse.ArgumentParser("edged.engine.worker", description="one engine of edged")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the daemon")
    parser.add_argument("--recorder-fd", type=int, help="the memory of the flight recorder")
    arguments = parser.parse_args()
    try:
        code = asyncio.run(serve(arguments.fd, arguments.recorder_fd))
    except BaseException:  # whatever it was: the engine thread must not keep the process alive
        traceback.print_exc()
        code = EXIT_INTERNAL
    end_process(code)


if __name__ == "__main__":
    main()
