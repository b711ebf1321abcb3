"""Which row of which batch holds the KV of each slot, and which batches a step is computed in.

Theory of operation. A prompt is computed in a batch of its own. An answer belongs among those whose
rows are as long (`capacity_for`): there it takes part in one attention for all of them, and little
of what is read lies beyond a row's end. It moves on when it has outgrown its batch. Who is left out
of some steps stays where it is, and is read in vain; after `MAX_ABSENT_STEPS` it gets a batch of
its own.
"""

from collections.abc import Iterable, Sequence

from backends.mlx.kv_batch import KvBatch, KvLayout, capacity_for
from backends.mlx.step_cache import Group
from edged.core.plan import Chunk
from edged.core.types import SlotId

MAX_ABSENT_STEPS = 8


class _Shelf:
    """A batch, and whose its rows are."""

    __slots__ = ("batch", "slots")

    def __init__(self, batch: KvBatch, *slots: SlotId) -> None:
        assert batch.num_rows == len(slots), f"{batch.num_rows} rows for {len(slots)} slots"
        self.batch = batch
        self.slots = list(slots)

    def row(self, slot: SlotId) -> int:
        return self.slots.index(slot)


class Arrangement:
    """Mutable; owned by the backend."""

    def __init__(self, layout: KvLayout, num_slots: int) -> None:
        self._layout = layout
        self._shelves: list[_Shelf | None] = [None] * num_slots
        """Of each slot; None where it holds nothing."""
        self._absent = [0] * num_slots
        """Steps in a row in which its batch was computed without it."""

    # ── Slots ────────────────────────────────────────────────────────────────────────────────────

    def length(self, slot: SlotId) -> int:
        """Tokens that a slot holds."""
        shelf = self._shelves[slot]
        return 0 if shelf is None else shelf.batch.lengths[shelf.row(slot)]

    def place(self, slot: SlotId) -> tuple[KvBatch, int]:
        """Batch and row of a slot that holds something."""
        shelf = self._shelf(slot)
        return shelf.batch, shelf.row(slot)

    def put(self, slot: SlotId, batch: KvBatch) -> None:
        """Let an empty slot have a batch of one row."""
        assert self._shelves[slot] is None, f"I1: slot {slot} holds {self.length(slot)} tokens"
        self._shelves[slot] = _Shelf(batch, slot)
        self._absent[slot] = 0

    def clear(self, slot: SlotId) -> None:
        shelf = self._shelves[slot]
        if shelf is None:
            return
        self._shelves[slot] = None
        if len(shelf.slots) > 1:
            row = shelf.row(slot)
            shelf.batch.filter([one for one in range(len(shelf.slots)) if one != row])
            shelf.slots.remove(slot)

    def trim(self, slot: SlotId, num_tokens: int) -> None:
        if num_tokens == 0:
            self.clear(slot)
        else:
            batch, row = self.place(slot)
            batch.trim(row, num_tokens)

    def batches(self) -> list[KvBatch]:
        return [shelf.batch for shelf in _distinct(self._shelves)]

    # ── A step ───────────────────────────────────────────────────────────────────────────────────

    def arrange(self, chunks: Sequence[Chunk]) -> list[tuple[Group, list[Chunk]]]:
        """The groups of a step, with room for its tokens, and the chunk of each of their rows."""
        runs = [chunk for chunk in chunks if len(chunk.token_ids) > 1]
        for chunk in runs:
            shelf = self._alone(chunk.slot)
            shelf.batch.reserve(capacity_for(chunk.start + len(chunk.token_ids)))
        decodes: dict[int, list[Chunk]] = {}
        leaving: dict[tuple[_Shelf, int], list[SlotId]] = {}
        for chunk in chunks:
            if len(chunk.token_ids) > 1:
                continue
            shelf, needed = self._shelves[chunk.slot] or self._alone(chunk.slot), chunk.start + 1
            capacity = shelf.batch.capacity
            if capacity < needed:
                capacity = capacity_for(needed)
                leaving.setdefault((shelf, capacity), []).append(chunk.slot)
            decodes.setdefault(capacity, []).append(chunk)
        for (shelf, capacity), slots in leaving.items():
            self._apart(shelf, slots).batch.reserve(capacity)
        # Rows have their numbers when all have moved.
        arranged = [
            (Group(self.place(one.slot)[0], (0,), len(one.token_ids)), [one]) for one in runs
        ]
        for among in decodes.values():
            shelf = self._together([chunk.slot for chunk in among])
            rows = {chunk.slot: shelf.row(chunk.slot) for chunk in among}
            among.sort(key=lambda chunk: rows[chunk.slot])
            arranged.append((Group(shelf.batch, tuple(sorted(rows.values())), 1), among))
        return arranged

    def _alone(self, slot: SlotId) -> _Shelf:
        """On a shelf of its own."""
        if self._shelves[slot] is None:
            self.put(slot, KvBatch.empty(self._layout))
        return self._apart(self._shelf(slot), [slot])

    def _apart(self, shelf: _Shelf, slots: Sequence[SlotId]) -> _Shelf:
        """On a shelf that has no others."""
        if len(slots) == len(shelf.slots):
            return shelf
        own = _Shelf(shelf.batch.split([shelf.row(slot) for slot in slots]), *slots)
        shelf.slots = [slot for slot in shelf.slots if slot not in slots]
        for slot in slots:
            self._shelves[slot] = own
            self._absent[slot] = 0
        return own

    def _together(self, slots: Sequence[SlotId]) -> _Shelf:
        """On one shelf; those that they are on have rows of one capacity."""
        for slot in slots:
            self._absent[slot] = 0
        taking_part = set(slots)
        for shelf in _distinct(map(self._shelf, slots)):
            for slot in [one for one in shelf.slots if one not in taking_part]:
                self._absent[slot] += 1
                if self._absent[slot] > MAX_ABSENT_STEPS:
                    self._alone(slot)
        home, *others = sorted(_distinct(map(self._shelf, slots)), key=lambda one: -len(one.slots))
        home.batch.extend(*(shelf.batch for shelf in others))
        for shelf in others:
            home.slots += shelf.slots
            for slot in shelf.slots:
                self._shelves[slot] = home
        return home

    def _shelf(self, slot: SlotId) -> _Shelf:
        shelf = self._shelves[slot]
        assert shelf is not None, f"slot {slot} holds nothing"
        return shelf


def _distinct(shelves: Iterable[_Shelf | None]) -> list[_Shelf]:
    return list(dict.fromkeys(shelf for shelf in shelves if shelf is not None))
