"""The moment at which something is to be looked at for each sequence, soonest first."""

from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush

from edged.core.types import SeqId

MAX_STALE = 1024
"""Moments that do not count any more, beside two for each live sequence."""


class Moments:
    """One for each sequence: that which was named last. Mutable; owned by the scheduler. Moments of
    sequences that have ended go by unnoticed."""

    def __init__(self, live: Collection[SeqId]) -> None:
        """`live` is the owner's own collection, as it changes."""
        self._live = live
        self._heap: list[tuple[float, SeqId]] = []
        self._named: dict[SeqId, float] = {}

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first_s(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def add(self, at_s: float, seq_id: SeqId) -> None:
        if self._named.get(seq_id) == at_s:
            return
        self._named[seq_id] = at_s
        heappush(self._heap, (at_s, seq_id))
        if len(self._heap) > MAX_STALE + 2 * len(self._live):
            self._named = {one: at_s for one, at_s in self._named.items() if one in self._live}
            self._heap = [(at_s, one) for one, at_s in self._named.items()]
            heapify(self._heap)

    def due(self, now_s: float) -> Iterator[SeqId]:
        """Take out those that have come, of live sequences; more may be added meanwhile."""
        while self._heap and self._heap[0][0] <= now_s:
            at_s, seq_id = heappop(self._heap)
            if self._named.get(seq_id) != at_s:
                continue
            del self._named[seq_id]
            if seq_id in self._live:
                yield seq_id
