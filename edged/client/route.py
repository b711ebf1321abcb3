"""Which daemons a client may ask, and in which order.

Those that were given come in their order, except that one that was just lost goes last: nobody is
to wait for its connection time and again. Where falling over is allowed, the other daemons that
this user has paired with follow, when none of those that were given will do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edged.client.address import Address, PeerName, choose_address, parse_address
from edged.client.errors import ClientError, MisconfiguredError, client_error
from edged.client.link import Link
from edged.client.peers import PeerBook
from edged.client.target import TOKEN_VARIABLE, Target, target_of, target_of_peer
from edged.clock import Clock
from edged.errors import EdgedError, Reason
from edged.places import peers_file

AVOID_S = 30.0
"""How long a daemon that was lost goes last."""
MAX_FURTHER = 8
"""Most daemons that nobody gave and that are asked all the same."""

Where = str | Target | Sequence[str | Target] | None
Ways = tuple[Target, ...]
"""To one daemon."""


class Route:
    def __init__(
        self, links: Sequence[Link], find_further: Callable[[], Sequence[Link]], clock: Clock
    ) -> None:
        self._links = tuple(links)
        self._find_further = find_further
        self._further: tuple[Link, ...] | None = None
        self._clock = clock
        self._avoided_until_s: dict[Link, float] = {}

    def order(self) -> list[Link]:
        """Those that were given."""
        now_s = self._clock.now_s()
        return sorted(self._links, key=lambda link: self._avoided_until_s.get(link, 0.0) > now_s)

    def further(self) -> tuple[Link, ...]:
        """Those that were not, if any are allowed; looked up once."""
        if self._further is None:
            self._further = tuple(self._find_further())[:MAX_FURTHER]
        return self._further

    def note(self, link: Link, error: ClientError) -> None:
        if error.reason in (Reason.UNREACHABLE, Reason.DRAINING):
            self._avoided_until_s[link] = self._clock.now_s() + AVOID_S

    async def close(self) -> None:
        for link in (*self._links, *(self._further or ())):
            await link.close()


def ways_to(where: Where, token: str | None, environ: Mapping[str, str]) -> list[Ways]:
    """How each daemon that was given is spoken to.

    Raises:
        ClientError: BadRequestError, something is no address; NotTrustedError, it has to be paired
            with first; MisconfiguredError, the peers' file cannot be read, or nothing was given.
    """
    try:
        if where is None:
            return [_ways(choose_address(None, environ), token, environ)]
        if isinstance(where, str | Target):
            return [_ways_to_one(where, token, environ)]
        if len(where) != 1:
            # A token is for one daemon: the others are not to learn it.
            environ = {key: value for key, value in environ.items() if key != TOKEN_VARIABLE}
            if token is not None or not where:
                raise MisconfiguredError(
                    Reason.BAD_CONFIG,
                    f"there are {len(where)} daemons"
                    + ("; expected at least one" if not where else " for one token"),
                )
        return [_ways_to_one(one, token, environ) for one in where]
    except EdgedError as error:
        raise client_error(error) from None


def ways_to_peers(environ: Mapping[str, str]) -> list[Ways]:
    """To everyone that this user has paired with. Raises EdgedError: the file cannot be read."""
    peers = PeerBook(peers_file(environ)).all()
    return [
        tuple(replace(target_of_peer(peer), address=address) for address in peer.addresses)
        for peer in peers
        if peer.addresses
    ]


def _ways_to_one(where: str | Target, token: str | None, environ: Mapping[str, str]) -> Ways:
    if isinstance(where, Target):
        return (replace(where, token=token or where.token),)
    return _ways(parse_address(where), token, environ)


def _ways(address: Address, token: str | None, environ: Mapping[str, str]) -> Ways:
    target = target_of(address, environ)
    if token is not None:
        target = replace(target, token=token)
    if not isinstance(address, PeerName):
        return (target,)
    peer = PeerBook(peers_file(environ)).named(address.name)
    addresses = peer.addresses if peer is not None else (target.address,)
    return tuple(replace(target, address=one) for one in addresses)
