"""How much host memory saved KV takes: the scheduler's account of the engine's snapshots.

Bytes are reserved when the plan is made that fills them, by what a cell takes when it is saved, and
corrected to what it took.
"""

from collections.abc import Mapping, Sequence

from edged.core.types import KvGeometry, SnapshotId

Worth = tuple[bool, bool, float]
"""Of KV that is kept: whether a preempted sequence owns it, whether somebody who waits claims it,
and its value."""


class SnapshotBudget:
    """Mutable; owned by the scheduler, read by the planner."""

    def __init__(self, geometry: KvGeometry, max_bytes: int) -> None:
        self._geometry = geometry
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._held: dict[SnapshotId, int] = {}
        self._next = 0

    @property
    def free_bytes(self) -> int:
        return self.max_bytes - self.used_bytes

    @property
    def held(self) -> Mapping[SnapshotId, int]:
        """Bytes of each snapshot."""
        return self._held

    def size_of(self, num_tokens: int) -> int:
        """Bytes that a snapshot of so many tokens takes."""
        geometry = self._geometry
        return geometry.snapshot_bytes_fixed + num_tokens * geometry.snapshot_bytes_per_cell

    def name(self, index: int) -> SnapshotId:
        """Of the snapshot that is held next but `index`."""
        return SnapshotId(self._next + index)

    def hold(self, snapshot: SnapshotId, num_tokens: int) -> None:
        assert snapshot not in self._held, f"I8: snapshot {snapshot} is held already"
        num_bytes = self.size_of(num_tokens)
        self._held[snapshot] = num_bytes
        self.used_bytes += num_bytes
        self._next = max(self._next, snapshot + 1)

    def correct(self, snapshot: SnapshotId, num_bytes: int) -> None:
        """A snapshot has been made, and takes so much."""
        self.used_bytes += num_bytes - self._held[snapshot]
        self._held[snapshot] = num_bytes

    def drop(self, snapshot: SnapshotId) -> None:
        self.used_bytes -= self._held.pop(snapshot)

    def check(self) -> None:
        assert self.used_bytes == sum(self._held.values()), "I8: bytes of snapshots are off"
        assert self.used_bytes >= 0, f"I8: {self.used_bytes} bytes of snapshots"


class HostRoom:
    """Host memory for what is saved in one go, and what goes for it; scratch."""

    def __init__(
        self, snapshots: SnapshotBudget, may_go: Sequence[tuple[Worth, SnapshotId]]
    ) -> None:
        """`may_go`: what is worth least first."""
        self._snapshots = snapshots
        self._free_bytes = snapshots.free_bytes
        self._may_go = may_go
        self._num_gone = 0

    @property
    def discarded(self) -> list[SnapshotId]:
        """What makes room for all that was taken."""
        return [snapshot for _, snapshot in self._may_go[: self._num_gone]]

    def take(self, num_tokens: int, worth: Worth) -> bool:
        """Room for one more, or none is taken; only what is worth less goes for it."""
        free_bytes = self._free_bytes - self._snapshots.size_of(num_tokens)
        num_gone = self._num_gone
        while free_bytes < 0:
            if num_gone == len(self._may_go) or self._may_go[num_gone][0] >= worth:
                return False
            free_bytes += self._snapshots.held[self._may_go[num_gone][1]]
            num_gone += 1
        self._free_bytes, self._num_gone = free_bytes, num_gone
        return True
