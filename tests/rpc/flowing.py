"""A hostile client that keeps to the rules of flow control: the more the server lets come, the more
it sends, of messages that never become whole.
"""

import asyncio
import contextlib

from tests.rpc import wire
from tests.rpc.assault import Target
from tests.rpc.wire import GENERATE, Kind

START_WINDOW_BYTES = 65_535
CHUNK = b"x" * wire.DEFAULT_FRAME_BYTES


class NearlyWhole:
    """One connection with many calls, each with all of a long message but its last byte."""

    def __init__(self, target: Target, *, num_calls: int, message_bytes: int) -> None:
        self._target = target
        self._stream_ids = range(1, 2 * num_calls, 2)
        self._message_bytes = message_bytes
        self._room = START_WINDOW_BYTES
        self._start_window = START_WINDOW_BYTES
        self._rooms = dict.fromkeys(self._stream_ids, START_WINDOW_BYTES)
        self._left = dict.fromkeys(self._stream_ids, message_bytes - 1)
        self.num_bytes = 0
        """Sent so far."""

    async def send(self, for_s: float) -> None:
        """Send whatever the server lets come, for so long."""
        reader, writer = await self._target.connect()
        try:
            writer.write(wire.opening())
            for stream_id in self._stream_ids:
                writer.write(self._target.caller.call(GENERATE, stream_id))
                promise = bytes(1) + self._message_bytes.to_bytes(4)
                self._write(writer, stream_id, promise)
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(for_s):
                    while True:
                        await self._fill(writer)
                        await self._hear(reader, writer)
        finally:
            writer.transport.abort()

    def _write(self, writer: asyncio.StreamWriter, stream_id: int, content: bytes) -> None:
        writer.write(wire.data(content, stream_id, is_last=False))
        self._room -= len(content)
        self._rooms[stream_id] -= len(content)
        self.num_bytes += len(content)

    async def _fill(self, writer: asyncio.StreamWriter) -> None:
        for stream_id in self._stream_ids:
            while True:
                size = min(self._room, self._rooms[stream_id], self._left[stream_id], len(CHUNK))
                if size <= 0:
                    break
                self._write(writer, stream_id, CHUNK[:size])
                self._left[stream_id] -= size
                await writer.drain()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(header[:3]))
        stream_id = int.from_bytes(header[5:9])
        match header[3]:
            case Kind.WINDOW_UPDATE if stream_id == 0:
                self._room += int.from_bytes(payload)
            case Kind.WINDOW_UPDATE:
                self._rooms[stream_id] += int.from_bytes(payload)
            case Kind.SETTINGS:
                self._take_settings(payload)
            case Kind.RST_STREAM | Kind.HEADERS:
                self._left[stream_id] = 0
            case Kind.PING if not header[4] & wire.ACK:
                writer.write(wire.frame(Kind.PING, payload, flags=wire.ACK))

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2]) == wire.INITIAL_WINDOW_SIZE:
                window = int.from_bytes(payload[at + 2 : at + 6])
                for stream_id in self._rooms:
                    self._rooms[stream_id] += window - self._start_window
                self._start_window = window
