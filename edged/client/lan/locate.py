"""Where a daemon that was paired with is now.

Addresses on a local network are lent. A daemon that is not where it was, though another may be, is
looked for by its certificate's fingerprint; who claims that is believed when it shows the
certificate, and where it is then is kept for the next time.
"""

from collections.abc import Callable
from contextlib import suppress

import msgspec

from edged.client.connect.peers import MAX_ADDRESSES, Peer, PeerBook
from edged.client.connect.trust import fetch_certificate
from edged.client.lan.browse import find_now
from edged.client.lan.found import FoundDaemon
from edged.errors import ConfigError, EdgedError

CONNECT_TIMEOUT_S = 1.0
"""For each address; a host of the local network answers in a few milliseconds, or is away."""
MAX_TRIED = 16
"""Of those who claim to be it."""

Look = Callable[[str], tuple[FoundDaemon, ...]]


def locate(peer: Peer, book: PeerBook, look: Look = find_now) -> Peer:
    """The peer with the address first at which it is; as it was if it is nowhere. Who else is at
    its current address is told apart when it is called."""
    for address in peer.addresses:
        with suppress(EdgedError):
            if _is_at(peer, address):
                return _kept(peer, address, book)
    claimed: list[str] = []
    with suppress(EdgedError):
        claimed += (one for daemon in look(peer.fingerprint) for one in daemon.addresses)
    for address in claimed[:MAX_TRIED]:
        with suppress(EdgedError):
            if _is_at(peer, address):
                return _kept(peer, address, book)
    return peer


def _kept(peer: Peer, address: str, book: PeerBook) -> Peer:
    """With its current address."""
    if address == peer.addresses[0]:
        return peer
    others = [one for one in peer.addresses if one != address]
    moved = msgspec.structs.replace(peer, addresses=(address, *others)[:MAX_ADDRESSES])
    # Where nothing can be kept it is looked for again.
    with suppress(ConfigError):
        book.moved(moved)
    return moved


def _is_at(peer: Peer, address: str) -> bool:
    """Raises EdgedError as `fetch_certificate`."""
    return fetch_certificate(address, CONNECT_TIMEOUT_S).fingerprint == peer.fingerprint
