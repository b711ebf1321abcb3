"""Saved KV on disk: a directory of files, a thread that writes them, and what became of that.

Theory of operation: the scheduler says what is written and what is removed, and keeps the account.
The thread finds what an engine before this one left, then obeys in order; what is being written is
still read from memory. Nothing here is worth a failure: a directory that another process uses, a
full disk or one that cannot be written turn the tier off with one warning, and a file that is torn,
damaged or another engine's is removed and ignored.
"""

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from edged.backend import KvSnapshot
from edged.core.files import FoundFile
from edged.core.plan import Write
from edged.core.types import FileId
from edged.engine import kv_file
from edged.engine.kv_file import KvFileError
from edged.places import make_private_directory

FORGOTTEN_S = 30 * 24 * 3600.0
"""What no engine has used for so long is removed: of models that are not served any more, and of
runtimes before an update."""
_LOCK_NAME = "lock"


class Found(NamedTuple):
    """The tier is open, with these files of an engine before."""

    files: tuple[tuple[Path, FoundFile], ...]


class Written(NamedTuple):
    file: FileId
    num_bytes: int | None
    """None: it could not be written."""


class Read(NamedTuple):
    file: FileId
    kv: tuple[int, bytearray] | None
    """The number of tokens and the KV. None: it cannot be read, which its use will tell again."""
    seconds: float


class TurnedOff(NamedTuple):
    """Nothing is written any more."""

    detail: str


DiskReport = Found | Written | Read | TurnedOff
MAX_READ = 2
"""Files that are in memory before they are used; the oldest goes, and is read again."""


@dataclass(frozen=True, slots=True)
class _WriteOrder:
    path: Path
    write: Write
    snapshot: KvSnapshot


@dataclass(frozen=True, slots=True)
class _ReadOrder:
    path: Path
    file: FileId


class DiskTier:
    """Owned by the engine thread, but for its own."""

    def __init__(
        self, root: Path, find_key: Callable[[], str], report: Callable[[DiskReport], None]
    ) -> None:
        """`find_key` says which engine's files are whose, and may take seconds; it is called on the
        tier's thread, and so is `report`."""
        self._root = root
        self._find_key = find_key
        self._report = report
        self._key = ""
        self._directory: Path | None = None
        self._lock: int | None = None
        self._is_off = False
        self._paths: dict[FileId, Path] = {}
        self._being_written: dict[FileId, KvSnapshot] = {}
        self._read: OrderedDict[FileId, tuple[int, bytearray]] = OrderedDict()
        self._orders: SimpleQueue[_WriteOrder | _ReadOrder | Path | None] = SimpleQueue()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)

    def open(self, wait_s: float) -> None:
        """Begin, and wait a little for what is found: it may serve the first request."""
        self._thread.start()
        self._is_open.wait(wait_s)

    def add(self, file: FileId, path: Path) -> None:
        """A file that was found has a name."""
        self._paths[file] = path

    def write(self, write: Write, snapshot: KvSnapshot) -> None:
        assert self._directory is not None, "the tier is not open"
        path = self._directory / f"{secrets.token_hex(16)}{kv_file.SUFFIX}"
        self._paths[write.file] = path
        self._being_written[write.file] = snapshot
        self._orders.put(_WriteOrder(path, write, snapshot))

    def written(self, file: FileId) -> None:
        """A report of it was taken."""
        self._being_written.pop(file, None)

    def prefetch(self, file: FileId) -> None:
        """Read it in the background, and report that."""
        self._orders.put(_ReadOrder(self._paths[file], file))

    def keep_read(self, file: FileId, kv: tuple[int, bytearray] | None) -> None:
        """A report of it was taken."""
        if kv is not None and file in self._paths:
            self._read[file] = kv
            if len(self._read) > MAX_READ:
                self._read.popitem(last=False)

    def has_read(self, file: FileId) -> bool:
        """Whether `read` needs no disk."""
        return file in self._read or file in self._being_written

    def unlink(self, file: FileId) -> None:
        self._being_written.pop(file, None)
        self._read.pop(file, None)
        path = self._paths.pop(file, None)
        if path is not None:
            self._orders.put(path)

    def read(self, file: FileId) -> KvSnapshot | tuple[int, bytearray]:
        """What is being written still, or the number of tokens and the KV in the file.

        Raises:
            KvFileError: it is not to be used.
        """
        if file in self._being_written:
            return self._being_written[file]
        found = self._read.pop(file, None)
        return self._read_from(self._paths[file]) if found is None else found

    def _read_from(self, path: Path) -> tuple[int, bytearray]:
        """Raises KvFileError: it is not to be used. On either thread."""
        with contextlib.suppress(OSError):
            os.utime(path)
        return kv_file.read_kv(path, self._key)

    def close(self, limit_s: float) -> None:
        """Obey what was ordered so far, as far as there is time."""
        self._orders.put(None)
        self._thread.join(limit_s)

    def release(self) -> None:
        """Leave the directory to another; the end of the process does so too."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ── On its own thread ────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._report(Found(self._enter()))
        except OSError as error:
            self._turn_off(f"{self._root} cannot be used for saved KV: {_reason(error)}")
        finally:
            self._is_open.set()
        while (order := self._orders.get()) is not None:
            if isinstance(order, _WriteOrder):
                self._write(order)
            elif isinstance(order, _ReadOrder):
                self._prefetch(order)
            else:
                with contextlib.suppress(OSError):
                    order.unlink()

    def _enter(self) -> tuple[tuple[Path, FoundFile], ...]:
        """Take the directory of this engine's key."""
        make_private_directory(self._root)
        self._key = self._find_key()
        directory = self._root / self._key[:32]
        make_private_directory(directory)
        self._lock = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(directory / _LOCK_NAME)
        self._directory = directory
        self._forget_others()
        found = [one for path in sorted(directory.iterdir()) if (one := self._look_at(path))]
        found.sort(key=lambda one: one[0].stat().st_mtime)
        return tuple(found)

    def _look_at(self, path: Path) -> tuple[Path, FoundFile] | None:
        if path.suffix == kv_file.SUFFIX:
            with contextlib.suppress(KvFileError):
                head = kv_file.read_head(path, self._key)
                return path, FoundFile(head.space, head.tokens, path.stat().st_size)
        if path.name != _LOCK_NAME:
            path.unlink()
        return None

    def _forget_others(self) -> None:
        """Remove what no engine has used for long, and none uses now."""
        oldest_s = time.time() - FORGOTTEN_S
        for directory in self._root.iterdir():
            lock = directory / _LOCK_NAME
            with contextlib.suppress(OSError):
                if directory == self._directory or lock.stat().st_mtime > oldest_s:
                    continue
                with lock.open() as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in directory.iterdir():
                        path.unlink()
                directory.rmdir()

    def _write(self, order: _WriteOrder) -> None:
        write = order.write
        if self._is_off:
            self._report(Written(write.file, None))
            return
        try:
            kv = order.snapshot.data
            num_bytes = kv_file.write(order.path, self._key, write.space, write.tokens, kv)
        except OSError as error:
            self._report(Written(write.file, None))
            self._turn_off(f"no more KV is saved in {self._root}: {_reason(error)}")
        else:
            self._report(Written(write.file, num_bytes))

    def _prefetch(self, order: _ReadOrder) -> None:
        started_s = time.monotonic()
        try:
            kv = self._read_from(order.path)
        except KvFileError:
            self._report(Read(order.file, None, 0.0))
        else:
            self._report(Read(order.file, kv, time.monotonic() - started_s))

    def _turn_off(self, detail: str) -> None:
        self._is_off = True
        self._report(TurnedOff(detail))


def _reason(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "another engine uses it for the same model"
    return error.strerror or str(error)
