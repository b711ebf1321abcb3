"""The unix socket's door: learns which user is at the other end of each connection.

Theory of operation: the system tells the user of a connected unix socket, but gRPC for Python hands
out neither the socket nor the answer. So this listens in gRPC's place, asks, and splices each
connection to one of its own to an inner socket of gRPC, in a directory that only the daemon's user
can enter. Its own end is bound to a name that no other connection has; gRPC reports that name as
the peer of a call, and the table here leads from it to the user.

Bytes are passed on as they come. One that cannot write does not read, so that a client that does
not read is felt by gRPC as before, a few socket buffers later.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from edged.clock import Clock
from edged.log import get_logger
from edged.node.trust.bucket import RateBucket

CHUNK_BYTES = 64 * 1024
"""Most bytes that are held for a reader that is behind, in each direction of a connection."""
ACCEPT_PAUSE_S = 1.0
"""Rest after the system had no descriptor left for another connection."""
WARNINGS_PER_MINUTE = 6.0
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
"""Of macOS: its socket option and level for the user at the other end."""

_log = get_logger("rpc")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    max_connections: int = 1024
    max_connections_of_user: int = 256
    """Of each user but the daemon's own and root."""
    stall_s: float = 120.0
    """A connection whose end takes nothing for so long is dead: gRPC has given it up before, by its
    own keepalive."""


class Relay:
    """Takes connections from `listener` and passes them on to the socket `inner`.

    Made and closed on one event loop. Connections are bound to names in `inner`'s directory.
    """

    def __init__(
        self, listener: socket.socket, inner: Path, limits: RelayLimits, clock: Clock
    ) -> None:
        self._listener = listener
        self._inner = inner
        self._limits = limits
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(CHUNK_BYTES)
        self._users: dict[str, int | None] = {}
        self._splices: dict[str, _Splice] = {}
        self._num_connections = 0
        self._may_warn = RateBucket(WARNINGS_PER_MINUTE, clock.now_s())
        self._resuming: asyncio.TimerHandle | None = None

    @property
    def num_open(self) -> int:
        """Connections that are passed on now."""
        return len(self._splices)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def user_of(self, peer: str) -> int | None:
        """The user who made a connection, by the peer that gRPC reports; None: it is gone, or the
        system did not tell."""
        return self._users.get(unquote(peer).rpartition("/")[2])

    def stop_listening(self) -> None:
        """Take no further connections; those there are go on. May be called twice."""
        if self._listener.fileno() < 0:
            return
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def close(self) -> None:
        """End every connection."""
        self.stop_listening()
        for splice in list(self._splices.values()):
            splice.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._warn("no room for another connection", error=str(error.strerror))
            self._loop.remove_reader(self._listener)
            self._resuming = self._loop.call_later(ACCEPT_PAUSE_S, self.start)
            return
        user = _user_at(client)
        why_not = self._why_not(user)
        if why_not is not None:
            self._warn(why_not, user=user, connections=self.num_open)
            client.close()
            return
        try:
            self._pass_on(client, user)
        except OSError as error:
            self._warn("a connection could not be passed on", error=str(error.strerror))
            client.close()

    def _why_not(self, user: int | None) -> str | None:
        if len(self._splices) >= self._limits.max_connections:
            return "too many connections to the socket"
        if user in (os.geteuid(), 0):
            return None
        num_of_user = sum(self._users[name] == user for name in self._splices)
        if num_of_user >= self._limits.max_connections_of_user:
            return "too many connections of one user to the socket"
        return None

    def _pass_on(self, client: socket.socket, user: int | None) -> None:
        self._num_connections += 1
        name = str(self._num_connections)
        own_name = self._inner.with_name(name)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            own.setblocking(False)
            own.bind(str(own_name))
            try:
                own.connect(str(self._inner))
            finally:
                # The name stays with the connection; the file has served.
                own_name.unlink()
        except OSError:
            own.close()
            raise
        client.setblocking(False)
        self._users[name] = user
        self._splices[name] = _Splice(
            self._loop,
            (client, own),
            self._buffer,
            self._limits.stall_s,
            lambda: self._forget(name),
        )

    def _forget(self, name: str) -> None:
        del self._users[name], self._splices[name]

    def _warn(self, event: str, **fields: object) -> None:
        if self._may_warn.take(self._clock.now_s()) is None:
            _log.warning(event, **fields)


class _Splice:
    """Two connected sockets, each of which is sent what the other receives."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ends: tuple[socket.socket, socket.socket],
        buffer: bytearray,
        stall_s: float,
        on_close: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._ends = ends
        self._buffer = memoryview(buffer)
        self._stall_s = stall_s
        self._on_close = on_close
        self._stalls: dict[socket.socket, asyncio.TimerHandle] = {}
        self._num_open = 2
        self._is_closed = False
        for source, target in (ends, ends[::-1]):
            loop.add_reader(source, self._read, source, target)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for stall in self._stalls.values():
            stall.cancel()
        for end in self._ends:
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()
        self._on_close()

    def _read(self, source: socket.socket, target: socket.socket) -> None:
        try:
            num_bytes = source.recv_into(self._buffer)
            if num_bytes == 0:
                self._loop.remove_reader(source)
                self._end(target)
                return
            num_sent = _send(target, self._buffer[:num_bytes])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if num_sent < num_bytes:
            # The buffer is everybody's, so that what is held is a copy.
            self._loop.remove_reader(source)
            self._hold(source, target, bytes(self._buffer[num_sent:num_bytes]))

    def _hold(self, source: socket.socket, target: socket.socket, held: bytes) -> None:
        self._loop.add_writer(target, self._write, source, target, held)
        self._stalls[target] = self._loop.call_later(self._stall_s, self.close)

    def _write(self, source: socket.socket, target: socket.socket, held: bytes) -> None:
        try:
            num_sent = _send(target, held)
        except OSError:
            self.close()
            return
        self._stalls.pop(target).cancel()
        if num_sent < len(held):
            self._hold(source, target, held[num_sent:])
            return
        self._loop.remove_writer(target)
        self._loop.add_reader(source, self._read, source, target)

    def _end(self, target: socket.socket) -> None:
        """The other side sends no more; what it still receives goes on."""
        self._num_open -= 1
        if self._num_open == 0:
            self.close()
            return
        with contextlib.suppress(OSError):  # it is gone altogether, which its own reader tells
            target.shutdown(socket.SHUT_WR)


def _send(target: socket.socket, content: bytes | memoryview) -> int:
    """How much of it there was room for."""
    try:
        return target.send(content)
    except (BlockingIOError, InterruptedError):
        return 0


def _user_at(client: socket.socket) -> int | None:
    """The user at the other end, as the system knows it since the connection was made."""
    try:
        if sys.platform == "darwin":
            return _user_in(client.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 128), "II")
        return _user_in(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12), "iII")
    except (OSError, struct.error):
        return None


def _user_in(answer: bytes, form: str) -> int:
    """Both systems put the user second: after the process, or the version of the answer."""
    return int(struct.unpack_from(form, answer)[1])
