"""Who holds which slot and how many cells: the scheduler's account of the backend's KV cache.

| quantity | interval |
|---|---|
| cells of one slot | [tokens computed, max_cells_per_slot] |
| Σ cells of all slots | [0, num_cells] (I2) |
| snapshot bytes | [0, max_snapshot_bytes] |

Cells are reserved before they are computed, so a plan that was made can always be executed.
"""

from collections.abc import Mapping

from edged.core.types import KvGeometry, SeqId, SlotId


class KvBudget:
    """Mutable; owned by the scheduler, read by the planner."""

    def __init__(self, geometry: KvGeometry, max_snapshot_bytes: int) -> None:
        self.geometry = geometry
        self.max_snapshot_bytes = max_snapshot_bytes
        self._free_slots = [SlotId(i) for i in reversed(range(geometry.num_slots))]
        self._holders: dict[SlotId, SeqId] = {}
        self.cells: dict[SlotId, int] = {}
        """Cells reserved for each slot that is held."""
        self._used_cells = 0
        self._snapshots: dict[SeqId, int] = {}
        self._used_snapshot_bytes = 0

    @property
    def free_slots(self) -> list[SlotId]:
        """A copy; the next to be taken is last."""
        return self._free_slots.copy()

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def free_cells(self) -> int:
        return self.geometry.num_cells - self._used_cells

    @property
    def used_cells(self) -> int:
        return self._used_cells

    @property
    def num_used_slots(self) -> int:
        return len(self._holders)

    @property
    def free_snapshot_bytes(self) -> int:
        return self.max_snapshot_bytes - self._used_snapshot_bytes

    @property
    def used_snapshot_bytes(self) -> int:
        return self._used_snapshot_bytes

    @property
    def snapshots(self) -> Mapping[SeqId, int]:
        """Bytes held by each swapped sequence."""
        return self._snapshots

    def take(self, slot: SlotId, seq_id: SeqId) -> None:
        assert slot not in self._holders, f"I1: slot {slot} is held by {self._holders[slot]}"
        self._free_slots.remove(slot)
        self._holders[slot] = seq_id
        self.cells[slot] = 0

    def reserve(self, slot: SlotId, num_cells: int) -> None:
        """Grow a slot's reservation to `num_cells`; it never shrinks while held."""
        more, geometry = num_cells - self.cells[slot], self.geometry
        if more <= 0:
            return
        used_cells = self._used_cells + more
        assert used_cells <= geometry.num_cells, f"I2: {used_cells} of {geometry.num_cells} cells"
        assert num_cells <= geometry.max_cells_per_slot, f"I2: {num_cells} cells in a slot"
        self.cells[slot] = num_cells
        self._used_cells = used_cells

    def release(self, slot: SlotId) -> None:
        """Give the slot and its cells back."""
        del self._holders[slot]
        self._used_cells -= self.cells.pop(slot)
        self._free_slots.append(slot)

    def hold_snapshot(self, seq_id: SeqId, num_bytes: int) -> None:
        assert seq_id not in self._snapshots, f"I8: {seq_id} is swapped already"
        self._snapshots[seq_id] = num_bytes
        self._used_snapshot_bytes += num_bytes

    def drop_snapshot(self, seq_id: SeqId) -> None:
        """Forget a snapshot; one that is not held is left alone."""
        self._used_snapshot_bytes -= self._snapshots.pop(seq_id, 0)

    def check(self) -> None:
        """Assert I1 and I2 over the whole account."""
        slots = sorted([*self._free_slots, *self._holders])
        assert slots == list(range(self.geometry.num_slots)), f"I1: slots are {slots}"
        assert self._used_cells == sum(self.cells.values()), "I2: the sum of cells is off"
        assert 0 <= self._used_cells <= self.geometry.num_cells, f"I2: {self._used_cells} cells"
        assert self._used_snapshot_bytes == sum(self._snapshots.values()), "I8: bytes are off"
