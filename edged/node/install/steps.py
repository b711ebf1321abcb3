"""The things an installation is made of: each says what it does, and does it.

Theory of operation: a plan is a tuple of these, and holds only what is not right already; so it can
be shown without being done, and a second run of the same plan has none left.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.errors import EdgedError, Reason

GONE_CHECKS = 150
GONE_EVERY_S = 0.5
"""launchctl asks a service to end and does not wait for it: 75 s, more than ExitTimeOut."""

RunCommand = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]


@dataclass(frozen=True, slots=True)
class Write:
    path: Path
    text: str
    why: str = ""
    """Said of a file that there was."""

    def __str__(self) -> str:
        return f"write {self.path}: {self.why}" if self.why else f"write {self.path}"


@dataclass(frozen=True, slots=True)
class Link:
    path: Path
    target: Path

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True, slots=True)
class Remove:
    """A file, a link, or a directory with all that is in it."""

    path: Path
    prune: tuple[Path, ...] = ()
    """Directories that go too when they are empty then, in this order."""

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class Run:
    argv: tuple[str, ...]
    hint: str = ""
    """Said when it fails: where more can be found."""
    then_gone: tuple[str, ...] = ()
    """A command that succeeds until what this one asked for has happened."""

    def __str__(self) -> str:
        return f"run {shlex.join(self.argv)}"


@dataclass(frozen=True, slots=True)
class Keep:
    """Something is left as it is, and why."""

    what: Path | str
    why: str

    def __str__(self) -> str:
        return f"keep {self.what}: {self.why}"


Step = Write | Link | Remove | Run | Keep


def perform(step: Step, run: RunCommand, pause: Callable[[float], None] = time.sleep) -> None:
    """Raises EdgedError: it failed; what was done before it stays done."""
    try:
        match step:
            case Write(path, text, _):
                _write(path, text)
            case Link(path, target):
                _link(path, target)
            case Remove(path, prune):
                _remove(path)
                _prune(prune)
            case Run():
                _run(step, run)
                _await_gone(step, run, pause)
            case Keep():
                pass
    except OSError as error:
        raise EdgedError(Reason.INTERNAL, f"cannot {step}: {error.strerror}") from error


def run_command(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command of the host; one that is missing fails like any other.

    Without a limit of time: a service manager has its own, and a service may drain for hours.
    """
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]} is not installed")


def is_same_file(path: Path, text: str) -> bool:
    """Whether a file, no link to one, holds exactly this text."""
    return path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode()


def changed_s(path: Path) -> float:
    """When a file came to be as it is, since the epoch; 0 if there is none.

    Not when it was written: a copy may keep that of the original.
    """
    try:
        return path.stat().st_ctime
    except OSError:
        return 0.0


def is_same_link(path: Path, target: Path) -> bool:
    return path.is_symlink() and path.readlink() == target


def _run(step: Run, run: RunCommand) -> None:
    done = run(step.argv)
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        sentence = f"{shlex.join(step.argv)} failed: {said}"
        detail = f"{sentence}\n{step.hint}" if step.hint else sentence
        raise EdgedError(Reason.INTERNAL, detail)


def _await_gone(step: Run, run: RunCommand, pause: Callable[[float], None]) -> None:
    if not step.then_gone:
        return
    for _ in range(GONE_CHECKS):
        if run(step.then_gone).returncode:
            return
        pause(GONE_EVERY_S)
    waited_s = GONE_CHECKS * GONE_EVERY_S
    raise EdgedError(
        Reason.INTERNAL, f"{shlex.join(step.argv)}: it has not ended within {waited_s:g} s"
    )


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a service manager may read it at any time."""
    _make_directory(path.parent)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _link(path: Path, target: Path) -> None:
    _make_directory(path.parent)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


def _make_directory(directory: Path) -> None:
    """Readable by all, whatever the umask is."""
    missing = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prune(directories: tuple[Path, ...]) -> None:
    for directory in directories:
        if directory.is_dir() and not os.listdir(directory):
            directory.rmdir()
