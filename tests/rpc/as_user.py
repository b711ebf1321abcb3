"""Connects to a unix socket as another user: a process of that user that passes bytes on."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

NOBODY = 65534

# Everything that has to be imported is, before the user may read nothing of it any more.
_PASS_ON = """
import os, socket, sys, threading
own, far, user = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(own)
listener.listen()
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
print("ready", flush=True)

def copy(source, target):
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

while True:
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(far)
    for pair in ((client, server), (server, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to become another user: run as root")


@contextmanager
def open_folder() -> Iterator[Path]:
    """One that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="edged-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@asynccontextmanager
async def as_user(socket: Path, user: int = NOBODY) -> AsyncIterator[str]:
    """A gRPC target that leads to `socket` by connections of that user."""
    own = socket.with_name(f"as-{user}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PASS_ON, str(own), str(socket), str(user)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield f"unix:{own}"
    finally:
        process.kill()
        await process.wait()
