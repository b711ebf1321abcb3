"""Saved KV, in host memory.

The scheduler decides what is saved and keeps the account in bytes; this holds the bytes.
"""

from edged.backend import KvSnapshot
from edged.core.types import SnapshotId


class SnapshotStore:
    """Owned by the engine thread."""

    def __init__(self) -> None:
        self._snapshots: dict[SnapshotId, KvSnapshot] = {}

    def put(self, name: SnapshotId, snapshot: KvSnapshot) -> None:
        assert name not in self._snapshots, f"I8: there is a snapshot {name} already"
        self._snapshots[name] = snapshot

    def get(self, name: SnapshotId) -> KvSnapshot | None:
        """None: it could not be made."""
        return self._snapshots.get(name)

    def discard(self, name: SnapshotId) -> None:
        """Forget a snapshot; one that could not be made is left alone."""
        self._snapshots.pop(name, None)

    @property
    def names(self) -> frozenset[SnapshotId]:
        return frozenset(self._snapshots)
