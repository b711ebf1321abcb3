"""Where a daemon is that somebody wants to pair with."""

from pathlib import Path

import pytest

from edged.client.connect.peers import Peer, PeerBook
from edged.client.lan.find import MAX_NAMED, find_host_ports
from edged.client.lan.found import FoundDaemon
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.node.lan.dns_sd import Auth


@pytest.fixture
def book(tmp_path: Path) -> PeerBook:
    made = PeerBook(tmp_path / "peers.json")
    for name, address in (("box", "192.0.2.9:1"), ("gpu.box", "192.0.2.8:1")):
        made.put(Peer(name=name, addresses=(address,), fingerprint="f", certificate_pem="c"))
    return made


def nobody(_: str) -> tuple[FoundDaemon, ...]:
    return ()


def found(name: str, fingerprint: str, *addresses: str) -> FoundDaemon:
    return FoundDaemon(name, addresses, "1.0", Auth.TOKEN, fingerprint, peer=None)


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
    assert next(find_host_ports(text, book, nobody)) == expected


def test_a_name_that_no_host_can_have_is_looked_for_on_the_network(book: PeerBook) -> None:
    studio = found("Studio (2)", "f", "192.0.2.3:1")
    assert list(find_host_ports("Studio (2)", book, lambda _: (studio,))) == ["192.0.2.3:1"]
    with pytest.raises(EdgedError, match="calls itself 'Studio \\(3\\)'") as caught:
        find_host_ports("Studio (3)", book, nobody)
    assert caught.value.reason is Reason.UNREACHABLE


@pytest.mark.parametrize("name", ["Lab: GPU/1 @home", "v1.5 (2)", "me@home", "a/b", "gpu:x"])
def test_whatever_a_daemon_may_call_itself_is_looked_for(book: PeerBook, name: str) -> None:
    listed = found(name, "f", "192.0.2.3:1")
    assert list(find_host_ports(name, book, lambda one: (listed,) * (one == name))) == [
        "192.0.2.3:1"
    ]


def test_a_valid_address_is_never_a_name(book: PeerBook) -> None:
    listed = found("box:1", "f", "192.0.2.3:1")
    assert list(find_host_ports("box:1", book, lambda _: (listed,))) == ["box:1"]


@pytest.mark.parametrize(
    "text", ["", "unix:/x", "plaintext:192.0.2.1:1", "http://box", "a\nb", " ", "x:", "x" * 64]
)
def test_what_has_no_certificate_or_is_no_host_is_refused(book: PeerBook, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="HOST"):
        find_host_ports(text, book, nobody)


def test_a_name_is_looked_for_on_the_local_network(book: PeerBook) -> None:
    asked = []

    def look(name: str) -> tuple[FoundDaemon, ...]:
        asked.append(name)
        return (
            found("gpu", "", "192.0.2.3:7411"),  # without TLS
            found("GPU", "SHA256:a", "192.0.2.4:7000", "[2001:db8::4]:7000"),
            found("gpu", "SHA256:a", "198.51.100.4:7000"),
        )

    assert tuple(find_host_ports("gpu", book, look)) == (
        "192.0.2.4:7000",
        "[2001:db8::4]:7000",
        "198.51.100.4:7000",
    )
    assert asked == ["gpu"]


def test_several_daemons_of_one_name_are_told_apart_by_the_user(book: PeerBook) -> None:
    both = (found("gpu", "SHA256:a", "192.0.2.4:1"), found("gpu", "SHA256:b", "192.0.2.5:1"))
    with pytest.raises(EdgedError, match=r"192\.0\.2\.4:1 \(SHA256:a\), 192\.0\.2\.5:1") as raised:
        find_host_ports("gpu", book, lambda _: both)
    assert raised.value.reason is Reason.UNREACHABLE


def test_a_known_daemon_is_looked_for_by_its_certificate_once_it_is_not_where_it_was(
    book: PeerBook,
) -> None:
    asked = []

    def look(fingerprint: str) -> tuple[FoundDaemon, ...]:
        asked.append(fingerprint)
        return (found("gpu", fingerprint, "192.0.2.77:1", "192.0.2.9:1"),)

    places = find_host_ports("box", book, look)
    assert (next(places), asked) == ("192.0.2.9:1", [])
    assert (list(places), asked) == (["192.0.2.77:1"], ["f"])


def test_a_name_that_nobody_knows_is_told(book: PeerBook) -> None:
    with pytest.raises(EdgedError, match="no-such-box-anywhere") as raised:
        find_host_ports("no-such-box-anywhere", book, nobody)
    assert raised.value.reason is Reason.UNREACHABLE


def test_each_who_claims_to_be_it_is_tried(book: PeerBook) -> None:
    claims = (found("studio", "f", "192.0.2.66:1"), found("studio", "f", "192.0.2.3:1"))
    assert list(find_host_ports("studio", book, lambda _: claims)) == [
        "192.0.2.66:1",
        "192.0.2.3:1",
    ]


def test_of_many_that_claim_a_name_some_are_named(book: PeerBook) -> None:
    claims = tuple(found("studio", str(one), f"192.0.2.{one}:1") for one in range(MAX_NAMED + 5))
    with pytest.raises(EdgedError, match="and 5 more") as caught:
        find_host_ports("studio", book, lambda _: claims)
    assert caught.value.detail.count("192.0.2.") == MAX_NAMED
