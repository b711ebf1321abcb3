"""One engine process: its birth, its socket, its flight recorder, its output and its end.

Theory of operation: the process is spawned, never forked, into a group of its own, so that a Ctrl-C
in the terminal reaches the daemon alone. It inherits one end of a socket pair and the recorder's
page. Nothing else connects it to the daemon: when the daemon dies, whatever way, the socket ends,
and the engine ends itself.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

import psutil

from edged.engine.recorder import RecordReader, create_page
from edged.engine.wire import Command, Event
from edged.log import Logger
from edged.supervise.channel import FrameChannel
from edged.supervise.output import OutputTail

OUTPUT_END_S = 1.0
"""Longest wait for the last output of a process that has ended; a child of it may hold the pipe."""
_STOPPED = frozenset({psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP})


class EngineProcess:
    """Belongs to whoever spawned it, who must `close` it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: FrameChannel,
        output: OutputTail,
        recorder: RecordReader,
    ) -> None:
        self._process = process
        self._channel = channel
        self._output = output
        self.recorder = recorder

    @classmethod
    async def spawn(
        cls, argv: Sequence[str], log: Logger, on_writable: Callable[[], None]
    ) -> "EngineProcess":
        """Start `argv --fd N --recorder-fd M`.

        Raises:
            OSError: the program cannot be started, or a resource has run out. Nothing is left.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            our_socket, their_socket = socket.socketpair()
            theirs.callback(their_socket.close)
            ours.callback(our_socket.close)
            read_end, write_end = os.pipe()
            theirs.callback(os.close, write_end)
            output = await OutputTail.open(read_end, log)
            ours.callback(output.close)
            channel = await FrameChannel.open(our_socket, on_writable)
            ours.callback(channel.close)
            page = create_page()
            theirs.callback(os.close, page)
            recorder = RecordReader(page)
            ours.callback(recorder.close)
            process = await asyncio.create_subprocess_exec(
                *argv,
                "--fd",
                str(their_socket.fileno()),
                "--recorder-fd",
                str(page),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=(their_socket.fileno(), page),
                process_group=0,
            )
            ours.pop_all()
        return cls(process, channel, output, recorder)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """The end of what it has written to standard output and error."""
        return self._output.text

    @property
    def is_writable(self) -> bool:
        return self._channel.is_writable

    def send(self, command: Command) -> None:
        """As `FrameChannel.send`."""
        self._channel.send(command)

    async def receive(self) -> Event | None:
        """As `FrameChannel.receive`."""
        return await self._channel.receive()

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        try:
            return psutil.Process(self.pid).status() in _STOPPED
        except psutil.Error:
            return False

    def kill(self) -> None:
        """End it and its children now; nothing if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self, timeout_s: float) -> int | None:
        """Its exit code, negative for a signal; None when it still runs after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._process.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(OUTPUT_END_S):
                        await self._output.wait_closed()
        except TimeoutError:
            return self._process.returncode
        return code

    async def close(self) -> None:
        """Leave nothing of it: kill it if it runs, and take its exit code from the system."""
        self.kill()
        self._channel.close()
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            await ended  # not long, as it was killed; else a zombie would be left
            raise
        finally:
            self._output.close()
            self.recorder.close()
