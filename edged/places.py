"""Where a daemon and its clients meet on one host: addresses, sockets, the configuration file.

Imports nothing heavy, because every start of `edgectl` pays for it.
"""

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

DEFAULT_LISTEN = "127.0.0.1:7411"
SERVICE_SOCKET = Path("/run/edged/edged.sock")
SYSTEM_CONFIG_FILE = Path("/etc/edged/config.toml")
SOCKET_NAME = "edged.sock"

MAX_SOCKET_PATH_BYTES = 107
"""sockaddr_un.sun_path holds 108 bytes on Linux, the last of which is NUL."""

_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9._-]+):(\d{1,5})")


def is_host_port(text: str) -> bool:
    """Whether `text` is HOST:PORT, with an IPv6 host in brackets and a port in 0 … 65535."""
    found = _HOST_PORT.fullmatch(text)
    return found is not None and int(found[1]) <= 65535


def user_socket(environ: Mapping[str, str]) -> Path:
    """The socket of a daemon that a user started by hand.

    Without an XDG_RUNTIME_DIR it lies in a directory of the user's own under the temporary
    directory, which whoever binds it must make with `make_private_directory`.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return Path(runtime) / "edged" / SOCKET_NAME
    return Path(tempfile.gettempdir()) / f"edged-{os.getuid()}" / SOCKET_NAME


def daemon_socket(environ: Mapping[str, str]) -> Path:
    """The socket that `server.socket = "auto"` stands for.

    systemd sets RUNTIME_DIRECTORY for a service that has one: the first of its directories is used.
    """
    service = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(service) / SOCKET_NAME if service else user_socket(environ)


def kv_directory(environ: Mapping[str, str]) -> Path:
    """The directory that `engine.disk_directory = "auto"` stands for.

    systemd sets CACHE_DIRECTORY for a service that has one. Without a home it is the user's own
    under the temporary directory, as the socket's.
    """
    service = environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if service:
        return Path(service) / "kv"
    home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home) and environ.get("HOME"):
        home = os.path.join(environ["HOME"], ".cache")
    if os.path.isabs(home):
        return Path(home) / "edged" / "kv"
    return user_socket({}).parent / "kv"


def client_sockets(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a client looks for a daemon's socket: the user's own daemon first, then the service.

    Not in a directory that somebody else could have made: what listens there would be told prompts.
    """
    own = user_socket(environ)
    return (own, SERVICE_SOCKET) if is_private_directory(own.parent) else (SERVICE_SOCKET,)


def make_private_directory(directory: Path) -> None:
    """Make a directory that only this user can enter; one that exists must be so already.

    Raises:
        PermissionError: it belongs to another user, is a link, or others may write to it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private_directory(directory):
        raise PermissionError(
            f"{directory} must be a directory of user {os.geteuid()} that nobody else may write to"
        )


def is_private_directory(directory: Path) -> bool:
    """Whether it is a directory of this user, no link, that nobody else may write to."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_ours and not found.st_mode & 0o022


def config_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the configuration is looked for when nobody names a file; the first that exists wins.

    A relative XDG_CONFIG_HOME is ignored, as the XDG specification asks.
    """
    home = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home) and environ.get("HOME"):
        home = os.path.join(environ["HOME"], ".config")
    user = (Path(home) / "edged" / "config.toml",) if os.path.isabs(home) else ()
    return (*user, SYSTEM_CONFIG_FILE)
