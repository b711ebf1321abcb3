"""Where a daemon and its clients meet on one host: addresses, sockets, the configuration file.

Imports nothing heavy, because every start of `edgectl` pays for it.
"""

import ipaddress
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

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})

_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9._-]+):(\d{1,5})")


def is_host_port(text: str) -> bool:
    """Whether `text` is HOST:PORT, with an IPv6 host in brackets and a port in 0 … 65535."""
    found = _HOST_PORT.fullmatch(text)
    return found is not None and int(found[1]) <= 65535


def is_loopback(host: str) -> bool:
    """Whether a name or an address (an IPv6 one with or without brackets) is of this host alone."""
    text = host.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text.lower() in LOOPBACK_NAMES
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


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
    home = _xdg_home(environ, "XDG_CACHE_HOME", ".cache")
    return home / "edged" / "kv" if home else user_socket({}).parent / "kv"


def state_directory(environ: Mapping[str, str]) -> Path:
    """The directory that `server.state_directory = "auto"` stands for: the daemon's key and tokens.

    systemd sets STATE_DIRECTORY for a service that has one. Without a home it is the user's own
    under the temporary directory, as the socket's.
    """
    service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if service:
        return Path(service)
    home = _xdg_home(environ, "XDG_STATE_HOME", ".local/state")
    return home / "edged" if home else user_socket({}).parent / "state"


def peers_file(environ: Mapping[str, str]) -> Path:
    """Where a client keeps the daemons it knows: their certificates, and its tokens for them."""
    home = _xdg_home(environ, "XDG_CONFIG_HOME", ".config")
    return (home / "edged" if home else user_socket({}).parent) / "peers.json"


def _xdg_home(environ: Mapping[str, str], variable: str, default: str) -> Path | None:
    """A relative path is ignored, as the XDG specification asks; None without a home."""
    home = environ.get(variable, "")
    if not os.path.isabs(home) and environ.get("HOME"):
        home = os.path.join(environ["HOME"], default)
    return Path(home) if os.path.isabs(home) else None


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


def is_private_directory(directory: Path, uid: int | None = None) -> bool:
    """Whether it is a directory of this user, or the one named, no link, that nobody else may
    write to."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    owner = os.geteuid() if uid is None else uid
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == owner
    return is_ours and not found.st_mode & 0o022


def config_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a configuration is looked for when nobody names a file; the first that exists wins."""
    home = _xdg_home(environ, "XDG_CONFIG_HOME", ".config")
    user = (home / "edged" / "config.toml",) if home else ()
    return (*user, SYSTEM_CONFIG_FILE)
