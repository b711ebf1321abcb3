"""Who holds which slot and how many cells: the scheduler's account of the backend's KV cache.

| quantity | interval |
|---|---|
| cells of one slot | [tokens computed, max_cells_per_slot] |
| cells that any slot holds | [0, num_cells] (I2) |
| cells that a running sequence holds | [0, cells that any slot holds] |

Cells are reserved before they are computed, so a plan that was made can always be executed.

A slot is free, taken by a sequence, or cached: it keeps the KV of a sequence that left it, for
others that begin like it. Slots that begin with the same tokens may hold the same cells. What
several hold is a `_Run`; the cells of a slot are its runs, in order, and then those it holds alone.
A run is split where a slot holds a part of it, so that whoever holds a run holds all of it. Where
there are no cache slots, slots hold no cells together, and each has as many of its own.
"""

from collections.abc import Set

from edged.core.types import KvGeometry, SeqId, SlotId


class _Run:
    """Cells that slots hold together: of the same tokens at the same positions."""

    __slots__ = ("holders", "num_cells", "num_takers")

    def __init__(self, num_cells: int, holders: set[SlotId], num_takers: int) -> None:
        self.num_cells = num_cells
        self.holders = holders
        self.num_takers = num_takers
        """Of the holders, those that are taken by a sequence."""


class KvBudget:
    """Mutable; owned by the scheduler, read by the planner."""

    def __init__(self, geometry: KvGeometry) -> None:
        self.geometry = geometry
        self._num_all_slots = geometry.num_slots + geometry.num_cache_slots
        self._free_slots = [SlotId(i) for i in reversed(range(self._num_all_slots))]
        self._takers: dict[SlotId, SeqId] = {}
        self._cached: dict[SlotId, None] = {}
        self.cells: dict[SlotId, int] = {}
        """Cells reserved for each slot that is taken or cached, alone or with others."""
        self._runs: dict[SlotId, list[_Run]] = {}
        """Of the slots that hold cells with others, or did."""
        self._used_cells = 0
        self._taken_cells = 0

    @property
    def shares_cells(self) -> bool:
        """Whether slots hold cells together."""
        return self.geometry.num_cache_slots > 0

    @property
    def empty_slots(self) -> list[SlotId]:
        """Those that hold nothing; a copy, and the next to be taken is last."""
        return self._free_slots[:]

    @property
    def num_free_slots(self) -> int:
        """How many more sequences may run."""
        return self.geometry.num_slots - len(self._takers)

    @property
    def free_cells(self) -> int:
        """Cells that no sequence holds: also those that are cached."""
        return self.geometry.num_cells - self._taken_cells

    @property
    def empty_cells(self) -> int:
        """Cells that no slot holds."""
        return self.geometry.num_cells - self._used_cells

    @property
    def used_cells(self) -> int:
        return self._used_cells

    @property
    def taken_cells(self) -> int:
        """Cells that a sequence holds; the others of those in use are cached."""
        return self._taken_cells

    @property
    def num_used_slots(self) -> int:
        return len(self._takers)

    def is_cached(self, slot: SlotId) -> bool:
        return slot in self._cached

    @property
    def cached(self) -> list[SlotId]:
        """Slots that keep the KV of a sequence that left them, the oldest first; a copy."""
        return list(self._cached)

    def take(self, slot: SlotId, seq_id: SeqId) -> None:
        assert slot not in self._takers, f"I1: slot {slot} is held by {self._takers[slot]}"
        self._free_slots.remove(slot)
        self._takers[slot] = seq_id
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
        self._taken_cells += more

    def share(self, source: SlotId, target: SlotId, num_cells: int) -> None:
        """Let `target`, which was just taken, hold the first cells of `source` with it, or as many
        of its own."""
        assert self.cells[target] == 0, f"I1: slot {target} holds {self.cells[target]} cells"
        held = self.cells[source]
        assert 0 < num_cells <= held, f"I2: {num_cells} of {held} cells of slot {source}"
        if not self.shares_cells:
            self.reserve(target, num_cells)
            return
        runs = self._runs.setdefault(source, [])
        end = self._split(source, num_cells)
        if end < num_cells:
            runs.append(_Run(num_cells - end, {source}, int(source in self._takers)))
            end = num_cells
        shared: list[_Run] = []
        for run in runs:
            if end == 0:
                break
            shared.append(run)
            end -= run.num_cells
            run.holders.add(target)
            self._taken_cells += 0 if run.num_takers else run.num_cells
            run.num_takers += 1
        self._runs[target] = shared
        self.cells[target] = num_cells

    def trim(self, slot: SlotId, num_cells: int) -> None:
        """Keep the first cells of a slot and let the others go."""
        held, is_taken = self.cells[slot], slot in self._takers
        assert 0 <= num_cells <= held, f"I2: {num_cells} of {held} cells of slot {slot}"
        runs = self._runs.get(slot, [])
        in_runs = sum(run.num_cells for run in runs)
        alone = held - max(in_runs, num_cells)
        self._used_cells -= alone
        self._taken_cells -= alone * is_taken
        if num_cells < in_runs:
            self._split(slot, num_cells)
            while in_runs > num_cells:
                run = runs.pop()
                in_runs -= run.num_cells
                run.holders.remove(slot)
                run.num_takers -= is_taken
                self._used_cells -= 0 if run.holders else run.num_cells
                self._taken_cells -= run.num_cells if is_taken and not run.num_takers else 0
        self.cells[slot] = num_cells

    def cache(self, slot: SlotId, num_cells: int) -> None:
        """Keep the first cells of a slot though its sequence leaves it."""
        self.trim(slot, num_cells)
        del self._takers[slot]
        self._cached[slot] = None
        runs = self._runs.get(slot, [])
        for run in runs:
            run.num_takers -= 1
            self._taken_cells -= 0 if run.num_takers else run.num_cells
        self._taken_cells -= num_cells - sum(run.num_cells for run in runs)

    def adopt(self, slot: SlotId, seq_id: SeqId) -> None:
        """Let a sequence take a cached slot with all that it holds."""
        del self._cached[slot]
        self._takers[slot] = seq_id
        runs = self._runs.get(slot, [])
        for run in runs:
            self._taken_cells += 0 if run.num_takers else run.num_cells
            run.num_takers += 1
        self._taken_cells += self.cells[slot] - sum(run.num_cells for run in runs)

    def release(self, slot: SlotId) -> None:
        """Give a slot that is taken or cached back, and the cells that no other holds."""
        self.trim(slot, 0)
        if slot in self._cached:
            del self._cached[slot]
        else:
            del self._takers[slot]
        del self.cells[slot]
        self._runs.pop(slot, None)
        self._free_slots.append(slot)

    def freed_by(self, slot: SlotId) -> int:
        """Cells that nobody would hold if this slot were given back."""
        runs = self._runs.get(slot, ())
        return self.held_alone(slot) + sum(run.num_cells for run in runs if len(run.holders) == 1)

    def held_alone(self, slot: SlotId) -> int:
        """Cells of a slot that it has shared with nobody."""
        return self.cells[slot] - sum(run.num_cells for run in self._runs.get(slot, ()))

    def given_back_by(self, slot: SlotId) -> int:
        """Cells that no sequence would hold if the one of this slot left it."""
        runs = self._runs.get(slot, ())
        return self.held_alone(slot) + sum(run.num_cells for run in runs if run.num_takers == 1)

    def taken_of(self, slot: SlotId, num_cells: int, gone: Set[SlotId]) -> int:
        """How many of the first cells of a slot a sequence holds that another could hold too,
        without those in slots `gone`."""
        taken = end = 0
        if not self.shares_cells:
            return 0
        for run in self._runs.get(slot, ()):
            if any(one in self._takers and one not in gone for one in run.holders):
                taken += max(0, min(run.num_cells, num_cells - end))
            end += run.num_cells
        if slot in self._takers and slot not in gone:
            taken += max(0, num_cells - end)
        return taken

    def _split(self, slot: SlotId, num_cells: int) -> int:
        """See to it that one of the slot's runs ends after `num_cells`; returns where its last one
        ends, if that is before."""
        end = 0
        for index, run in enumerate(self._runs.get(slot, [])):
            if end == num_cells:
                break
            end += run.num_cells
            if end < num_cells:
                continue
            if end > num_cells:
                rest = _Run(end - num_cells, set(run.holders), run.num_takers)
                run.num_cells -= rest.num_cells
                for holder in run.holders:  # which all hold the same runs up to here
                    self._runs[holder].insert(index + 1, rest)
            return num_cells
        return end

    def check(self) -> None:
        """Assert I1 and I2 over the whole account."""
        slots = sorted([*self._free_slots, *self._takers, *self._cached])
        assert slots == list(range(self._num_all_slots)), f"I1: slots are {slots}"
        assert len(self._takers) <= self.geometry.num_slots, "I1: more run than may"
        used_cells, taken_cells = self._counted()
        assert self._used_cells == used_cells, "I2: the sum of cells is off"
        assert self._taken_cells == taken_cells, "I2: the sum of cells that sequences hold is off"
        assert 0 <= self._used_cells <= self.geometry.num_cells, f"I2: {self._used_cells} cells"

    def _counted(self) -> tuple[int, int]:
        """Cells that any slot holds and that a sequence holds, counted anew."""
        used_cells = taken_cells = 0
        runs: dict[int, _Run] = {}
        for slot, held in self.cells.items():
            own = self._runs.get(slot, [])
            alone = held - sum(run.num_cells for run in own)
            assert alone >= 0, f"I2: slot {slot} holds {held} cells, and {alone} of them alone"
            used_cells += alone
            taken_cells += alone if slot in self._takers else 0
            runs.update((id(run), run) for run in own)
            assert all(slot in run.holders for run in own), f"I2: a run that slot {slot} holds not"
        for run in runs.values():
            takers = sum(holder in self._takers for holder in run.holders)
            assert takers == run.num_takers, f"I2: {run.num_takers} of {takers} sequences"
            used_cells += run.num_cells
            taken_cells += run.num_cells if takers else 0
        return used_cells, taken_cells
