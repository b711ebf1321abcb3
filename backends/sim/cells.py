"""How many cells of the simulated cache are in use, when slots may hold the same ones."""

from collections import Counter
from itertools import count


class CellPool:
    """Counts cells. Where slots may share, each cell has a number and is counted by its holders."""

    def __init__(self, num_cells: int, num_slots: int, *, shares: bool) -> None:
        self.num_cells = num_cells
        self._shares = shares
        self.num_used = 0
        self._numbers = count()
        self._held: list[list[int]] = [[] for _ in range(num_slots)]
        self._holders: Counter[int] = Counter()

    def check_room(self, num_more: int) -> None:
        """Assert that so many cells more are free."""
        used, num_cells = self.num_used, self.num_cells
        assert used + num_more <= num_cells, f"I2: {used} + {num_more} cells of {num_cells}"

    def grow(self, slot: int, num_more: int) -> None:
        self.num_used += num_more
        if self._shares:
            added = [next(self._numbers) for _ in range(num_more)]
            self._held[slot] += added
            self._holders.update(added)

    def copy(self, source: int, target: int, num_cells: int) -> None:
        """`target`, which is empty, gets the first cells of `source`, or as many of its own."""
        if not self._shares:
            self.check_room(num_cells)
            self.num_used += num_cells
            return
        self._held[target] = self._held[source][:num_cells]
        self._holders.update(self._held[target])

    def clear(self, slot: int, num_cells: int) -> None:
        """Take a slot's cells, of which it holds so many."""
        if not self._shares:
            self.num_used -= num_cells
            return
        self._holders.subtract(self._held[slot])
        self.num_used -= sum(self._holders[number] == 0 for number in self._held[slot])
        for number in self._held[slot]:
            if not self._holders[number]:
                del self._holders[number]
        self._held[slot] = []
