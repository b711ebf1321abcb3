"""The way to the service manager: datagrams to $NOTIFY_SOCKET, as systemd's sd_notify has them.

Theory of operation: nothing waits for the service manager, and nothing fails with it. A datagram
that has no room now is sent before the next one if it tells a change of state; what is told again
anyway (how it is, that it lives) is dropped. Without the variable nothing is sent.
"""

import errno
import os
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")
MAX_UNSENT = 16
"""Changes of state that wait for room; with one more the oldest is forgotten."""
MAX_STATUS_CHARACTERS = 500
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOBUFS})


def take_from(environ: MutableMapping[str, str]) -> Mapping[str, str]:
    """Take the variables that are meant for this process alone: its children do not get them."""
    names = (SOCKET_VARIABLE, *WATCHDOG_VARIABLES)
    return {name: environ.pop(name) for name in names if name in environ}


def microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))


class ServiceNotifier:
    """Belongs to the event loop; every method returns at once and raises nothing."""

    def __init__(self, address: str) -> None:
        """`address`: a path, or @ and an abstract name; of anything else nobody is told."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def tell_state(self, **assignments: str) -> None:
        """A change of state, which must arrive, as READY="1"; after those that came before."""
        self._unsent.append(_datagram(assignments))
        self._send_waiting()

    def tell(self, **assignments: str) -> bool:
        """What is told again before long; lost where there is no room for it, which is False."""
        return self._send_waiting() and self._send(_datagram(assignments))

    def close(self) -> None:
        self._send_waiting()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_waiting(self) -> bool:
        """Whether nothing waits any more."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _send(self, datagram: bytes) -> bool:
        """False: there is no room for it now."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(datagram, os.fsencode(self._address))
        except OSError as error:  # of another kind: nobody is there, and nobody would hear it later
            return error.errno not in _NO_ROOM
        return True


def _datagram(assignments: Mapping[str, str]) -> bytes:
    """One line for each; a status is one line, and not a long one."""
    lines = (
        f"{name}={' '.join(value.split())[:MAX_STATUS_CHARACTERS]}"
        for name, value in assignments.items()
    )
    return "\n".join(lines).encode(errors="replace")
