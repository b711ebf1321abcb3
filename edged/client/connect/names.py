"""Looks a host's name up, and writes its addresses as gRPC takes them.

gRPC has a resolver of its own, which knows DNS and /etc/hosts alone. A name that the system knows
from elsewhere, be it *.local by mDNS, is none to it. So the system is asked, as by every other
program, and gRPC is given addresses.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from edged.client.connect.address import UNIX_PREFIX
from edged.errors import EdgedError, Reason

Found = tuple[socket.AddressFamily, tuple[Any, ...]]
"""An address as sockets take it."""


class NoAddressError(EdgedError):
    """The system knows no address of that name."""

    def __init__(self, host: str, why: object) -> None:
        super().__init__(Reason.UNREACHABLE, f"{host} has no address here: {why}")


def look_up(host_port: str, flags: int = 0) -> list[Found]:
    """Every address of HOST:PORT, the system's best first. Takes as long as the system likes.

    Raises:
        NoAddressError: there is none.
    """
    host, _, port = host_port.rpartition(":")
    bare = host.strip("[]")
    try:
        found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM, flags=flags)
    except (OSError, ValueError) as error:
        raise NoAddressError(bare, getattr(error, "strerror", None) or error) from error
    return [(family, address) for family, _, _, _, address in found]


async def look_up_async(host_port: str) -> list[Found]:
    """As `look_up`, on an event loop: a name is looked up on a thread, an address needs none."""
    try:
        return look_up(host_port, socket.AI_NUMERICHOST)
    except NoAddressError:
        return await asyncio.to_thread(look_up, host_port)


def uri_of(address: str) -> str:
    """Of "unix:/PATH" or HOST:PORT, as gRPC takes it. Looks a name up.

    Raises:
        NoAddressError: it has none.
    """
    return _uri_of_socket(address) or _uri_of_all(look_up(address))


async def uri_of_async(address: str) -> str:
    """As `uri_of`, on an event loop."""
    return _uri_of_socket(address) or _uri_of_all(await look_up_async(address))


def _uri_of_socket(address: str) -> str | None:
    """In a URI "#" and "?" end a path, and "%41" is a byte. None: it is no socket's."""
    if not address.startswith(UNIX_PREFIX):
        return None
    return UNIX_PREFIX + quote(os.fsencode(address.removeprefix(UNIX_PREFIX)))


def _uri_of_all(found: Sequence[Found]) -> str:
    """gRPC tries them in their order. It takes no addresses of both kinds, but IPv6 has a way to
    write those of IPv4, which are connected to by IPv4."""
    if all(family == socket.AF_INET for family, _ in found):
        return "ipv4:" + ",".join(f"{host}:{port}" for _, (host, port, *_) in found)
    return "ipv6:" + ",".join(_in_ipv6(family, address) for family, address in found)


def _in_ipv6(family: socket.AddressFamily, address: tuple[Any, ...]) -> str:
    host, port, *rest = address
    if family == socket.AF_INET:
        return f"[::ffff:{host}]:{port}"
    scope = rest[-1] if rest else 0
    return f"[{host}%25{scope}]:{port}" if scope else f"[{host}]:{port}"
