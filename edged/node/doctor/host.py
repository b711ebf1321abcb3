"""What is asked of a machine: its files, commands, interfaces, limits, and who asks.

A value, so that a check can be shown any machine: files below another root, commands of a PATH of
its own. Only sockets are always those of the machine that the check runs on.
"""

import grp
import os
import platform
import pwd
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from edged.places import is_loopback

COMMAND_LIMIT_S = 1.2
MAX_FILE_BYTES = 4 * 1024 * 1024
"""Of a file that is read: more is not what it was taken for."""

Access = Literal["read", "write", "use", "enter"]
"""`use` is to read and write, as devices are; `enter` is to reach what is in a directory."""

_NEEDED_BITS: Mapping[Access, int] = {"read": 4, "write": 2, "use": 6, "enter": 1}
_ACCESS_LIST = "system.posix_acl_access"
_NOBODY = -1


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gids: frozenset[int]
    name: str

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def is_known(self) -> bool:
        """Else it is one that systemd makes up, and no file is its own before."""
        return self.uid != _NOBODY


@dataclass(frozen=True, slots=True)
class Interface:
    """Of the network."""

    name: str
    is_up: bool
    is_loopback: bool
    has_multicast: bool
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    is_point_to_point: bool = False
    """As a VPN's tunnel."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return (*self.ipv4, *self.ipv6)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Limit:
    """Of a resource: None is none."""

    soft: int | None
    hard: int | None


@dataclass(frozen=True, slots=True)
class Host:
    environ: Mapping[str, str]
    user: User
    root: Path = Path("/")
    system: str = sys.platform
    machine: str = field(default_factory=platform.machine)
    python: tuple[int, int] = sys.version_info[:2]
    executable: str = sys.executable
    site: tuple[str, ...] = ()
    """Where packages are looked for."""
    now_s: float = field(default_factory=time.time)
    """Of the clock on the wall."""
    installed_s: float = 0.0
    """When edged was installed here, by that clock."""
    interfaces: tuple[Interface, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By name: "files", "address space"."""

    def is_own(self, address: str) -> bool:
        """Whether unix:PATH or HOST:PORT is surely of this machine: a name may be of any."""
        name = address.rpartition(":")[0].strip("[]")
        if address.startswith("unix:") or is_loopback(name):
            return True
        own = [one for interface in self.interfaces for one in interface.addresses]
        return name.partition("%")[0] in {one.partition("%")[0] for one in own}

    # ── Files ────────────────────────────────────────────────────────────────────────────────────

    def path(self, absolute: str | Path) -> Path:
        """Where a file of that machine is on this one."""
        return self.root / str(absolute).lstrip("/")

    def read(self, absolute: str | Path) -> str | None:
        """A small file's text without the white space around it; None if it cannot be read."""
        try:
            with self.path(absolute).open(errors="replace") as file:
                return file.read(MAX_FILE_BYTES).strip()
        except OSError:
            return None

    def stat(self, absolute: str | Path) -> os.stat_result | None:
        """None if it is not there, or this user may not see it."""
        try:
            return self.path(absolute).stat()
        except OSError:
            return None

    def exists(self, absolute: str | Path) -> bool:
        return self.stat(absolute) is not None

    def is_dir(self, absolute: str | Path) -> bool:
        """Not so either if this user may not see it."""
        found = self.stat(absolute)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def real(self, absolute: str | Path) -> Path:
        """Where links lead, as far as this user may see."""
        # Not resolve(), which raises at links that lead to each other.
        found, root = (Path(os.path.realpath(one)) for one in (self.path(absolute), self.root))
        return Path("/") / (found.relative_to(root) if found.is_relative_to(root) else found)

    def glob(self, folder: str, pattern: str) -> list[Path]:
        try:
            return sorted(self.path(folder).glob(pattern))
        except OSError:
            return []

    def may(self, access: Access, path: Path, user: User | None = None) -> bool:
        """Whether somebody, who asks if nobody is named, may do so with a file that exists. The
        system is asked where that is who runs this, since it knows access lists and read-only
        disks; of anybody else what an access list may give counts as given."""
        user = user or self.user
        needed = _NEEDED_BITS[access]
        if user.uid == os.geteuid():
            return os.access(path, needed)
        try:
            found = path.stat()
            has_list = _ACCESS_LIST in _attributes(path)
        except OSError:
            return False
        is_of_group = (
            found.st_gid in user.gids or has_list
        )  # its mask is where the group's bits are
        shift = 6 if found.st_uid == user.uid else 3 if is_of_group else 0
        return user.is_root or (found.st_mode >> shift) & needed == needed

    def user_named(self, name: str, groups: Iterable[str]) -> User:
        """Who a service of these groups is: one that the host does not know owns no file."""
        own = [line for line in self._lines("/etc/passwd") if line[0] == name and len(line) > 3]
        uid, gids = (int(own[0][2]), {int(own[0][3])}) if own else (_NOBODY, set[int]())
        for line in self._lines("/etc/group"):
            if len(line) > 3 and (line[0] in groups or name in line[3].split(",")):
                gids.add(int(line[2]))
        return User(uid, frozenset(gids), name)

    def _lines(self, absolute: str) -> list[list[str]]:
        return [line.split(":") for line in (self.read(absolute) or "").splitlines()]

    # ── Commands ─────────────────────────────────────────────────────────────────────────────────

    def which(self, *names: str) -> str | None:
        """The first of these commands that there is, as a path."""
        search = self.environ.get("PATH", os.defpath)
        found = (shutil.which(name, path=search) for name in names)
        return next((path for path in found if path is not None), None)

    def run(self, *command: str) -> Ran | None:
        """None if there is no such command, or it does not end in time."""
        program = self.which(command[0])
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**self.environ, "LC_ALL": "C"},
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return Ran(done.returncode, output.strip(), errors.strip())


def this_host(environ: Mapping[str, str]) -> Host:
    return Host(
        environ=environ,
        user=_this_user(),
        site=tuple(sys.path),
        installed_s=Path(__file__).stat().st_mtime,
        interfaces=_interfaces(),
        limits=_limits(),
    )


def _attributes(path: Path) -> list[str]:
    """Where the system and the file system have them."""
    if sys.platform != "linux":
        return []
    try:
        return os.listxattr(path)
    except OSError:
        return []


def _this_user() -> User:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return User(uid, frozenset({os.getegid(), *os.getgroups()}), name)


def user_name(uid: int) -> str:
    """Or the number of one that has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Or the number of one that has no name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def shown_mode(mode: int) -> str:
    """As chmod takes it: "0640"."""
    return f"{stat.S_IMODE(mode):04o}"


def _interfaces() -> tuple[Interface, ...]:
    """Addresses with a label, as eth0:1, are those of eth0."""
    addresses = psutil.net_if_addrs()
    found = []
    for name, state in psutil.net_if_stats().items():
        flags = state.flags.split(",")
        labelled = [label for label in addresses if label.partition(":")[0] == name]
        own = [one for label in labelled for one in addresses[label]]
        found.append(
            Interface(
                name=name,
                is_up=state.isup,
                is_loopback="loopback" in flags,
                has_multicast="multicast" in flags,
                ipv4=tuple(one.address for one in own if one.family == socket.AF_INET),
                ipv6=tuple(one.address for one in own if one.family == socket.AF_INET6),
                is_point_to_point="pointopoint" in flags,
            )
        )
    return tuple(found)


def _limits() -> Mapping[str, Limit]:
    numbers = {
        "files": resource.RLIMIT_NOFILE,
        "address space": resource.RLIMIT_AS,
    }
    return {name: _limit(*resource.getrlimit(number)) for name, number in numbers.items()}


def _limit(soft: int, hard: int) -> Limit:
    numbers = (None if number == resource.RLIM_INFINITY else number for number in (soft, hard))
    return Limit(*numbers)
