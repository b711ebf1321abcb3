"""Frames to and from one engine process, over its socket; what waits to be sent is bounded."""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from edged.engine.wire import (
    FRAME_HEADER_BYTES,
    Command,
    Event,
    decode_event,
    encode_frame,
    frame_length,
)
from edged.supervise.exits import EngineGarbageError

MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""Past this the channel is not writable. A frame that was begun below it still goes."""
READ_AHEAD_BYTES = 256 * 1024
"""The stream reads at most twice as much ahead of whoever takes the frames."""


class _Protocol(asyncio.StreamReaderProtocol):
    """The standard one, which also says when writing can go on."""

    def __init__(self, reader: asyncio.StreamReader, on_writable: Callable[[], None]) -> None:
        super().__init__(reader)
        self.is_paused = False
        self._on_writable = on_writable

    def pause_writing(self) -> None:
        super().pause_writing()
        self.is_paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.is_paused = False
        self._on_writable()


class FrameChannel:
    """The daemon's end of the socket; a `CommandSink`."""

    def __init__(
        self, reader: asyncio.StreamReader, protocol: _Protocol, transport: asyncio.Transport
    ) -> None:
        self._reader = reader
        self._protocol = protocol
        self._transport = transport

    @classmethod
    async def open(cls, sock: socket.socket, on_writable: Callable[[], None]) -> "FrameChannel":
        """Take over a connected socket. `on_writable` is called whenever writing can go on."""
        reader = asyncio.StreamReader(limit=READ_AHEAD_BYTES)
        protocol = _Protocol(reader, on_writable)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=sock)
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        return cls(reader, protocol, transport)

    @property
    def is_writable(self) -> bool:
        return not self._protocol.is_paused and not self._transport.is_closing()

    def send(self, command: Command) -> None:
        """Queue a command. To an engine that is gone it is dropped: its loss is noticed by
        `receive`. Only commands of which there is at most one for each request, or each change of
        the configuration, may be sent while the channel is not writable."""
        if not self._transport.is_closing():
            self._transport.write(encode_frame(command))

    async def receive(self) -> Event | None:
        """The next event; None when the engine has closed its end.

        Raises:
            EngineGarbageError: it sent what is no event. Nothing more can be received.
        """
        try:
            header = await self._reader.readexactly(FRAME_HEADER_BYTES)
            return decode_event(await self._reader.readexactly(frame_length(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except (ValueError, msgspec.MsgspecError) as error:
            raise EngineGarbageError(f"sent what is no event: {error}") from error

    def close(self) -> None:
        """Drop what waits. An engine that still lives sees its socket end, and ends itself."""
        self._transport.abort()
