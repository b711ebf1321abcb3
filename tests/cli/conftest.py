"""A fake daemon, and the programs set up to find it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.program import Program


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
