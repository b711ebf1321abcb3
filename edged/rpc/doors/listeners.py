"""Decides where the server listens, and finds out beforehand why it could not.

Theory of operation: gRPC says of a failed bind only that it failed. So an address is tried with a
plain socket first, whose error is told, and a socket file is called: only one that nobody answers
is removed.
"""

import asyncio
import errno
import os
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import grpc

from edged.errors import AddressError, ConfigError
from edged.places import MAX_SOCKET_PATH_BYTES, is_loopback, make_private_directory

SOCKET_MODE = 0o660
"""Who may connect: the daemon's user and group, as far as the directory lets them."""
SOCKET_BACKLOG = 128
"""Connections that wait to be taken; for more, the system makes the client wait."""
_INNER_NAME_BYTES = 16
"""The longest name in the inner socket's directory: a connection's number."""

_NOT_OF_THIS_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class TcpAddresses:
    """What one HOST:PORT of the settings stands for."""

    listen: str
    """As it was given."""
    port: int
    addresses: tuple[tuple[socket.AddressFamily, str], ...]

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it, under every one of its addresses."""
        return all(is_loopback(address) for _, address in self.addresses)


async def find_addresses(listen: str) -> TcpAddresses:
    """Every address of HOST:PORT, with an IPv6 host in brackets.

    Raises:
        ConfigError: the name has no address.
    """
    host, _, port = listen.rpartition(":")
    return TcpAddresses(listen, int(port), tuple(await _resolve(host.strip("[]"), listen)))


def listen_tcp(
    server: grpc.aio.Server, wanted: TcpAddresses, credentials: grpc.ServerCredentials | None
) -> tuple[str, ...]:
    """Listen on every one of the addresses; port 0 takes a free one. Without credentials it is
    plaintext.

    Returns:
        The addresses bound, as "127.0.0.1:7411".

    Raises:
        ConfigError: none of them is this host's, or one is taken.
    """
    listen, port = wanted.listen, wanted.port
    bound: list[str] = []
    unusable: OSError | None = None
    for family, address in wanted.addresses:
        try:
            _try_bind(family, address, port)
        except OSError as error:
            if error.errno in _NOT_OF_THIS_HOST:
                # "localhost" names an IPv6 address too where there is no IPv6.
                unusable = error
                continue
            raise AddressError(
                f"cannot listen on {listen} (server.listen): {address} port {port}: "
                f"{error.strerror}"
            ) from error
        host = f"[{address}]" if family == socket.AF_INET6 else address
        try:
            port = _add_port(server, f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {listen} (server.listen): {error}") from error
        bound.append(f"{host}:{port}")
    if not bound and unusable is not None:
        raise AddressError(
            f"cannot listen on {listen} (server.listen): {unusable.strerror}"
        ) from unusable
    return tuple(bound)


def _add_port(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    # To gRPC "%ba" is a byte, be it of fe80::1%bat0.
    address = quote(address, safe="[]:")
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)


def listen_unix(path: Path) -> socket.socket:
    """Listen on a socket file, which only the daemon's user and group may connect to.

    A directory that does not exist is made, for this user alone.

    Raises:
        ConfigError: a daemon answers there, the file is no socket, the directory is unsafe or
            cannot be made, or the path is too long.
    """
    num_bytes = len(os.fsencode(path))
    if num_bytes > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the socket's path {path} (server.socket) has {num_bytes} bytes; "
            f"expected at most {MAX_SOCKET_PATH_BYTES}"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not _is_safe_and_of_root(path.parent):
            make_private_directory(path.parent)
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(SOCKET_BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressError(
            f"cannot listen on the socket {path} (server.socket): {error.strerror or error}"
        ) from error
    except ConfigError:
        listener.close()
        raise
    return listener


@dataclass(frozen=True, slots=True)
class InnerSocket:
    """Where gRPC listens behind the relay of the unix socket: in a directory of its own, which
    only this user can enter."""

    path: Path

    @classmethod
    def beside(cls, outer: Path) -> "InnerSocket":
        """Next to the socket that clients know, so that what a killed daemon leaves is found and
        replaced; elsewhere if the path would be too long.

        Raises:
            ConfigError: the directory cannot be made, or is another user's.
        """
        directory = outer.with_name(f".{outer.name}.d")
        try:
            if len(os.fsencode(directory)) + _INNER_NAME_BYTES > MAX_SOCKET_PATH_BYTES:
                directory = Path(tempfile.mkdtemp(prefix="edged-"))
            else:
                make_private_directory(directory)
                for left in directory.iterdir():
                    left.unlink()
        except OSError as error:
            raise AddressError(
                f"cannot make the directory {directory}, beside the socket {outer} "
                f"(server.socket): {error.strerror or error}"
            ) from error
        return cls(directory / "grpc")

    def remove(self) -> None:
        """The directory and all that is in it, if it is still there."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


def _is_safe_and_of_root(directory: Path) -> bool:
    """Whether it is the system's own, as /run or /tmp, and nobody can take files of others away."""
    if not directory.is_dir():
        return False
    found = directory.stat()
    others_may_write = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    return found.st_uid == 0 and not others_may_write


async def _resolve(host: str, listen: str) -> list[tuple[socket.AddressFamily, str]]:
    """Every address of a host, each once."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"cannot listen on {listen} (server.listen): no address of {host!r}: {error}"
        ) from error
    addresses = [(family, _numeric(sockaddr)) for family, _, _, _, sockaddr in found]
    return list(dict.fromkeys(addresses))


def _numeric(sockaddr: tuple[object, ...]) -> str:
    """The address alone; that of a link with its interface, as fe80::1%eth0."""
    host, _, *of_ipv6 = sockaddr
    scope = of_ipv6[1] if of_ipv6 else 0
    return (
        f"{host}%{socket.if_indextoname(scope)}" if isinstance(scope, int) and scope else f"{host}"
    )


def _try_bind(family: socket.AddressFamily, address: str, port: int) -> None:
    """Raises OSError: the host's own reason why this address cannot be bound."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        [(_, _, _, _, sockaddr)] = socket.getaddrinfo(
            address, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        probe.bind(sockaddr)


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody answers.

    Raises:
        ConfigError: somebody answers, or it is another kind of file.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} (server.socket) exists and is no socket; expected a free path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A daemon whose queue of connections is full lives, and must not hold this one up.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise AddressError(
        f"another process listens on the socket {path} (server.socket); stop it or name another"
    )
