"""What KV is on disk, and what is to be written there.

Theory of operation. A file is a copy that outlives the engine: what is kept goes to disk when the
engine has nothing else to do, what is worth most first, and stays there when it leaves host memory.
Another process may have written it: those files are found when the engine starts.
"""

from collections.abc import Iterable
from typing import NamedTuple

from edged.core.budget import ByteBudget, Room, Worth
from edged.core.kept import Kept
from edged.core.plan import Pending, Write
from edged.core.prefix import Tokens
from edged.core.types import FileId, KvGeometry

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

    @property
    def is_on(self) -> bool:
        return self.budget.max_bytes > 0

    @property
    def is_writing(self) -> bool:
        return bool(self._being_written)

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
