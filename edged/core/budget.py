"""How many bytes saved KV takes, in host memory or on disk: the scheduler's account of what the
engine holds there.

Bytes are reserved when the plan is made that fills them, by what a cell takes when it is saved, and
corrected to what it took.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Generic, TypeVar

from edged.core.types import KvGeometry

NameT = TypeVar("NameT", bound=int)

Worth = tuple[bool, bool, float]
"""Of KV that is kept: whether a preempted sequence owns it, whether somebody who waits claims it,
and its value."""
ANY: Worth = (True, True, inf)
"""Of what goes before all that is not owned."""


MAX_COUNT = 1024
"""Pieces of saved KV in one place. Small ones would be many, and to find what is worth least each
is looked at."""


class ByteBudget(Generic[NameT]):
    """Mutable; owned by the scheduler, read by the planner."""

    def __init__(self, geometry: KvGeometry, max_bytes: int, make: Callable[[int], NameT]) -> None:
        """`make`: the name of a number."""
        self._geometry = geometry
        self._make = make
        self.max_bytes = max_bytes
        self.max_count = MAX_COUNT
        self.used_bytes = 0
        self._held: dict[NameT, int] = {}
        self._next = 0

    @property
    def free_bytes(self) -> int:
        return self.max_bytes - self.used_bytes

    @property
    def held(self) -> Mapping[NameT, int]:
        """Bytes of each."""
        return self._held

    def size_of(self, num_tokens: int) -> int:
        """Bytes that the KV of so many tokens takes."""
        geometry = self._geometry
        return geometry.snapshot_bytes_fixed + num_tokens * geometry.snapshot_bytes_per_cell

    def name(self, index: int = 0) -> NameT:
        """Of what is held next but `index`."""
        return self._make(self._next + index)

    def hold(self, name: NameT, num_bytes: int) -> None:
        assert name not in self._held, f"I8: {name} is held already"
        self._held[name] = num_bytes
        self.used_bytes += num_bytes
        self._next = max(self._next, name + 1)

    def correct(self, name: NameT, num_bytes: int) -> None:
        """It has been made, and takes so much."""
        self.used_bytes += num_bytes - self._held[name]
        self._held[name] = num_bytes

    def drop(self, name: NameT) -> None:
        self.used_bytes -= self._held.pop(name)

    def check(self) -> None:
        assert self.used_bytes == sum(self._held.values()), "I8: the sum of bytes is off"
        assert 0 <= self.used_bytes <= self.max_bytes, (
            f"I8: {self.used_bytes} bytes are held, at most {self.max_bytes}"
        )
        assert len(self._held) <= self.max_count, f"I8: {len(self._held)} are held"


class Room(Generic[NameT]):
    """What can be held besides, and what goes for it; scratch."""

    def __init__(
        self, budget: ByteBudget[NameT], may_go: Callable[[], list[tuple[Worth, NameT]]]
    ) -> None:
        """`may_go` is asked when something has to: in any order."""
        self._budget = budget
        self._free_bytes = budget.free_bytes
        self._num_free = budget.max_count - len(budget.held)
        self._find = may_go
        self._found: list[tuple[Worth, NameT]] | None = None
        self._num_gone = 0

    @property
    def discarded(self) -> list[NameT]:
        """What makes room for all that was taken."""
        return [name for _, name in self._may_go[: self._num_gone]] if self._num_gone else []

    def take(self, num_bytes: int, worth: Worth) -> bool:
        """Room for one more, or none is taken; only what is worth less goes for it."""
        free_bytes, num_free = self._free_bytes - num_bytes, self._num_free - 1
        num_gone = self._num_gone
        while free_bytes < 0 or num_free < 0:
            if num_gone == len(self._may_go) or self._may_go[num_gone][0] >= worth:
                return False
            free_bytes += self._budget.held[self._may_go[num_gone][1]]
            num_free += 1
            num_gone += 1
        self._free_bytes, self._num_free, self._num_gone = free_bytes, num_free, num_gone
        return True

    @property
    def _may_go(self) -> list[tuple[Worth, NameT]]:
        """What is worth least first."""
        if self._found is None:
            self._found = sorted(self._find())
        return self._found
