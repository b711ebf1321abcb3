"""Can the daemon listen on its unix socket, and will clients trust the directory that it is in?"""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.node.doctor.finding import Finding, note, ok, problem, warning
from edged.node.doctor.host import Host, group_name, shown_mode, user_name
from edged.node.doctor.sandbox import Obstacle, not_writable
from edged.node.doctor.subject import Refused, Running, Subject
from edged.places import MAX_SOCKET_PATH_BYTES

_CONNECT_LIMIT_S = 0.5
_GROUP_MAY_ENTER = "0750"


def check(subject: Subject) -> Iterator[Finding]:
    if subject.settings is None:
        return
    path = subject.socket
    if path is None:
        yield ok("socket.off", "server.socket is off")
        return
    num_bytes = len(os.fsencode(path))
    if num_bytes > MAX_SOCKET_PATH_BYTES:
        yield problem(
            "socket.long",
            f"the socket's path {path} has {num_bytes} bytes; the system takes "
            f"{MAX_SOCKET_PATH_BYTES}",
            "name a shorter one in server.socket",
        )
        return
    if folder := subject.unit.private(path) if subject.unit else "":
        yield problem(
            "socket.directory",
            f"{folder} is the service's own: no client finds {path} there",
            'set server.socket = "auto", which is a directory that clients look into',
        )
        return
    obstacle = None if _is_served(subject, path) else _obstacle(subject, path.parent)
    if obstacle is not None:
        text = f"the service cannot make a socket in {path.parent}: {obstacle.why}"
        yield problem("socket.directory", text, obstacle.fix)
        return
    yield from _directory(subject, path.parent)
    yield from _file(subject, path)


def _is_served(subject: Subject, path: Path) -> bool:
    daemon = subject.local_daemon
    return daemon is not None and f"unix:{path}" in (daemon.at, *daemon.listeners)


def _obstacle(subject: Subject, directory: Path) -> Obstacle | None:
    unit = subject.unit
    if unit is None or (unit.may_change(directory) and _is_everybodys(subject.host, directory)):
        return None
    return not_writable(subject.host, unit, subject.user, directory, _GROUP_MAY_ENTER)


def _is_everybodys(host: Host, directory: Path) -> bool:
    """As /dev/shm: the system's, and whoever makes a file in it is alone to take it away."""
    found = host.stat(directory)
    return found is not None and found.st_uid == 0 and stat.S_IMODE(found.st_mode) == 0o1777


def _directory(subject: Subject, directory: Path) -> Iterator[Finding]:
    host = subject.host
    try:
        found = host.path(directory).lstat()
    except PermissionError:
        yield note("socket.directory", f"{directory} cannot be looked into by {host.user.name}")
        return
    except OSError:
        yield from _to_be_made(subject, directory)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield problem(
            "socket.directory",
            f"{directory}, where the socket is to be, is no directory",
            f"remove it: rm {directory}",
        )
        return
    others_may_write = found.st_mode & 0o022
    is_sticky = found.st_mode & stat.S_ISVTX
    if found.st_uid == 0 and not host.user.is_root:
        if others_may_write and not is_sticky:
            yield _open_directory(directory, found.st_mode, "sudo chmod go-w")
        elif not host.may("write", host.path(directory)) and not subject.is_service:
            yield problem(
                "socket.directory",
                f"user {host.user.name} may not make a socket in {directory}",
                'set server.socket = "auto", which is a directory of the user\'s own',
            )
        else:
            yield ok("socket.directory", f"{directory} is the system's")
    elif found.st_uid != host.user.uid and not host.user.is_root:
        owner = user_name(found.st_uid)
        if subject.is_service:
            yield ok("socket.directory", f"{directory} is the service's ({owner})")
        else:
            yield problem(
                "socket.directory",
                f"{directory} belongs to {owner}, so that neither a daemon of {host.user.name} "
                "nor its clients trust it",
                f"remove it (as {owner} or root), or name another path in server.socket",
            )
    elif others_may_write and not (found.st_uid == 0 and is_sticky):
        yield _open_directory(directory, found.st_mode, "chmod go-w")
    else:
        yield ok("socket.directory", f"{directory} is private")


def _open_directory(directory: Path, mode: int, command: str) -> Finding:
    return problem(
        "socket.directory",
        f"others may write to {directory} (mode {shown_mode(mode)}), and put a socket of theirs "
        "in the place of the daemon's",
        f"{command} {directory}",
    )


def _to_be_made(subject: Subject, directory: Path) -> Iterator[Finding]:
    host = subject.host
    above = directory
    while not host.exists(above) and above != above.parent:
        above = above.parent
    if host.may("write", host.path(above)) or subject.is_service:
        yield ok("socket.directory", f"{directory} will be made at the start")
    else:
        yield problem(
            "socket.directory",
            f"{directory} does not exist, and {host.user.name} may not make it in {above}",
            f"sudo install -d -o {host.user.name} -m 0700 {directory}",
        )


def _file(subject: Subject, path: Path) -> Iterator[Finding]:
    try:
        mode = subject.host.path(path).lstat().st_mode
    except PermissionError:
        yield _not_allowed(subject, path.parent)
        return
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        yield problem(
            "socket.file", f"{path} exists and is no socket", f"move it away: mv {path} {path}.old"
        )
        return
    if not subject.host.may("write", subject.host.path(path)):
        yield _not_allowed(subject, path)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_LIMIT_S)
        try:
            probe.connect(str(subject.host.path(path)))
        except ConnectionRefusedError:
            yield note(
                "socket.stale",
                f"{path} was left behind by a daemon that was killed",
                "nothing: the next daemon removes it",
            )
            return
        except OSError as error:
            yield note("socket.file", f"{path}: {error.strerror or error}")
            return
    if isinstance(subject.ask_at(f"unix:{path}"), Running | Refused):
        yield ok("socket.served", f"a daemon answers on {path}")
    else:
        yield problem(
            "socket.taken",
            f"something that is not edged, or hangs, listens on {path}",
            f"`lsof {path}` names it: stop it, or name another path in server.socket",
        )


def _not_allowed(subject: Subject, path: Path) -> Finding:
    """It works, for others."""
    name, found = subject.host.user.name, subject.host.stat(path)
    group = "edged" if found is None else group_name(found.st_gid)
    return warning(
        "socket.access",
        f"user {name} may not use {path}, which is for those in group {group}",
        f"sudo usermod -aG {group} {name}, then log in again",
    )
