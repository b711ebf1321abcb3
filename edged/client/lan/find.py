"""Where the daemon may be that somebody wants to pair with."""

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator

from edged.client.connect.address import PEER_NAME, UNIX_PREFIX, Transport
from edged.client.connect.peers import Peer, PeerBook
from edged.client.lan.browse import find_now
from edged.client.lan.found import FoundDaemon
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.node.lan.dns_sd import MAX_INSTANCE_BYTES
from edged.places import DEFAULT_LISTEN, LOOPBACK_NAMES, is_host_port

DEFAULT_PORT = int(DEFAULT_LISTEN.rpartition(":")[2])

MAX_TRIED = 16
"""Of the addresses of those who claim a name."""
MAX_NAMED = 8
"""Of them in an error."""
_OF_ADDRESSES = ":/@"
"""Who types one of them means an address more likely than a name."""

Look = Callable[[str], tuple[FoundDaemon, ...]]
"""Those of the local network that claim a name or a fingerprint."""


def find_host_ports(text: str, book: PeerBook, look: Look = find_now) -> Iterator[str]:
    """HOST:PORT, the best first, for HOST[:PORT], an IPv6 host with or without brackets, the name
    of a known peer, or a name that the local network or the system's resolver knows. The network
    is asked for a known peer only when its addresses are used up.

    Raises:
        InvalidRequestError: it is none of them, and looks like no name.
        EdgedError: UNREACHABLE, nobody knows the name, or several daemons claim it.
    """
    bare = text.removeprefix(f"{Transport.TLS}:")
    if bare.startswith((UNIX_PREFIX, f"{Transport.PLAINTEXT}:")):
        raise InvalidRequestError(
            "HOST", f"{text!r} is reached without TLS, so there is no certificate to pair for"
        )
    if is_host_port(bare):
        return iter((bare,))
    if _is_address(bare):
        host = f"[{bare.strip('[]')}]" if ":" in bare else bare
        return iter((f"{host}:{DEFAULT_PORT}",))
    if not _may_be_a_name(bare):
        raise _no_address(text)
    known = book.named(bare)
    if known is not None:
        return _of_known(known, look)
    if PEER_NAME.fullmatch(bare) and ("." in bare or bare in LOOPBACK_NAMES):
        return iter((f"{bare}:{DEFAULT_PORT}",))
    return iter(_of_name(bare, look))


def _of_known(peer: Peer, look: Look) -> Iterator[str]:
    """Where it was, then where somebody says now that it is."""
    yield from peer.addresses
    for daemon in look(peer.fingerprint):
        yield from (one for one in daemon.addresses if one not in peer.addresses)


def _of_name(name: str, look: Look) -> tuple[str, ...]:
    found = [daemon for daemon in look(name) if daemon.fingerprint]
    if len({daemon.fingerprint for daemon in found}) > 1:
        claims = [f"{one.addresses[0]} ({one.fingerprint})" for one in found[:MAX_NAMED]]
        claims += [f"and {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
        raise EdgedError(
            Reason.UNREACHABLE,
            f"{len(found)} daemons call themselves {name!r}: name one by its address: "
            + ", ".join(claims),
        )
    if found:
        # Others may claim to be the same.
        claimed = dict.fromkeys(address for one in found for address in one.addresses)
        return tuple(claimed)[:MAX_TRIED]
    if set(name) & set(_OF_ADDRESSES):
        raise _no_address(name, "and no daemon with TLS on the local network calls itself that")
    try:
        if not PEER_NAME.fullmatch(name):
            raise OSError(errno.EINVAL, "no host can have it")
        socket.getaddrinfo(name, DEFAULT_PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EdgedError(
            Reason.UNREACHABLE,
            f"no daemon with TLS on the local network calls itself {name!r}, and there is no host "
            f"of that name: {error.strerror}; `edgectl discover` lists those there are",
        ) from error
    return (f"{name}:{DEFAULT_PORT}",)


def _may_be_a_name(text: str) -> bool:
    """Of a host, or as daemons have them on a local network: "Lab: Studio (2)"."""
    is_label = text.isprintable() and len(text.encode()) <= MAX_INSTANCE_BYTES
    return bool(text.strip()) and is_label


def _no_address(text: str, further: str = "") -> InvalidRequestError:
    told = f"{text!r} is no address" + (f", {further}" if further else "")
    return InvalidRequestError(
        "HOST", f"{told}: expected HOST, HOST:PORT, [IPv6]:PORT, or a name of `edgectl discover`"
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
