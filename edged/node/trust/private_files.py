"""Files that only the daemon's user may touch: read with their permissions checked, written whole.

Root may prepare them for a daemon of another user (`sudo edgectl token create --file …`): what it
makes belongs to the owner of the directory.
"""

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edged.errors import ConfigError

FileVersion = tuple[int, int, int, int, int]
"""Changes whenever the file is replaced or written, also by what puts the time of before back."""

LOCK_WAIT_S = 10.0
"""A change takes a few milliseconds; a daemon answers nobody while it waits for that of others."""
_LOCK_AGAIN_S = 0.01


def version_of(path: Path) -> FileVersion | None:
    """None: there is no file, or it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def read_private(path: Path, max_bytes: int, *, is_secret: bool = False) -> bytes | None:
    """The content of a file that nobody else can have written; None if there is none.

    Raises:
        ConfigError: it cannot be read, is no file or too large, belongs to another user, or others
            may write to it, or everybody can read a secret.
    """
    found = read_with_mode(path, max_bytes)
    if found is None:
        return None
    content, status = found
    if os.geteuid() and status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to user {status.st_uid}; expected {os.geteuid()} or root"
        )
    if status.st_mode & 0o022:
        raise ConfigError(
            f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):04o}); run "
            f"`chmod go-w {path}` if its content is still what it should be"
        )
    if is_secret and status.st_mode & 0o004:
        raise ConfigError(f"everybody can read {path}; run `chmod o-r {path}`")
    return content


def read_with_mode(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result] | None:
    """The content of a file, and whose it is; None if there is none.

    Raises:
        ConfigError: it cannot be read, is no file or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path} is no file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ConfigError(f"{path} has over {max_bytes} bytes, the most it may have")
    return content, status


def make_state_directory(directory: Path) -> None:
    """Make a directory that only this user can enter; of one that exists, check that nobody else
    may write to it. A link is followed: systemd makes one to /var/lib/private.

    Raises:
        ConfigError: it cannot be made, belongs to another user, or others may write to it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise ConfigError(f"cannot make the directory {directory}: {error.strerror}") from error
    is_ours = found.st_uid == os.geteuid() or os.geteuid() == 0
    if not is_ours or found.st_mode & 0o022:
        raise ConfigError(
            f"{directory} must be a directory of user {os.geteuid()} that nobody else may write to"
        )


@contextmanager
def locked(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock of a file: one process at a time changes it.

    Raises:
        OSError: the lock cannot be had, or others have held it for `wait_s`.
    """
    descriptor = _open_lock(path)
    try:
        deadline_s = time.monotonic() + wait_s
        while not _is_taken(descriptor):
            if time.monotonic() >= deadline_s:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has held {path.name}.lock")
            time.sleep(_LOCK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Only a lock that was made here is given away: what is there already may be a link to a file
    that the directory's owner has no business with."""
    lock = path.with_name(path.name + ".lock")
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(lock, flags)
    try:
        _give_to_owner_of(path.parent, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def replace_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read, whole or not at all, also if the power fails.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _give_to_owner_of(path.parent, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # It is in place for everybody who looks; only a power failure could still bring back the old.
    with suppress(OSError):
        _sync_directory(path.parent)


def _give_to_owner_of(directory: Path, descriptor: int) -> None:
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
