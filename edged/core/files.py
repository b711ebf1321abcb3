"""What KV is on disk, and what is to be written there.

Theory of operation. A file is a copy that outlives the engine: what is kept goes to disk when the
engine has nothing else to do, what is worth most first, and stays there when it leaves host memory.
Another process may have written it: those files are found when the engine starts.

A file is read into memory before somebody is restored from it, while others go on; where there are
none, it is read at once.
"""

from collections.abc import Iterable
from typing import NamedTuple

from edged.core.budget import ByteBudget, Room, Worth
from edged.core.kept import Kept
from edged.core.plan import Pending, Write
from edged.core.prefix import Tokens
from edged.core.types import FileId, KvGeometry

MAX_READ_S = 5.0
"""Longest wait for a file to be read; then it is given up, and what is in it computed again."""
MAX_BEING_WRITTEN = 2
"""What is being written stays in memory though it has been discarded there."""


class FoundFile(NamedTuple):
    """A file of an engine before this one."""

    space: str | None
    """The client whose KV it is; None serves all."""
    tokens: Tokens
    num_bytes: int


class Files:
    """Mutable; owned by the scheduler."""

    def __init__(self, geometry: KvGeometry, max_bytes: int, pending: Pending) -> None:
        self.budget = ByteBudget(geometry, max_bytes, FileId)
        self.by_file: dict[FileId, Kept] = {}
        self._pending = pending
        self._being_written: set[FileId] = set()
        self._being_read: dict[FileId, float] = {}
        """With the moment at which that began."""
        self._read: set[FileId] = set()

    @property
    def is_on(self) -> bool:
        return self.budget.max_bytes > 0

    @property
    def is_writing(self) -> bool:
        return bool(self._being_written)

    @property
    def is_waited_for(self) -> bool:
        """Whether reports of the disk are to come."""
        return bool(self._being_written or self._being_read)

    @property
    def num_bytes(self) -> int:
        return self.budget.used_bytes

    def add(self, kept: Kept, num_bytes: int) -> FileId:
        """There is a file of it, or will be."""
        file = kept.file = self.budget.name()
        self.budget.hold(file, num_bytes)
        self.by_file[file] = kept
        return file

    def write(self, unwritten: Iterable[tuple[Worth, Kept]], room: Room[FileId]) -> list[FileId]:
        """Write some of what is in host memory; returns what is to go for it."""
        for worth, kept in unwritten:
            if len(self._being_written) >= MAX_BEING_WRITTEN:
                break
            num_bytes = self.budget.size_of(kept.num_tokens)
            if kept.snapshot is None or not room.take(num_bytes, worth):
                continue
            file = self.add(kept, num_bytes)
            self._being_written.add(file)
            self._pending.write.append(Write(kept.snapshot, file, kept.space, kept.tokens))
        return room.discarded

    def begin_reading(self, files: Iterable[FileId], now_s: float) -> None:
        """A plan has ordered to read them."""
        self._being_read.update((file, now_s) for file in files)

    def overdue(self, now_s: float) -> list[Kept]:
        """What is in files that are not read in time."""
        return [
            self.by_file[file]
            for file, since_s in self._being_read.items()
            if now_s >= since_s + MAX_READ_S
        ]

    def end_reading(self, file: FileId) -> None:
        """It is in memory, or cannot be read."""
        if file in self._being_read:
            del self._being_read[file]
            self._read.add(file)

    def has_read(self, file: FileId) -> bool:
        """Whether nobody has to wait for the disk to have it. What is being written is in memory
        still."""
        return file in self._read or file in self._being_written

    def is_reading(self, file: FileId) -> bool:
        return file in self._being_read

    def written(self, file: FileId, num_bytes: int) -> None:
        """A file is complete."""
        self._being_written.discard(file)
        if file in self.by_file:
            self.budget.correct(file, num_bytes)

    def remove(self, kept: Kept) -> None:
        """Its file goes before the next step."""
        if kept.file is not None:
            self._pending.unlink.append(kept.file)
            self.drop(kept)

    def drop(self, kept: Kept) -> None:
        """Its file is gone."""
        file = kept.file
        assert file is not None, "there is no file of it"
        self._being_written.discard(file)
        self._being_read.pop(file, None)
        self._read.discard(file)
        del self.by_file[file]
        self.budget.drop(file)
        kept.file = None

    def turn_off(self) -> None:
        """Nothing is written any more."""
        self.budget.max_bytes = 0

    def check(self) -> None:
        self.budget.check()
        assert set(self.by_file) == set(self.budget.held), "I8: other files are held"
        for file, kept in self.by_file.items():
            assert kept.file == file, "kept in another file"
        known = self._being_written | self._being_read.keys() | self._read
        assert known <= self.by_file.keys(), "files that are gone"
