"""Where a daemon is now that was paired with."""

from pathlib import Path

import pytest

from edged.client.connect.peers import Peer, PeerBook
from edged.client.lan.found import FoundDaemon
from edged.client.lan.locate import MAX_ADDRESSES, locate
from edged.node.lan.dns_sd import Auth
from tests.client.certificates import Certified, certified
from tests.client.servers import free_port, grpc_server


@pytest.fixture
def book(tmp_path: Path) -> PeerBook:
    return PeerBook(tmp_path / "peers.json")


def peer_of(ours: Certified, book: PeerBook, *addresses: str) -> Peer:
    peer = Peer(
        name="studio",
        addresses=addresses,
        fingerprint=ours.fingerprint,
        certificate_pem=ours.pem.decode(),
    )
    book.put(peer)
    return peer


def away() -> str:
    return f"127.0.0.1:{free_port()}"


def claiming(fingerprint: str, *addresses: str) -> tuple[FoundDaemon, ...]:
    return tuple(
        FoundDaemon("studio", (address,), "1.0", Auth.TOKEN, fingerprint, peer="studio")
        for address in addresses
    )


def nobody_is_asked(_: str) -> tuple[FoundDaemon, ...]:
    raise AssertionError("the network was asked")


def test_it_is_where_it_was(book: PeerBook) -> None:
    ours = certified()
    with grpc_server(ours) as address:
        peer = peer_of(ours, book, away(), address)
        assert locate(peer, book, nobody_is_asked).addresses[0] == address


def test_who_moved_is_found_and_kept(book: PeerBook) -> None:
    ours, liar = certified(), certified()
    was = tuple(away() for _ in range(MAX_ADDRESSES))
    with grpc_server(ours) as address, grpc_server(liar) as lying:
        peer = peer_of(ours, book, *was)

        def look(fingerprint: str) -> tuple[FoundDaemon, ...]:
            assert fingerprint == ours.fingerprint
            return claiming(fingerprint, away(), lying, address)

        assert locate(peer, book, look).addresses == (address, *was[:-1])
    kept = book.named("studio")
    assert kept is not None
    assert kept.addresses == (address, *was[:-1])


def test_who_is_nowhere_stays_as_it_was(book: PeerBook) -> None:
    ours, liar = certified(), certified()
    with grpc_server(liar) as lying:
        peer = peer_of(ours, book, away())
        assert locate(peer, book, lambda one: claiming(one, lying)) == peer
    assert book.named("studio") == peer


def test_another_machine_at_its_address_is_not_taken_for_it(book: PeerBook) -> None:
    ours, other = certified(), certified()
    with grpc_server(ours) as address, grpc_server(other) as was:
        peer = peer_of(ours, book, was)
        assert locate(peer, book, lambda one: claiming(one, address)).addresses == (address, was)


def test_who_is_at_an_address_that_it_had_before_is_not_called(book: PeerBook) -> None:
    ours, other = certified(), certified()
    silent = away()
    with grpc_server(other) as taken:
        peer = peer_of(ours, book, silent, taken)
        assert locate(peer, book, lambda _: ()).addresses == (silent, taken)


def test_who_is_at_an_address_that_it_had_before_is_kept_as_there(book: PeerBook) -> None:
    ours = certified()
    silent = away()
    with grpc_server(ours) as address:
        locate(peer_of(ours, book, silent, address), book, nobody_is_asked)
    kept = book.named("studio")
    assert kept is not None
    assert kept.addresses == (address, silent)


def test_it_is_found_where_nothing_can_be_kept(book: PeerBook, tmp_path: Path) -> None:
    ours = certified()
    with grpc_server(ours) as address:
        peer = peer_of(ours, book, away())
        # A folder where the file is to be replaced.
        (tmp_path / "peers.json").unlink()
        (tmp_path / "peers.json").mkdir()
        assert locate(peer, book, lambda one: claiming(one, address)).addresses[0] == address


def test_what_was_paired_with_anew_meanwhile_is_not_undone(book: PeerBook) -> None:
    ours, renewed = certified(), certified()
    with grpc_server(ours) as address:
        peer = peer_of(ours, book, away())

        def look(fingerprint: str) -> tuple[FoundDaemon, ...]:
            peer_of(renewed, book, "192.0.2.1:1")
            return claiming(fingerprint, address)

        assert locate(peer, book, look).addresses[0] == address
    kept = book.named("studio")
    assert kept is not None
    assert (kept.fingerprint, kept.addresses) == (renewed.fingerprint, ("192.0.2.1:1",))
