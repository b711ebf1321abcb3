"""Where the daemon is that somebody wants to pair with."""

import ipaddress
import socket

from edged.client.address import PEER_NAME, UNIX_PREFIX, Transport
from edged.client.peers import PeerBook
from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.places import DEFAULT_LISTEN, LOOPBACK_NAMES, is_host_port

DEFAULT_PORT = int(DEFAULT_LISTEN.rpartition(":")[2])


def find_host_port(text: str, book: PeerBook) -> str:
    """HOST:PORT for HOST[:PORT], an IPv6 host with or without brackets, the name of a known peer,
    or a name that the local network or the system's resolver knows.

    Raises:
        InvalidRequestError: it is none of them.
        EdgedError: UNREACHABLE, nobody knows the name.
    """
    bare = text.removeprefix(f"{Transport.TLS}:")
    if bare.startswith((UNIX_PREFIX, f"{Transport.PLAINTEXT}:")):
        raise InvalidRequestError(
            "HOST", f"{text!r} is reached without TLS, so there is no certificate to pair for"
        )
    if is_host_port(bare):
        return bare
    if _is_address(bare):
        host = f"[{bare.strip('[]')}]" if ":" in bare else bare
        return f"{host}:{DEFAULT_PORT}"
    if not PEER_NAME.fullmatch(bare):
        raise InvalidRequestError(
            "HOST", f"{text!r} is no address: expected HOST, HOST:PORT, [IPv6]:PORT, or a name"
        )
    known = book.named(bare)
    if known is not None:
        return known.addresses[0]
    if "." in bare or bare in LOOPBACK_NAMES:
        return f"{bare}:{DEFAULT_PORT}"
    return find_by_name(bare)


def find_by_name(name: str) -> str:
    """HOST:PORT of the host of that name.

    Raises:
        EdgedError: UNREACHABLE; the system's resolver does not know it.
    """
    try:
        socket.getaddrinfo(name, DEFAULT_PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EdgedError(
            Reason.UNREACHABLE,
            f"there is no host {name!r}: {error.strerror}; name the daemon's as HOST[:PORT]",
        ) from error
    return f"{name}:{DEFAULT_PORT}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
