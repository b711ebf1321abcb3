"""Decides how a daemon is spoken to: where, with which security, and with which token."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edged.client.connect.address import Address, NetworkAddress, PeerName, SocketAddress, Transport
from edged.client.connect.authorities import CA_VARIABLE, read_authorities
from edged.client.connect.peers import Peer, PeerBook
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.places import peers_file

TOKEN_VARIABLE = "EDGED_TOKEN"  # noqa: S105  # its name
_CAN_BE_SENT = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Plaintext:
    """Nothing is hidden and nobody is known. On this machine that is as good as TLS."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """TLS with exactly this certificate."""

    certificate_pem: bytes
    peer: str = ""
    """The daemon's name in the peers' file; "" if it is not from there."""
    book: PeerBook | None = field(default=None, repr=False, compare=False)
    """That file: who else may be at an address."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """TLS with a certificate for the host's name that an authority vouches for."""

    authorities_pem: bytes


Security = Plaintext | Pinned | Trusted


@dataclass(frozen=True, slots=True)
class Target:
    shown: str
    """As the user knows it."""
    address: str
    """"unix:/PATH" or "HOST:PORT"."""
    security: Security
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidRequestError: gRPC could not send that token, and would not say why."""
        if self.token and not _CAN_BE_SENT.fullmatch(self.token):
            raise InvalidRequestError(
                "token",
                f"the one for {self.shown} has a space, a line break or another character that no "
                "token has; expected one as `edgectl token create` prints it",
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call to it carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def target_of(address: Address, environ: Mapping[str, str]) -> Target:
    """How the daemon at an address is spoken to, as far as the peers' file knows; asks nobody.

    Raises:
        EdgedError: PEER_UNKNOWN, it has to be paired with first; BAD_CONFIG, the peers' file or
            the authorities' cannot be read.
    """
    token = environ.get(TOKEN_VARIABLE) or None
    match address:
        case SocketAddress():
            return Target(str(address), str(address), Plaintext(), token)
        case NetworkAddress(transport=Transport.PLAINTEXT):
            return Target(str(address), address.host_port, Plaintext(), token)
        case NetworkAddress():
            return _network_target(address, token, environ)
        case PeerName():
            book = PeerBook(peers_file(environ))
            peer = book.named(address.name)
            if peer is None:
                raise EdgedError(
                    Reason.PEER_UNKNOWN,
                    f"no daemon was paired with under the name {address.name!r}; "
                    "`edgectl discover` lists those of the local network, and "
                    f"`edgectl pair {address.name}` pairs with one",
                )
            return target_of_peer(peer, token, book)


def target_of_peer(peer: Peer, token: str | None = None, book: PeerBook | None = None) -> Target:
    """`token` beats the peer's own; `book` is where it is from."""
    security = Pinned(peer.certificate_pem.encode(), peer.name, book)
    return Target(peer.name, peer.addresses[0], security, token or peer.token or None)


def _network_target(
    address: NetworkAddress, token: str | None, environ: Mapping[str, str]
) -> Target:
    book = PeerBook(peers_file(environ))
    peer = book.at(address.host_port)
    if peer is not None:
        of_peer = target_of_peer(peer, token, book)
        return replace(of_peer, shown=str(address), address=address.host_port)
    if named := environ.get(CA_VARIABLE):
        authorities = read_authorities(named, environ)
        return Target(str(address), address.host_port, Trusted(authorities), token)
    raise EdgedError(
        Reason.PEER_UNKNOWN,
        f"{address.host_port} is on another host and was not paired with: run `edgectl pair "
        f"{address.host_port}`, or set {CA_VARIABLE} if an authority vouches for its certificate",
    )
