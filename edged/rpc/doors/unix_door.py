"""The unix socket's door: the socket that clients know, gRPC's own behind it, and what is between.

Theory of operation: see `edged.rpc.doors.relay`. Both sockets' files are made and removed
here.
"""

import os
import socket
from pathlib import Path
from urllib.parse import quote

import grpc

from edged.clock import Clock
from edged.errors import ConfigError
from edged.rpc.doors.listeners import InnerSocket, listen_unix
from edged.rpc.doors.relay import Relay, RelayLimits
from edged.rpc.view import UNIX_PREFIX


class UnixDoor:
    """Bound, started and closed once, on one event loop."""

    def __init__(self, path: Path, limits: RelayLimits, clock: Clock) -> None:
        self._path = path
        self._limits = limits
        self._clock = clock
        self._listener: socket.socket | None = None
        self._inode = 0
        self._inner: InnerSocket | None = None
        self._relay: Relay | None = None

    @property
    def address(self) -> str:
        return f"{UNIX_PREFIX}{self._path}"

    def bind(self, server: grpc.aio.Server) -> None:
        """Take connections, which wait until `start`.

        Raises:
            ConfigError: the socket or its directory cannot be made.
        """
        self._listener = listen_unix(self._path)
        self._inode = self._path.stat().st_ino
        self._inner = InnerSocket.beside(self._path)
        try:
            # gRPC reads a URI, in which "%41" is a byte.
            server.add_insecure_port(UNIX_PREFIX + quote(os.fsencode(self._inner.path)))
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self._inner.path}, behind the socket {self._path} "
                f"(server.socket): {error}"
            ) from error

    def start(self) -> None:
        """Pass connections on. The server behind has started."""
        assert self._listener is not None, "bound before it is started"
        assert self._inner is not None, "bound before it is started"
        self._relay = Relay(self._listener, self._inner.path, self._limits, self._clock)
        self._relay.start()

    def user_of(self, peer: str) -> int | None:
        return None if self._relay is None else self._relay.user_of(peer)

    def stop_listening(self) -> None:
        """Take no further connections; the socket's file is gone. May be called twice."""
        if self._relay is not None:
            self._relay.stop_listening()
        elif self._listener is not None:
            self._listener.close()
        if self._inode:
            self._remove_socket()

    def close(self) -> None:
        """End every connection; nothing is left on disk. May be called twice."""
        self.stop_listening()
        if self._relay is not None:
            self._relay.close()
        if self._inner is not None:
            self._inner.remove()

    def _remove_socket(self) -> None:
        """Unless another daemon has made it its own meanwhile."""
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass
        self._inode = 0
