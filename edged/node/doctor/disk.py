"""Are the models there and whole, and have the daemon's directories room?"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from edged.config import ModelSettings
from edged.config.values import AUTO
from edged.embedded import EMBEDDED
from edged.node.doctor.finding import Finding, Level, note, ok, problem, warning
from edged.node.doctor.host import shown_mode, user_name
from edged.node.doctor.memory import shown_bytes, size_of
from edged.node.doctor.sandbox import Obstacle, not_readable, not_writable, one_in
from edged.node.doctor.subject import Subject
from edged.places import is_private_directory, kv_directory

_GGUF = b"GGUF"
_POINTER = b"version https://git-lfs"
_KEPT_KV = "the directory of kept KV"
_LEAST_STATE_BYTES = 16 * 1024 * 1024
"""A key and some tokens are far less."""


def check_models(subject: Subject) -> Iterator[Finding]:
    for name, model in subject.models.items():
        if model.path != EMBEDDED and subject.backend_of(model) in ("llama_cpp", "mlx"):
            yield from _model(subject, name, model)


def check_directories(subject: Subject) -> Iterator[Finding]:
    state = subject.state_directory
    if state is not None:
        # On loopback alone there is neither a key nor need for a token.
        is_needed = bool(subject.network_listens)
        level = Level.PROBLEM if is_needed else Level.NOTE
        lost = Level.WARNING if is_needed else Level.NOTE
        yield from _emptied(subject, state, "the state directory", lost)
        yield from _room(subject, state, "the state directory", _LEAST_STATE_BYTES, level)
    wanted: dict[Path, int] = {}
    for model in subject.models.values():
        given = model.engine.disk_directory
        directory = kv_directory(subject.environ) if given == AUTO else Path(given)
        if model.engine.disk_bytes:
            wanted[directory] = wanted.get(directory, 0) + model.engine.disk_bytes
    for directory, num_bytes in wanted.items():
        if refused := list(_refused(subject, directory)):
            yield from refused
            continue
        yield from _emptied(subject, directory, _KEPT_KV, Level.NOTE)
        yield from _room(subject, directory, _KEPT_KV, num_bytes, Level.WARNING)


def _emptied(subject: Subject, directory: Path, what: str, level: Level) -> Iterator[Finding]:
    """What a unit and the system do, not a daemon that is started by hand."""
    if subject.unit and (when := subject.unit.emptied(directory)):
        yield Finding(
            "disk.emptied",
            level,
            f"{what}, {directory}, is emptied {when}",
            "name another directory, if what is in it is to outlast that",
        )


def _refused(subject: Subject, directory: Path) -> Iterator[Finding]:
    """What the daemon has against a directory of kept KV that is there: it takes one of its own
    alone, and no link to one."""
    host, unit, user = subject.host, subject.unit, subject.user
    if unit and unit.private(directory):
        return
    bind = unit.bind_of(directory) if unit else None
    there = subject.outside(directory)
    path = host.path(host.real(there) if bind and bind.place == directory else there)
    try:
        found = path.lstat()
    except OSError:
        return
    owner = user.uid if user.is_known else found.st_uid
    is_link = stat.S_ISLNK(found.st_mode)
    if is_private_directory(path, owner) or not (is_link or stat.S_ISDIR(found.st_mode)):
        return
    if is_link:
        why = "is a link, which the daemon does not follow"
        fix = f'engine.disk_directory = "{host.real(there)}", where it leads'
    elif unit and not_writable(host, unit, user, directory):
        return  # told with what else is in the way
    elif found.st_mode & stat.S_ISVTX and found.st_mode & 0o022:
        why, fix = "is everybody's", one_in(directory)
    elif found.st_uid != owner:
        why = f"belongs to {user_name(found.st_uid)}, not to {user.name}"
        give = f"sudo chown -R {user.name} {quote(str(directory))}"
        fix = give if unit else f"name one that is {user.name}'s alone in engine.disk_directory"
    else:
        why = f"may be written to by others (mode {shown_mode(found.st_mode)})"
        fix = f"chmod go-w {quote(str(directory))}"
    level = Level.PROBLEM if unit else Level.WARNING
    yield Finding("disk.directory", level, f"{_KEPT_KV}: {directory} {why}", fix)


def _model(subject: Subject, name: str, model: ModelSettings) -> Iterator[Finding]:
    host, unit = subject.host, subject.unit
    if subject.has_ready(name):
        yield ok("disk.model", f"model {name!r}: the daemon that answers has it")
        return
    if unit and (obstacle := not_readable(host, unit, subject.user, Path(model.path))):
        yield _not_seen(name, model.path, obstacle)
        return
    path = host.path(subject.outside(model.path))
    try:
        path.stat()
    except PermissionError:
        way = "let it into every directory on the way (chmod o+x), or move the model"
        yield _not_reached(subject, name, f"go to {model.path}", way)
        return
    except OSError as error:
        yield problem(
            "disk.model",
            f"model {name!r}: {model.path}: {error.strerror}",
            f"put the model there, or correct models.{name}.path",
        )
        return
    if not host.may("read", path):
        yield _not_reached(subject, name, f"read {model.path}", f"chmod o+r {model.path}")
    elif path.is_dir():
        yield from _folder(subject, name, model)
    else:
        yield from _file(subject, name, model)


def _not_reached(subject: Subject, name: str, what: str, fix: str) -> Finding:
    """By the user who asks, which says nothing of the service."""
    text = f"model {name!r}: user {subject.host.user.name} may not {what}"
    if subject.is_service:
        return note("disk.model", text, "sudo edgectl doctor")
    return problem("disk.model", text, fix)


def _not_seen(name: str, path: str, obstacle: Obstacle) -> Finding:
    return problem(
        "disk.model",
        f"model {name!r}: the service, which is a user of its own, cannot see {path}: "
        f"{obstacle.why}",
        f"{obstacle.fix}; or move it where everybody may read it, as /srv/models, and correct "
        f"models.{name}.path",
    )


def _folder(subject: Subject, name: str, model: ModelSettings) -> Iterator[Finding]:
    if not size_of(subject, model):
        yield problem(
            "disk.model",
            f"model {name!r}: there is no .safetensors file in {model.path}",
            f"download the model whole, or correct models.{name}.path",
        )
    else:
        yield ok("disk.model", f"model {name!r}: {shown_bytes(size_of(subject, model) or 0)}")


def _file(subject: Subject, name: str, model: ModelSettings) -> Iterator[Finding]:
    with subject.host.path(subject.outside(model.path)).open("rb") as file:
        begins = file.read(len(_POINTER))
    if begins == _POINTER:
        yield problem(
            "disk.model",
            f"model {name!r}: {model.path} is a pointer of Git LFS, not the model",
            "git lfs pull, in the repository that it is from",
        )
    elif not begins.startswith(_GGUF):
        yield problem(
            "disk.model",
            f"model {name!r}: {model.path} is no GGUF file",
            f"download it again, or correct models.{name}.path",
        )
    else:
        yield ok("disk.model", f"model {name!r}: {shown_bytes(size_of(subject, model) or 0)}")


def _room(
    subject: Subject, directory: Path, what: str, num_bytes: int, level: Level
) -> Iterator[Finding]:
    """Whether it is there or can be made, may be written to, and has so much left; `level` is what
    it is if not."""
    host, unit = subject.host, subject.unit
    if unit and (obstacle := not_writable(host, unit, subject.user, directory)):
        text = f"{what}: the service cannot write to {directory}: {obstacle.why}"
        yield problem("disk.directory", text, obstacle.fix)
        return
    # What is private is made anew, on the disk that the folder is on.
    private = unit.private(directory) if unit else ""
    there = Path(private) if private else subject.outside(directory)
    while not host.exists(there) and there != there.parent:
        there = there.parent
    path = host.path(there)
    if not path.is_dir():
        yield Finding(
            "disk.directory", level, f"{what}: {there} is no directory", f"move it: {there}"
        )
        return
    if not host.may("write", path):
        if subject.is_service:
            yield note(
                "disk.directory",
                f"{what}, {directory}, is the service's, and not to be seen by {host.user.name}",
                "sudo edgectl doctor",
            )
            return
        made = "" if there == directory else f" does not exist, and {there}"
        yield Finding(
            "disk.directory",
            level,
            f"{what}: {directory}{made} may not be written to by user {host.user.name}",
            f"sudo install -d -o {host.user.name} -m 0700 {directory}; if the disk is read-only, "
            "name another one",
        )
        return
    yield _free(path, directory, what, num_bytes)


def _free(path: Path, directory: Path, what: str, num_bytes: int) -> Finding:
    found = os.statvfs(path)
    free_bytes = found.f_bavail * found.f_frsize
    used_bytes = sum(_sizes(path)) if path.name == "kv" else 0
    if found.f_files and not found.f_favail:
        return warning(
            "disk.room",
            f"{what}, {directory}: the disk can hold no more files",
            f"remove some; `du --inodes -x {directory}` helps to find them",
        )
    if free_bytes + used_bytes < num_bytes:
        return warning(
            "disk.room",
            f"{what}, {directory}, has {shown_bytes(free_bytes)} left, and "
            f"{shown_bytes(num_bytes)} may be needed",
            "make room, name another directory, or lower engine.disk_bytes",
        )
    return ok("disk.room", f"{what}, {directory}, has {shown_bytes(free_bytes)} left")


def _sizes(folder: Path) -> Iterator[int]:
    """Of the files in it that this user may see, while a daemon makes and removes some."""
    for file in folder.rglob("*"):
        try:
            found = file.stat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            yield found.st_size
