"""A fake daemon, and the programs set up to find it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edged.client.connect.peers import PeerBook
from edged.places import peers_file
from tests.cli.fake_access import FakeAccess, serving_access
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.program import Program
from tests.cli.terminal import Opened, Terminal


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of a user without files, sockets or settings; socket paths stay under their limit."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def served(daemon: FakeDaemon, tmp_path: Path) -> Iterator[Served]:
    served = Served(daemon, tmp_path / "edged.sock")
    yield served
    daemon.released.set()
    served.stop()


@pytest.fixture
def edgectl(environ: dict[str, str], served: Served) -> Program:
    return Program("edgectl", {**environ, "EDGED_HOST": served.address})


@pytest.fixture
def edged(environ: dict[str, str]) -> Program:
    return Program("edged", environ)


@pytest.fixture
def book(environ: dict[str, str]) -> PeerBook:
    """Whom that user has paired with."""
    return PeerBook(peers_file(environ))


@pytest.fixture
def access() -> FakeAccess:
    return FakeAccess()


@pytest.fixture
def at(access: FakeAccess, tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of its daemon, which has a socket on its own machine."""
    with serving_access(access, tmp_path / "access.sock") as host_port:
        yield host_port


@pytest.fixture
def there(environ: dict[str, str], tmp_path: Path, at: str) -> Program:
    """`edgectl` on that machine."""
    return Program("edgectl", {**environ, "EDGED_HOST": f"unix:{tmp_path / 'access.sock'}"})


@pytest.fixture
def open_terminal() -> Iterator[Opened]:
    """Runs a program with arguments and further variables."""
    with ExitStack() as opened:

        def open_(program: Program, *arguments: str, **environ: str) -> Terminal:
            terminal = Terminal(program, arguments, environ)
            opened.callback(terminal.close)
            return terminal

        yield open_
