"""Decides where the server listens, and finds out beforehand why it could not.

Theory of operation: gRPC says of a failed bind only that it failed, and takes over the socket file
of a daemon that lives. So an address is tried with a plain socket first, whose error is told, and
a socket file is called: only one that nobody answers is removed.
"""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path

import grpc

from edged.errors import ConfigError
from edged.places import MAX_SOCKET_PATH_BYTES, make_private_directory

SOCKET_MODE = 0o660
"""Who may connect: the daemon's user and group, as far as the directory lets them."""

_NOT_OF_THIS_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def listen_tcp(server: grpc.aio.Server, listen: str) -> tuple[str, ...]:
    """Listen on every address of HOST:PORT, with an IPv6 host in brackets; port 0 takes a free one.

    Returns:
        The addresses bound, as "127.0.0.1:7411".

    Raises:
        ConfigError: the name has no address, none of them is this host's, or one is taken.
    """
    host, _, port_text = listen.rpartition(":")
    port = int(port_text)
    bound: list[str] = []
    unusable: OSError | None = None
    for family, address in await _resolve(host.strip("[]"), listen):
        try:
            _try_bind(family, address, port)
        except OSError as error:
            if error.errno in _NOT_OF_THIS_HOST:
                # "localhost" names an IPv6 address too where there is no IPv6.
                unusable = error
                continue
            raise ConfigError(
                f"cannot listen on {listen} (server.listen): {address} port {port}: "
                f"{error.strerror}"
            ) from error
        shown_host = f"[{address}]" if family == socket.AF_INET6 else address
        try:
            port = server.add_insecure_port(f"{shown_host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {listen} (server.listen): {error}") from error
        bound.append(f"{shown_host}:{port}")
    if not bound and unusable is not None:
        raise ConfigError(
            f"cannot listen on {listen} (server.listen): {unusable.strerror}"
        ) from unusable
    return tuple(bound)


def listen_unix(server: grpc.aio.Server, path: Path) -> str:
    """Listen on a socket file, which only the daemon's user and group may connect to.

    A directory that does not exist is made, for this user alone.

    Returns:
        The address bound, as "unix:/run/edged/edged.sock".

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
    try:
        if not _is_safe_and_of_root(path.parent):
            make_private_directory(path.parent)
        _remove_stale(path)
        _try_bind_unix(path)
        server.add_insecure_port(f"unix:{path}")
        path.chmod(SOCKET_MODE)
    except (OSError, RuntimeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"cannot listen on the socket {path} (server.socket): {why}") from error
    return f"unix:{path}"


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
        raise ConfigError(
            f"cannot listen on {listen} (server.listen): no address of {host!r}: {error}"
        ) from error
    addresses = [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found]
    return list(dict.fromkeys(addresses))


def _try_bind(family: socket.AddressFamily, address: str, port: int) -> None:
    """Raises OSError: the host's own reason why this address cannot be bound."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _try_bind_unix(path: Path) -> None:
    """Raises OSError: the host's own reason why this socket cannot be made. No file is left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.bind(str(path))
    path.unlink()


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
    raise ConfigError(
        f"another process listens on the socket {path} (server.socket); stop it or name another"
    )
