"""Where a daemon that was paired with is now.

Addresses on a local network are lent. A daemon that does not answer where it was is looked for by
its certificate's fingerprint; who claims that is believed when it shows the certificate, and where
it is then is kept for the next time.
"""

import socket
from collections.abc import Callable

import msgspec

from edged.client.connect.peers import Peer, PeerBook
from edged.client.connect.trust import fetch_certificate
from edged.client.lan.browse import find_now
from edged.client.lan.found import FoundDaemon
from edged.errors import EdgedError

CONNECT_TIMEOUT_S = 1.0
"""For each address; a host of the local network answers in a few milliseconds, or is away."""
MAX_TRIED = 16
"""Of those who claim to be it."""
MAX_ADDRESSES = 4
"""Kept of one peer."""

Look = Callable[[str], tuple[FoundDaemon, ...]]


def locate(peer: Peer, book: PeerBook, look: Look = find_now) -> Peer:
    """The peer with the address first at which it is; as it was, if it is nowhere.

    Raises:
        ConfigError: the peers' file cannot be written.
    """
    for address in peer.addresses:
        if _takes_connections(address):
            return _with_first(peer, address)
    claimed = [one for daemon in look(peer.fingerprint) for one in daemon.addresses]
    for address in claimed[:MAX_TRIED]:
        try:
            shown = fetch_certificate(address, CONNECT_TIMEOUT_S)
        except EdgedError:
            continue
        if shown.fingerprint == peer.fingerprint:
            moved = _with_first(peer, address)
            book.put(moved)
            return moved
    return peer


def _with_first(peer: Peer, address: str) -> Peer:
    others = [one for one in peer.addresses if one != address]
    return msgspec.structs.replace(peer, addresses=(address, *others)[:MAX_ADDRESSES])


def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
