"""What the text that names a daemon means, and which daemon is meant where nothing was said.

| text | daemon |
|---|---|
| `unix:PATH` | behind a unix socket |
| `HOST:PORT` | plaintext on a loopback address; elsewhere TLS, and paired with |
| `tls:HOST:PORT` | TLS wherever it is |
| `plaintext:HOST:PORT` | no TLS wherever it is: readable, and changeable, on the way |
| `NAME` | paired with under this name |
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edged.errors import InvalidRequestError
from edged.places import DEFAULT_LISTEN, client_sockets, is_host_port, is_loopback

HOST_VARIABLE = "EDGED_HOST"
UNIX_PREFIX = "unix:"
PEER_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
_PROBE_TIMEOUT_S = 0.2


class Transport(StrEnum):
    TLS = "tls"
    PLAINTEXT = "plaintext"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    path: str
    """Absolute: gRPC resolves a relative one against its own idea of the working directory."""

    def __str__(self) -> str:
        return f"{UNIX_PREFIX}{self.path}"


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    host_port: str
    """HOST:PORT, an IPv6 host in brackets."""
    transport: Transport

    def __str__(self) -> str:
        return self.host_port

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.host_port.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.host_port.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class PeerName:
    name: str

    def __str__(self) -> str:
        return self.name


Address = SocketAddress | NetworkAddress | PeerName


def choose_address(
    given: str | None, environ: Mapping[str, str], option: str = "--host"
) -> Address:
    """`given`, else $EDGED_HOST, else a usual socket that something listens on, else the usual
    TCP address. `option` names the first of them in errors.

    Raises:
        InvalidRequestError: what was given is no address.
    """
    for source, text in ((option, given), (HOST_VARIABLE, environ.get(HOST_VARIABLE))):
        if text:
            return parse_address(text, source)
    for path in client_sockets(environ):
        if _is_listening(path):
            return SocketAddress(str(path))
    return NetworkAddress(DEFAULT_LISTEN, Transport.PLAINTEXT)


def parse_address(text: str, source: str = "address") -> Address:
    """The table above. `source` says in errors where the text comes from.

    Raises:
        InvalidRequestError: it is none of them.
    """
    if text.startswith(UNIX_PREFIX) and len(text) > len(UNIX_PREFIX):
        return SocketAddress(os.path.abspath(text.removeprefix(UNIX_PREFIX)))
    for transport in Transport:
        host_port = text.removeprefix(f"{transport}:")
        if host_port != text and is_host_port(host_port):
            return NetworkAddress(host_port, transport)
    if is_host_port(text):
        on_loopback = is_loopback(text.rpartition(":")[0])
        return NetworkAddress(text, Transport.PLAINTEXT if on_loopback else Transport.TLS)
    if PEER_NAME.fullmatch(text):
        return PeerName(text)
    raise InvalidRequestError(
        source,
        f"{text!r} is no address: expected HOST:PORT, [IPv6]:PORT, unix:PATH, tls:HOST:PORT, "
        "plaintext:HOST:PORT, or the name of a daemon that was paired with",
    )


def _is_listening(path: Path) -> bool:
    """A daemon that was killed leaves its socket behind, so to exist is not enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
