"""Moments at which something is to be looked at for a sequence, soonest first."""

from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush

from edged.core.types import SeqId

MAX_STALE = 1024
"""Moments of sequences that have ended already, beside four for each live one."""


class Moments:
    """Mutable; owned by the scheduler. Moments of sequences that have ended go by unnoticed."""

    def __init__(self, live: Collection[SeqId]) -> None:
        """`live` is the owner's own collection, as it changes."""
        self._live = live
        self._heap: list[tuple[float, SeqId]] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first_s(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def add(self, at_s: float, seq_id: SeqId) -> None:
        heappush(self._heap, (at_s, seq_id))
        if len(self._heap) > MAX_STALE + 4 * len(self._live):
            self._heap = [one for one in self._heap if one[1] in self._live]
            heapify(self._heap)

    def due(self, now_s: float) -> Iterator[SeqId]:
        """Take out those that have come, of live sequences; more may be added meanwhile."""
        while self._heap and self._heap[0][0] <= now_s:
            _, seq_id = heappop(self._heap)
            if seq_id in self._live:
                yield seq_id
