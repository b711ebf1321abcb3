"""Daemons that a user has paired with."""

from pathlib import Path

from edged.client.connect.peers import Peer, PeerBook
from edged.places import peers_file
from tests.client.certificates import Certified
from tests.client.servers import free_port


def environ_of(folder: Path, *peers: Peer, **further: str) -> dict[str, str]:
    """Of a user who has paired with these."""
    environ = {"HOME": str(folder), **further}
    for peer in peers:
        PeerBook(peers_file(environ)).put(peer)
    return environ


def peer(name: str, own: Certified, *addresses: str, token: str = "") -> Peer:
    return Peer(
        name=name,
        addresses=addresses,
        fingerprint=own.fingerprint,
        certificate_pem=own.pem.decode(),
        token=token,
    )


def nobody() -> str:
    return f"127.0.0.1:{free_port()}"
