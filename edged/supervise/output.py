"""What an engine process writes to its standard output and error: the end of it, and the log."""

import asyncio
import os

from edged.log import Logger

MAX_TAIL_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 1024
"""A longer line is logged in pieces."""


class OutputTail(asyncio.Protocol):
    """Keeps the last `MAX_TAIL_BYTES`; each line goes to the log at debug."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._tail = bytearray()
        self._line = bytearray()
        self._transport: asyncio.BaseTransport | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def open(cls, fd: int, log: Logger) -> "OutputTail":
        """Take over the reading end of a pipe."""
        tail = cls(log)
        pipe = os.fdopen(fd, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: tail, pipe)
        return tail

    @property
    def text(self) -> str:
        return self._tail.decode(errors="replace")

    async def wait_closed(self) -> None:
        """Returns when nobody can write any more."""
        await self._closed.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # ── asyncio.Protocol ─────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-MAX_TAIL_BYTES]
        self._line += data
        *lines, rest = self._line.split(b"\n")
        self._line = rest
        for line in lines:
            self._write(line)
        while len(self._line) > MAX_LINE_BYTES:
            self._write(self._line[:MAX_LINE_BYTES])
            del self._line[:MAX_LINE_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._line:
            self._write(self._line)
        self._closed.set()

    def _write(self, line: bytearray) -> None:
        for start in range(0, len(line), MAX_LINE_BYTES):
            piece = line[start : start + MAX_LINE_BYTES]
            if piece.strip():
                self._log.debug("engine output", line=piece.decode(errors="replace").rstrip())
