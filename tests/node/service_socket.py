"""The service manager's end of $NOTIFY_SOCKET: what it hears, in order."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.streams import WAIT_S

Heard = dict[str, str]
"""One datagram: its assignments."""


@dataclass
class ServiceSocket:
    address: str
    sock: socket.socket
    heard: list[Heard] = field(default_factory=list)

    async def until(self, is_wanted: Callable[[Heard], bool]) -> Heard:
        """Listen until a datagram is as wanted; those that were heard before do not count."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            while True:
                self.heard.append(parsed(await loop.sock_recv(self.sock, 65536)))
                if is_wanted(self.heard[-1]):
                    return self.heard[-1]

    async def until_told(self, name: str, text: str = "") -> Heard:
        """Until something is assigned to that name, with `text` in it."""
        return await self.until(lambda heard: name in heard and text in heard[name])

    def rest(self) -> list[Heard]:
        """All that was heard, with what has arrived and not been read yet."""
        while True:
            try:
                self.heard.append(parsed(self.sock.recv(65536)))
            except BlockingIOError:
                return self.heard

    def told(self, name: str) -> list[str]:
        """Each value of that name so far, in order."""
        return [heard[name] for heard in self.heard if name in heard]


def parsed(datagram: bytes) -> Heard:
    lines = datagram.decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def service_socket(address: str | Path) -> Iterator[ServiceSocket]:
    """Bound to a path, or to @ and an abstract name."""
    text = str(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + text[1:] if text.startswith("@") else text)
        sock.setblocking(False)
        yield ServiceSocket(text, sock)
