"""The daemons of the local network: those that can be seen, those paired with that have moved, and
those that may take over. What does the looking is imported when somebody looks."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from edged.client.connect.peers import Peer, PeerBook
from edged.client.connect.target import Target, target_of_peer
from edged.client.errors import client_error
from edged.clock import Clock
from edged.errors import EdgedError
from edged.places import peers_file

if TYPE_CHECKING:
    from edged.client.lan.browse import Discovery
    from edged.client.lan.found import FoundDaemon

MAX_CLAIMED = 16
"""Most addresses that are tried of those who claim to be a daemon that moved."""
LOOK_AGAIN_S = 10.0
"""A daemon that was nowhere is not looked for again before."""

Ways = tuple[Target, ...]
"""To one daemon."""
Find = Callable[[str], "Awaitable[Sequence[FoundDaemon]]"]
"""Those that claim a fingerprint."""
Look = Callable[[Iterable[Peer]], "Awaitable[Discovery]"]


def discover(
    timeout_s: float | None = None, *, environ: Mapping[str, str] = os.environ
) -> "Discovery":
    """The daemons that answer on the local network, those that were paired with first. Takes about
    a second, two in a flood, up to three where nobody answers, or `timeout_s`. For callers without
    an event loop.

    Raises:
        MisconfiguredError: the file of those that were paired with cannot be read.
    """
    return asyncio.run(discover_async(timeout_s, environ=environ))


async def discover_async(
    timeout_s: float | None = None, *, environ: Mapping[str, str] = os.environ
) -> "Discovery":
    """As `discover`, on an event loop."""
    from edged.client.lan import browse  # noqa: PLC0415  # imports zeroconf

    try:
        peers = PeerBook(peers_file(environ)).all()
    except EdgedError as error:
        raise client_error(error) from None
    return await browse.discover(peers, timeout_s)


async def look(peers: Iterable[Peer]) -> "Discovery":
    from edged.client.lan import browse  # noqa: PLC0415  # imports zeroconf

    return await browse.discover(peers)


async def find(fingerprint: str) -> "Sequence[FoundDaemon]":
    from edged.client.lan import browse  # noqa: PLC0415  # imports zeroconf

    return await browse.find(fingerprint)


class Moved:
    """Looks for a daemon that was paired with where it is now, if its known addresses are silent.
    Whoever claims to be it has to show its certificate."""

    def __init__(self, peer: Peer, ways: Ways, clock: Clock, find: Find = find) -> None:
        self._peer = peer
        self._ways = ways
        self._clock = clock
        self._find = find
        self._again_s = 0.0

    async def __call__(self) -> Ways:
        if self._clock.now_s() < self._again_s:
            return ()
        found = await self._find(self._peer.fingerprint)
        known = {way.address for way in self._ways}
        claimed = dict.fromkeys(address for one in found for address in one.addresses)
        new = [address for address in claimed if address not in known]
        if not new:
            self._again_s = self._clock.now_s() + LOOK_AGAIN_S
        return tuple(replace(self._ways[0], address=address) for address in new[:MAX_CLAIMED])


def ways_to_peer(
    peer: Peer,
    token: str | None = None,
    found: Iterable[str] = (),
    book: PeerBook | None = None,
) -> Ways:
    """To one of the book; addresses that were just found come first. `token` beats the peer's."""
    target = target_of_peer(peer, token, book)
    addresses = dict.fromkeys((*found, *peer.addresses))
    return tuple(replace(target, address=address) for address in addresses)


async def ways_to_others(
    peers: Sequence[Peer],
    known: Iterable[str],
    look: Look = look,
    book: PeerBook | None = None,
) -> list[tuple[Peer, Ways]]:
    """To those that were paired with, but not to those of the `known` fingerprints: who is on the
    local network first, then who is not, or cannot be seen there. A network that cannot be looked
    at hides nobody."""
    others = {peer.name: peer for peer in peers if peer.fingerprint not in set(known)}
    if not others:
        return []
    found: dict[str, list[str]] = {}
    with suppress(Exception):
        for daemon in (await look(others.values())).daemons:
            if daemon.peer in others:
                found.setdefault(daemon.peer, []).extend(daemon.addresses)
    ordered = [*found, *(name for name in others if name not in found)]
    return [
        (others[name], ways_to_peer(others[name], found=found.get(name, ()), book=book))
        for name in ordered
    ]
