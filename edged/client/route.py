"""Which daemons a client may ask, and in which order.

Those that were given come in their order, except that one that was just lost goes last: nobody is
to wait for its connection time and again. Where falling over is allowed, the other daemons that
this user has paired with follow, when none of those that were given will do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from edged.client.connect.address import Address, PeerName, choose_address, parse_address
from edged.client.connect.link import Link
from edged.client.connect.peers import Peer, PeerBook
from edged.client.connect.target import TOKEN_VARIABLE, Target, target_of
from edged.client.errors import (
    ClientError,
    MisconfiguredError,
    NotTrustedError,
    RequestCancelledError,
    client_error,
)
from edged.client.lan.nearby import Ways, ways_to_peer
from edged.clock import Clock
from edged.errors import EdgedError, Reason
from edged.places import peers_file

if TYPE_CHECKING:
    from edged.client.lan.found import FoundDaemon

AVOID_S = 30.0
"""How long a daemon that was lost goes last, and how long others that were looked up are good."""
MAX_OTHERS = 8
"""Most daemons that nobody gave and that are asked all the same."""

Where: TypeAlias = "str | Target | FoundDaemon | Sequence[str | Target | FoundDaemon] | None"


@dataclass(frozen=True, slots=True)
class Given:
    """A daemon, and how it is spoken to."""

    ways: Ways
    peer: Peer | None = None
    """If it was paired with, and is meant wherever it is."""


FindOthers = Callable[[], Awaitable[Sequence[Given]]]


class Route:
    def __init__(
        self,
        given: Sequence[Given],
        connect: Callable[[Given], Link],
        clock: Clock,
        find_others: FindOthers | None = None,
    ) -> None:
        self._links = tuple(map(connect, given))
        self._connect = connect
        self._clock = clock
        self._find_others = find_others
        self._others: tuple[Link, ...] = ()
        self._link_of: dict[str, Link] = {}
        """To those that were not given, by their fingerprints."""
        self._looking: asyncio.Task[None] | None = None
        self._look_again_s = 0.0
        self._lost_s: dict[Link, float] = {}
        """When a call was last told that it is not there, or goes."""

    def order(self) -> list[Link]:
        """Those that were given."""
        since_s = self._clock.now_s() - AVOID_S

        def is_avoided(link: Link) -> bool:
            # Some are lost when the call that was connecting to them has left.
            return max(self._lost_s.get(link, -inf), link.lost_s) > since_s

        return sorted(self._links, key=is_avoided)

    @property
    def may_have_others(self) -> bool:
        """Others than those that were given may be asked, if there are any."""
        return self._find_others is not None

    async def others(self) -> tuple[Link, ...]:
        """Those that were not, if any are allowed. Callers that come while they are looked for wait
        for the same look around, which goes on without those that leave.

        Raises:
            ClientError: they cannot be looked for.
        """
        if self._find_others is None:
            return ()
        if self._looking is None and self._clock.now_s() >= self._look_again_s:
            self._looking = asyncio.create_task(self._look_around(self._find_others))
            self._looking.add_done_callback(self._has_looked)
        if self._looking is not None:
            try:
                await asyncio.shield(self._looking)
            except ClientError as error:
                # Each of those who wait may add to its error.
                raise copy(error) from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise RequestCancelledError(Reason.CANCELLED, "the client was closed") from None
        return self._others

    def note(self, link: Link, error: ClientError) -> None:
        if error.reason in (Reason.UNREACHABLE, Reason.DRAINING):
            self._lost_s[link] = self._clock.now_s()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for link in (*self._links, *self._link_of.values()):
            await link.close()

    async def _look_around(self, find_others: FindOthers) -> None:
        found = (await find_others())[:MAX_OTHERS]
        self._others = tuple(self._link_to(other) for other in found)
        self._look_again_s = self._clock.now_s() + AVOID_S

    def _has_looked(self, task: "asyncio.Task[None]") -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # has been seen, though all who waited may have left

    def _link_to(self, other: Given) -> Link:
        assert other.peer is not None, "who was not given was paired with"
        fingerprint = other.peer.fingerprint
        if fingerprint not in self._link_of:
            self._link_of[fingerprint] = self._connect(other)
        return self._link_of[fingerprint]


def given_by(where: Where, token: str | None, environ: Mapping[str, str]) -> list[Given]:
    """The daemons that a program names.

    Raises:
        ClientError: BadRequestError, something is no address; NotTrustedError, it has to be paired
            with first; MisconfiguredError, the peers' file cannot be read, nothing was given, or
            one token for several daemons.
    """
    try:
        if where is None:
            return [_at(choose_address(None, environ), token, environ)]
        if not isinstance(where, Sequence) or isinstance(where, str):
            return [_one(where, token, environ)]
        if len(where) != 1:
            # A token is for one daemon: the others are not to learn it.
            environ = {key: value for key, value in environ.items() if key != TOKEN_VARIABLE}
            if token is not None or not where:
                expected = "one for a token" if where else "at least one"
                raise MisconfiguredError(
                    Reason.BAD_CONFIG, f"{len(where)} daemons were given; expected {expected}"
                )
        return [_one(one, token, environ) for one in where]
    except EdgedError as error:
        raise client_error(error) from None


def _one(
    where: "str | Target | FoundDaemon", token: str | None, environ: Mapping[str, str]
) -> Given:
    if isinstance(where, str):
        return _at(parse_address(where), token, environ)
    if isinstance(where, Target):
        return Given((replace(where, token=token or where.token),))
    book = PeerBook(peers_file(environ))
    peer = book.named(where.peer) if where.peer is not None else None
    if peer is None:
        raise NotTrustedError(
            Reason.PEER_UNKNOWN,
            f"{where.name} was not paired with: run `edgectl pair {where.addresses[0]}`",
        )
    return Given(ways_to_peer(peer, token, where.addresses, book), peer)


def _at(address: Address, token: str | None, environ: Mapping[str, str]) -> Given:
    target = target_of(address, environ)
    if isinstance(address, PeerName):
        book = PeerBook(peers_file(environ))
        peer = book.named(address.name)
        if peer is not None:
            return Given(ways_to_peer(peer, token or target.token, book=book), peer)
    return Given((replace(target, token=token or target.token),))
