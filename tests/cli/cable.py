"""The way to a server, which can be cut without either end noticing, as when the power fails."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 65536


@dataclass
class Cable:
    address: str
    """Of its end for a client."""
    sent: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released with each piece that the client sends."""
    cut: threading.Event = field(default_factory=threading.Event)
    """From then on nothing arrives."""


@contextmanager
def cable_to(address: str) -> Iterator[Cable]:
    """For one connection."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection((host, int(port))) as server,
    ):
        cable = Cable(f"127.0.0.1:{listening.getsockname()[1]}")

        def carry(source: socket.socket, sink: socket.socket, *, counts: bool) -> None:
            with suppress(OSError):
                while data := source.recv(CHUNK_BYTES):
                    if not cable.cut.is_set():
                        sink.sendall(data)
                    if counts:
                        cable.sent.release()

        def plug() -> None:
            client, _ = listening.accept()
            with client:
                back = threading.Thread(
                    target=carry, args=(server, client), kwargs={"counts": False}
                )
                back.start()
                carry(client, server, counts=True)
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

        thread = threading.Thread(target=plug)
        thread.start()
        yield cable
        thread.join()
