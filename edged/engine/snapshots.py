"""The KV of swapped sequences, in host memory.

The scheduler decides who is swapped and keeps the account in bytes; this holds the bytes.
"""

from edged.backend import KvSnapshot
from edged.core.types import SeqId


class SnapshotStore:
    """Owned by the engine thread."""

    def __init__(self) -> None:
        self._snapshots: dict[SeqId, KvSnapshot] = {}

    def put(self, seq_id: SeqId, snapshot: KvSnapshot) -> None:
        assert seq_id not in self._snapshots, f"I8: {seq_id} has a snapshot already"
        self._snapshots[seq_id] = snapshot

    def take(self, seq_id: SeqId) -> KvSnapshot:
        return self._snapshots.pop(seq_id)

    def discard(self, seq_id: SeqId) -> None:
        """Forget a snapshot; one that is not held is left alone."""
        self._snapshots.pop(seq_id, None)

    @property
    def seq_ids(self) -> frozenset[SeqId]:
        return frozenset(self._snapshots)
