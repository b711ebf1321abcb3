"""Why the service cannot read or write what it is configured with, and what lets it.

Theory of operation: the service is a user of its own in a view of the system that its unit gives
it. So a path is followed in that view, through links and what is bound there, and modes are those
that this user finds. Folders that systemd makes for a bind, in a home that is hidden, stop nobody.
"""

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from edged.node.doctor.host import Host, User, shown_mode, user_name
from edged.node.doctor.unit import EDIT, Unit

_RUNTIME = Path("/run")
_HOMES = (Path("/home"), Path("/"))
"""In which homes are: those of users, and that of root."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    why: str
    fix: str


def not_readable(host: Host, unit: Unit, user: User, path: Path) -> Obstacle | None:
    """What keeps the service from reading a file; None if nothing does, as far as this user
    sees."""
    real = _real(host, unit, path)
    if obstacle := _hidden(host, unit, (path, real)):
        return obstacle
    for seen in dict.fromkeys((path, real)):
        if obstacle := _not_entered(host, unit, user, seen):
            return obstacle
    place = host.path(unit.outside(real))
    if host.exists(unit.outside(real)) and not host.may("read", place, user):
        return Obstacle(f"user {user.name} may not read it", f"chmod o+r {quote(str(path))}")
    return None


def not_writable(
    host: Host, unit: Unit, user: User, directory: Path, mode: str = "0700"
) -> Obstacle | None:
    """What keeps the service from having a directory of its own there; None if nothing does, as
    far as this user sees."""
    real = _real(host, unit, directory)
    if unit.is_own(directory) or unit.is_own(real):
        return None  # systemd makes it
    if unit.private(directory) and directory != Path(unit.private(directory)):
        return None  # the daemon makes it
    install = f"sudo install -d -o {user.name} -g {user.name} -m {mode} {quote(str(directory))}"
    make = _runtime_line(real) or install
    # systemd follows a link that it is told to open.
    is_opened = any(real.is_relative_to(host.real(one)) for one in unit.opened)
    hidden = unit.hides(directory) or unit.hides(real)
    if hidden or not (unit.may_change(directory) and (is_opened or unit.may_change(real))):
        why = f"{hidden} is hidden from it" if hidden else "its unit lets it write elsewhere only"
        return Obstacle(why, _opening(unit, directory, real, make))
    if obstacle := _not_entered(host, unit, user, real):
        return obstacle
    return _not_owned(host, user, unit.outside(directory), make)


def _not_owned(host: Host, user: User, there: Path, make: str) -> Obstacle | None:
    found = host.stat(there)
    if found is None:
        above = next(one for one in there.parents if host.exists(one))
        is_seen = host.may("enter", host.path(above))
        if is_seen and not host.may("write", host.path(above), user):
            return Obstacle(f"it is not there, and {user.name} may not make it in {above}", make)
        return None
    if found.st_mode & stat.S_ISVTX and found.st_mode & 0o022:
        return Obstacle("it is everybody's", one_in(there))
    if user.is_known and found.st_uid != user.uid:
        return Obstacle(f"it belongs to {user_name(found.st_uid)}, not to {user.name}", make)
    if found.st_mode & 0o022:
        return Obstacle(f"others may write to it (mode {shown_mode(found.st_mode)})", make)
    return None


def one_in(directory: Path) -> str:
    """What to do about one that is not to be taken from others."""
    return f"name one in it that is nobody else's, as {directory / 'edged'}"


def _runtime_line(real: Path) -> str:
    """That has systemd make a directory below /run at every start; "" for one elsewhere."""
    is_below = real.is_relative_to(_RUNTIME) and real != _RUNTIME
    if not is_below or real.is_relative_to(_RUNTIME / "user"):
        return ""
    return f"{EDIT}: RuntimeDirectory={in_unit(real.relative_to(_RUNTIME))}"


def _opening(unit: Unit, directory: Path, real: Path, make: str) -> str:
    """What lets the service write there, after the next boot too: it does not start while a
    directory that its unit opens is missing."""
    if when := unit.emptied(real):
        return _runtime_line(real) or f"name another directory: {real} is emptied {when}"
    hidden = unit.hides(directory) or unit.hides(real)
    line = f"{'BindPaths' if hidden else 'ReadWritePaths'}={in_unit(directory)}"
    return f"{make}; and {_drop_in(unit, [hidden], line)}"


def in_unit(path: Path) -> str:
    """As a unit has it in a list of paths."""
    text = str(path).replace("%", "%%")
    if re.search(r"[\s:\"'\\]", text) is None:
        return text
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'


def _hidden(host: Host, unit: Unit, ways: Iterable[Path]) -> Obstacle | None:
    """What is hidden of the paths that lead to one file, as a link and what it leads to, and the
    line that shows them all."""
    folders: list[str] = []
    shown: list[Path] = []
    for path in ways:
        hidden = unit.hides(path)
        if not hidden or any(path.is_relative_to(host.real(one)) for one in shown):
            continue
        folders.append(hidden)
        shown.append(_folder(path))
    if not shown:
        return None
    names = list(dict.fromkeys(folders))
    why = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} hidden from it"
    line = f"BindReadOnlyPaths={' '.join(_bound(unit, one) for one in shown)}"
    return Obstacle(why, _drop_in(unit, folders, line))


def _bound(unit: Unit, path: Path) -> str:
    """Where a boot may take it away, in such a way that the service starts without it too."""
    return in_unit(Path(f"-{path}") if unit.emptied(path) else path)


def _real(host: Host, unit: Unit, path: Path) -> Path:
    """Where links lead, as the service sees it."""
    found = host.real(unit.outside(path))
    bind = unit.bind_of(path)
    if bind is None:
        return found
    source = host.real(bind.source)
    return bind.place / found.relative_to(source) if found.is_relative_to(source) else found


def _not_entered(host: Host, unit: Unit, user: User, path: Path) -> Obstacle | None:
    """A folder on the way that keeps the service out. What systemd makes does not."""
    for folder in () if unit.is_own(path) else reversed(path.parents):
        outside = unit.outside(folder)
        is_there = not unit.hides(folder) and host.exists(outside)
        if is_there and not host.may("enter", host.path(outside), user):
            return Obstacle(
                f"user {user.name} may not enter {folder}", f"chmod o+x {quote(str(folder))}"
            )
    return None


def _folder(file: Path) -> Path:
    """That a file is in; the file alone where that is a whole home."""
    return file if file.parent.parent in _HOMES else file.parent


def _drop_in(unit: Unit, hidden: Iterable[str], line: str) -> str:
    """`hidden` as `Unit.hides` says it."""
    return f"{EDIT}: {'ProtectHome=tmpfs and ' if any(map(unit.closes, hidden)) else ''}{line}"
