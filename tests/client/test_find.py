"""Where a daemon is that somebody wants to pair with."""

from pathlib import Path

import pytest

from edged.client.find import find_host_port
from edged.client.peers import Peer, PeerBook
from edged.errors import EdgedError, InvalidRequestError, Reason


@pytest.fixture
def book(tmp_path: Path) -> PeerBook:
    made = PeerBook(tmp_path / "peers.json")
    for name, address in (("box", "192.0.2.9:1"), ("gpu.box", "192.0.2.8:1")):
        made.put(Peer(name=name, addresses=(address,), fingerprint="f", certificate_pem="c"))
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1:1", "192.0.2.1:1"),
        ("box.local:1", "box.local:1"),
        ("box:1", "box:1"),
        ("tls:192.0.2.1:1", "192.0.2.1:1"),
        ("tls:192.0.2.1", "192.0.2.1:7411"),
        ("192.0.2.1", "192.0.2.1:7411"),
        ("2001:db8::1", "[2001:db8::1]:7411"),
        ("[2001:db8::1]", "[2001:db8::1]:7411"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]:7411"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ("box.local", "box.local:7411"),
        ("localhost", "localhost:7411"),
        ("box", "192.0.2.9:1"),
        ("gpu.box", "192.0.2.8:1"),
    ],
)
def test_a_host_needs_no_port_and_a_known_daemon_no_address(
    book: PeerBook, text: str, expected: str
) -> None:
    assert find_host_port(text, book) == expected


@pytest.mark.parametrize(
    "text", ["", "unix:/x", "plaintext:192.0.2.1:1", "http://box", "a b", "x:"]
)
def test_what_has_no_certificate_or_is_no_host_is_refused(book: PeerBook, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="HOST"):
        find_host_port(text, book)


def test_a_name_that_nobody_knows_is_told(book: PeerBook) -> None:
    with pytest.raises(EdgedError, match="no-such-box-anywhere") as raised:
        find_host_port("no-such-box-anywhere", book)
    assert raised.value.reason is Reason.UNREACHABLE
