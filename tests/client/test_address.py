"""What names a daemon, and which one is meant."""

import socket
from pathlib import Path

import pytest

from edged.client.connect.address import (
    NetworkAddress,
    PeerName,
    SocketAddress,
    Transport,
    choose_address,
    parse_address,
)
from edged.errors import InvalidRequestError


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "edged").mkdir()
    return tmp_path


def test_the_option_beats_the_variable() -> None:
    assert str(choose_address("a:1", {"EDGED_HOST": "b:2"})) == "a:1"
    assert str(choose_address(None, {"EDGED_HOST": "b:2"})) == "b:2"


def test_a_relative_socket_starts_at_the_working_directory() -> None:
    assert choose_address("unix:x.sock", {}) == SocketAddress(f"{Path.cwd()}/x.sock")


def test_a_socket_that_listens_is_found(runtime: Path) -> None:
    path = runtime / "edged" / "edged.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert choose_address(None, {"XDG_RUNTIME_DIR": str(runtime)}) == SocketAddress(str(path))


def test_a_socket_that_a_dead_daemon_left_behind_is_passed_over(runtime: Path) -> None:
    path = runtime / "edged" / "edged.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert path.exists()
    found = choose_address(None, {"XDG_RUNTIME_DIR": str(runtime)})
    assert found != SocketAddress(str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1", NetworkAddress("127.0.0.1:1", Transport.PLAINTEXT)),
        ("localhost:1", NetworkAddress("localhost:1", Transport.PLAINTEXT)),
        ("[::1]:1", NetworkAddress("[::1]:1", Transport.PLAINTEXT)),
        ("192.0.2.1:1", NetworkAddress("192.0.2.1:1", Transport.TLS)),
        ("box.local:1", NetworkAddress("box.local:1", Transport.TLS)),
        ("tls:127.0.0.1:1", NetworkAddress("127.0.0.1:1", Transport.TLS)),
        ("plaintext:192.0.2.1:1", NetworkAddress("192.0.2.1:1", Transport.PLAINTEXT)),
        ("gpu-box", PeerName("gpu-box")),
    ],
)
def test_plaintext_is_for_this_machine_alone_unless_asked_for(text: str, expected: object) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["host:port", "unix:", "http://host:1", "::1:7411", "a b", "tls:x"]
)
def test_what_is_no_address_is_wrong_usage(text: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        choose_address(None, {"EDGED_HOST": text})
    assert raised.value.detail.startswith(
        f"EDGED_HOST: {text!r} is no address: expected HOST:PORT, [IPv6]:PORT, unix:PATH"
    )
