"""The account of cells agrees with a plain model in which every cell has a number."""

import random
from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.core.kv import KvBudget
from edged.core.types import SeqId, SlotId
from tests.factories import geometry

NUM_SLOTS, NUM_CACHE_SLOTS, NUM_CELLS = 4, 2, 120


class Cells:
    """A budget, and beside it the cells that each slot holds, by number."""

    def __init__(self) -> None:
        sizes = geometry(num_slots=NUM_SLOTS, num_cells=NUM_CELLS)
        self.budget = KvBudget(replace(sizes, num_cache_slots=NUM_CACHE_SLOTS))
        self.held: dict[SlotId, list[int]] = {}
        self.taken: set[SlotId] = set()
        self.seen: set[str] = set()
        self._numbers = count()

    def obey(self, what: int, pick: int, num_cells: int) -> None:
        """One of the operations, if it is possible now; on slots and sizes that follow from the
        numbers."""
        operations = (
            self.take,
            self.grow,
            self.grow,
            self.share,
            self.share,
            self.trim,
            self.cache,
        )
        operation = (*operations, self.adopt, self.release)[what]
        if operation(pick, num_cells):
            self.seen.add(operation.__name__)
        self.compare()

    def take(self, pick: int, num_cells: int) -> bool:
        if not self.budget.num_free_slots:
            return False
        slot = self.budget.empty_slots[-1]
        self.budget.take(slot, SeqId(next(self._numbers)))
        self.held[slot] = []
        self.taken.add(slot)
        return True

    def grow(self, pick: int, num_cells: int) -> bool:
        slot = self._one_of(self.taken, pick)
        if slot is None or num_cells - len(self.held[slot]) > self.budget.empty_cells:
            return False
        more = max(0, num_cells - len(self.held[slot]))
        self.held[slot] = self.held[slot] + [next(self._numbers) for _ in range(more)]
        self.budget.reserve(slot, num_cells)
        return True

    def share(self, pick: int, num_cells: int) -> bool:
        source = self._one_of({slot for slot, cells in self.held.items() if cells}, pick)
        if source is None or not self.take(pick, num_cells):
            return False
        target = list(self.held)[-1]
        shared = 1 + num_cells % len(self.held[source])
        self.budget.share(source, target, shared)
        self.held[target] = self.held[source][:shared]
        return True

    def trim(self, pick: int, num_cells: int) -> bool:
        slot = self._one_of(set(self.held), pick)
        if slot is None:
            return False
        kept = num_cells % (len(self.held[slot]) + 1)
        self.budget.trim(slot, kept)
        self.held[slot] = self.held[slot][:kept]
        return True

    def cache(self, pick: int, num_cells: int) -> bool:
        slot = self._one_of(self.taken, pick)
        if slot is None or len(self.budget.cached) == NUM_CACHE_SLOTS:
            return False
        kept = num_cells % (len(self.held[slot]) + 1)
        self.budget.cache(slot, kept)
        self.held[slot] = self.held[slot][:kept]
        self.taken.remove(slot)
        return True

    def adopt(self, pick: int, num_cells: int) -> bool:
        slot = self._one_of(set(self.held) - self.taken, pick)
        if slot is None or not self.budget.num_free_slots:
            return False
        self.budget.adopt(slot, SeqId(next(self._numbers)))
        self.taken.add(slot)
        return True

    def release(self, pick: int, num_cells: int) -> bool:
        slot = self._one_of(set(self.held), pick)
        if slot is None:
            return False
        self.budget.release(slot)
        del self.held[slot]
        self.taken.discard(slot)
        return True

    def compare(self) -> None:
        budget = self.budget
        budget.check()
        assert budget.cells == {slot: len(cells) for slot, cells in self.held.items()}
        assert budget.used_cells == len({cell for cells in self.held.values() for cell in cells})
        taken = {cell for slot in self.taken for cell in self.held[slot]}
        assert budget.taken_cells == len(taken) == NUM_CELLS - budget.free_cells
        assert budget.used_cells == NUM_CELLS - budget.empty_cells
        assert set(budget.cached) == set(self.held) - self.taken
        for slot, cells in self.held.items():
            others = {cell for one in self.held if one != slot for cell in self.held[one]}
            assert budget.freed_by(slot) == len(set(cells) - others)
            assert budget.held_alone(slot) <= budget.freed_by(slot)
        for slot in list(self.held)[:1]:
            self.compare_taken(slot, self.held[slot])

    def compare_taken(self, slot: SlotId, cells: list[int]) -> None:
        """What sequences hold of a slot's cells: all of them, and without the last that came."""
        for gone in (set(), set(sorted(self.taken)[-1:])):
            takers = self.taken - gone
            taken = {cell for one in takers for cell in self.held[one]}
            for num_cells in (len(cells) // 2, len(cells)):
                held = len(taken & set(cells[:num_cells]))
                assert self.budget.taken_of(slot, num_cells, gone) == held
        if slot in self.taken:
            by_others = {cell for one in self.taken - {slot} for cell in self.held[one]}
            assert self.budget.given_back_by(slot) == len(set(cells) - by_others)

    def _one_of(self, slots: set[SlotId], pick: int) -> SlotId | None:
        return sorted(slots)[pick % len(slots)] if slots else None


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(1, 40)), max_size=80))
@settings(deadline=None)
def test_cells_are_held_by_whom_they_were_given_to(operations: list[tuple[int, int, int]]) -> None:
    cells = Cells()
    for operation in operations:
        cells.obey(*operation)


def test_the_same_over_a_long_time() -> None:
    draw = random.Random(11)
    cells = Cells()
    for _ in range(100_000):
        cells.obey(draw.randrange(9), draw.randrange(6), draw.randint(1, 40))
    assert cells.seen == {"take", "grow", "share", "trim", "cache", "adopt", "release"}
