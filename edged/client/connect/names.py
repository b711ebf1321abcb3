"""Looks a host's name up, and writes its addresses as gRPC takes them.

gRPC has a resolver of its own, which knows DNS and /etc/hosts alone. A name that the system knows
from elsewhere, be it *.local by mDNS, is none to it. So the system is asked, as by every other
program, and gRPC is given addresses. The system may take half a minute where a server for names is
silent, and cannot be told to stop: it is asked on a thread of its own, which is left behind then.
Whoever asks for the same name soon after waits for the same answer; later it is asked anew, because
the network may be another.
"""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote

from edged.client.connect import aside
from edged.client.connect.address import UNIX_PREFIX
from edged.errors import EdgedError, Reason

Found = tuple[socket.AddressFamily, tuple[Any, ...]]
"""An address as sockets take it."""
LOOK_UP_LIMIT_S = 10.0
"""Many systems ask a second server when the first has been silent for 5 s."""
ASK_ANEW_S = 5.0
"""After so long an answer that has not come is no longer waited for by others."""

_asked: "dict[tuple[int, str], tuple[Future[list[Found]], float]]" = {}
"""What the system is being asked, and since when; of a process that was forked the parent's threads
are not."""


class NoAddressError(EdgedError):
    """The system knows no address of that name."""

    def __init__(self, host: str, why: object) -> None:
        super().__init__(Reason.UNREACHABLE, f"{host} has no address here: {why}")


def look_up(host_port: str, within_s: float = LOOK_UP_LIMIT_S) -> list[Found]:
    """Every address of HOST:PORT, the system's best first.

    Raises:
        NoAddressError: there is none, or the system does not tell in time.
    """
    if found := _of_address(host_port):
        return found
    try:
        return _asking(host_port).result(within_s)
    except (TimeoutError, OSError, ValueError) as error:
        raise _no_address(host_port, error, within_s) from error


async def look_up_async(host_port: str, within_s: float = LOOK_UP_LIMIT_S) -> list[Found]:
    """As `look_up`, on an event loop."""
    if found := _of_address(host_port):
        return found
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(_asking(host_port))
    except (TimeoutError, OSError, ValueError) as error:
        raise _no_address(host_port, error, within_s) from error


def _of_address(host_port: str) -> list[Found]:
    """None, if it is a name."""
    try:
        return _ask(host_port, socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return []


def _asking(host_port: str) -> "Future[list[Found]]":
    key, now_s = (os.getpid(), host_port), time.monotonic()
    known = _asked.get(key)
    if known is not None and now_s - known[1] < ASK_ANEW_S:
        return known[0]
    asking = aside.begun(lambda: _ask(host_port))
    own = _asked[key] = asking, now_s

    def forget(_: object) -> None:
        if _asked.get(key) is own:
            _asked.pop(key, None)

    asking.add_done_callback(forget)
    return asking


def _ask(host_port: str, flags: int = 0) -> list[Found]:
    """Raises OSError or ValueError: there is none."""
    host, _, port = host_port.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


def no_address_yet(host_port: str, within_s: float) -> NoAddressError:
    return _no_address(host_port, TimeoutError(), within_s)


def _no_address(host_port: str, error: Exception, within_s: float) -> NoAddressError:
    why = getattr(error, "strerror", None) or str(error)
    late = f"the system has not told one within {within_s:.3g} s"
    return NoAddressError(host_port.rpartition(":")[0].strip("[]"), why or late)


def uri_of(address: str, within_s: float = LOOK_UP_LIMIT_S) -> str:
    """Of "unix:/PATH" or HOST:PORT, as gRPC takes it. Looks a name up.

    Raises:
        NoAddressError: it has none, or the system does not tell in time.
    """
    return _uri_of_socket(address) or _uri_of_all(look_up(address, within_s))


async def uri_of_async(address: str, within_s: float = LOOK_UP_LIMIT_S) -> str:
    """As `uri_of`, on an event loop."""
    return _uri_of_socket(address) or _uri_of_all(await look_up_async(address, within_s))


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
