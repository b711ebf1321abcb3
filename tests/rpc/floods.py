"""As many frames as a socket takes: connections that send without end, one after the other.

`tests.rpc.bursts` shows a server every kind of wrong; this shows it how much of one there can be.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.rpc import wire
from tests.rpc.assault import Target
from tests.rpc.wire import GENERATE, Caller, Kind

NUM_PARTS = 20_000
"""Of one connection; then another is made."""
SEND_BYTES = 65_536
TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Flood:
    content: bytes
    num_frames: int


def _calls(part: Callable[[int], bytes], frames_each: int) -> Flood:
    parts = (part(stream_id) for stream_id in range(1, 2 * NUM_PARTS, 2))
    return Flood(wire.opening() + b"".join(parts), frames_each * NUM_PARTS)


def _repeated(frame: bytes, before: bytes = b"") -> Flood:
    return Flood(wire.opening() + before + frame * NUM_PARTS, NUM_PARTS)


def flood(name: str, caller: Caller) -> Flood:
    """One of `FLOODS`."""
    block = caller.block(GENERATE)
    match name:
        case "resets":
            return _calls(lambda one: caller.call(GENERATE, one) + wire.reset(one), 2)
        case "no requests":
            return _calls(lambda one: caller.whole_call(GENERATE, one, b"\xff\xff"), 2)
        case "unknown methods":
            return _calls(lambda one: caller.whole_call("/no/such", one, b""), 2)
        case "pings":
            return _repeated(wire.frame(Kind.PING, bytes(8)))
        case "settings":
            return _repeated(wire.settings((3, 100)))
        case "continuations":
            more = wire.frame(Kind.CONTINUATION, wire.field("x", "y" * 1000), stream_id=1)
            return _repeated(more, wire.frame(Kind.HEADERS, block, stream_id=1))
        case "empty data":
            return _repeated(wire.frame(Kind.DATA, stream_id=1), caller.call(GENERATE, 1))
    raise ValueError(f"there is no flood {name!r}; expected one of {FLOODS}")


FLOODS = (
    *("resets", "no requests", "unknown methods", "pings", "settings", "continuations"),
    "empty data",
)


class Flooder:
    """So many connections at once, each on a thread."""

    def __init__(self, target: Target, content: Flood) -> None:
        self._target = target
        self._content = content
        self._end_s = 0.0
        self.num_bytes = 0
        self.num_connections = 0
        self._lock = threading.Lock()

    @property
    def num_frames(self) -> int:
        return self.num_bytes * self._content.num_frames // len(self._content.content)

    def run(self, for_s: float, num_connections: int) -> None:
        self._end_s = time.monotonic() + for_s
        threads = [threading.Thread(target=self._go_on) for _ in range(num_connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _go_on(self) -> None:
        while time.monotonic() < self._end_s:
            num_bytes = 0
            try:
                with self._connect() as connection:
                    reading = threading.Thread(target=_read, args=(connection,), daemon=True)
                    reading.start()
                    rest = memoryview(self._content.content)
                    while rest and time.monotonic() < self._end_s:
                        sent = connection.send(rest[:SEND_BYTES])
                        rest, num_bytes = rest[sent:], num_bytes + sent
            except OSError:
                pass
            with self._lock:
                self.num_bytes += num_bytes
                self.num_connections += 1

    def _connect(self) -> socket.socket | ssl.SSLSocket:
        plain = socket.create_connection((self._target.host, self._target.port), TIMEOUT_S)
        return plain if self._target.tls is None else self._target.tls.wrap_socket(plain)


def _read(connection: socket.socket) -> None:
    """Take what is answered, so that it is not that which stops the flood."""
    try:
        while connection.recv(SEND_BYTES):
            pass
    except (OSError, ValueError):
        pass
