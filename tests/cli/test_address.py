"""Which daemon edgectl talks to."""

import socket
from pathlib import Path

import pytest

from edged.cli.address import choose_address
from edged.cli.exits import CommandError, ExitCode


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "edged").mkdir()
    return tmp_path


def test_the_option_beats_the_variable() -> None:
    assert choose_address("a:1", {"EDGED_HOST": "b:2"}) == "a:1"
    assert choose_address(None, {"EDGED_HOST": "b:2"}) == "b:2"


def test_a_relative_socket_starts_at_the_working_directory() -> None:
    assert choose_address("unix:x.sock", {}) == f"unix:{Path.cwd()}/x.sock"


def test_a_socket_that_listens_is_found(runtime: Path) -> None:
    path = runtime / "edged" / "edged.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert choose_address(None, {"XDG_RUNTIME_DIR": str(runtime)}) == f"unix:{path}"


def test_a_socket_that_a_dead_daemon_left_behind_is_passed_over(runtime: Path) -> None:
    path = runtime / "edged" / "edged.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert path.exists()
    found = choose_address(None, {"XDG_RUNTIME_DIR": str(runtime)})
    assert found != f"unix:{path}"


@pytest.mark.parametrize("text", ["host", "host:port", "unix:", "http://host:1", "::1:7411"])
def test_what_is_no_address_is_wrong_usage(text: str) -> None:
    with pytest.raises(CommandError) as raised:
        choose_address(None, {"EDGED_HOST": text})
    assert raised.value.exit_code is ExitCode.USAGE
    assert raised.value.sentence == (
        f"EDGED_HOST: {text!r} is no address: expected HOST:PORT, [IPv6]:PORT or unix:PATH"
    )
