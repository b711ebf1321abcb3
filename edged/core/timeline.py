"""Prefills in the order in which they are due, and the work up to each of them.

Theory of operation. Thousands may wait, and each arrival asks whether all are in time. They are
kept in blocks of a few dozen with the work of each block, so that most blocks are passed over
without a look at what is in them, and an arrival costs little more among thousands than alone.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edged.core.sequence import Sequence
from edged.core.types import SeqId

_MOST = 64
"""Entries in a block."""


class Entry(NamedTuple):
    due_s: float
    seq_id: SeqId
    work_s: float
    """Of the whole prefill, alone on the engine."""
    cost_s: float
    """`work_s`, weighed by what the client had."""
    seq: Sequence

    @property
    def left_s(self) -> float:
        """Of `work_s`, what is not done yet."""
        seq = self.seq
        if not seq.num_computed_tokens:
            return self.work_s
        return self.work_s * seq.num_missing_tokens / len(seq.token_ids)


class _Block:
    __slots__ = ("entries", "left_s")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.left_s = 0.0
        self.sum_up()

    def sum_up(self) -> None:
        self.left_s = sum(entry.left_s for entry in self.entries)


class Timeline:
    """Mutable; owned by a forecast."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._lasts: list[Entry] = []
        """Of each block."""
        self._num_entries = 0

    def __len__(self) -> int:
        return self._num_entries

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from block.entries

    def add(self, entry: Entry) -> None:
        self._num_entries += 1
        if not self._blocks:
            self._blocks.append(_Block([entry]))
            self._lasts.append(entry)
            return
        number = min(bisect_left(self._lasts, entry), len(self._blocks) - 1)
        entries = self._blocks[number].entries
        insort(entries, entry)
        if len(entries) > _MOST:
            half = len(entries) // 2
            self._blocks.insert(number + 1, _Block(entries[half:]))
            self._lasts.insert(number + 1, entries[-1])
            del entries[half:]
        self._lasts[number] = entries[-1]
        self._blocks[number].sum_up()

    def remove(self, entry: Entry) -> bool:
        """Whether it was there."""
        number = bisect_left(self._lasts, entry)
        if number == len(self._blocks):
            return False
        block = self._blocks[number]
        place = bisect_left(block.entries, entry)
        if block.entries[place] is not entry:
            return False
        self._num_entries -= 1
        del block.entries[place]
        if block.entries:
            self._lasts[number] = block.entries[-1]
            block.sum_up()
        else:
            del self._blocks[number]
            del self._lasts[number]
        return True

    def progressed(self, entry: Entry) -> None:
        """Some of its work was done."""
        number = bisect_left(self._lasts, entry)
        if number < len(self._blocks):
            self._blocks[number].sum_up()

    def before(self, entry: Entry) -> Iterator[Entry]:
        """Those that are due sooner."""
        for other in self:
            if other >= entry:
                return
            yield other

    def work_before_s(self, entry: Entry) -> float:
        """What is left to do of those that are due sooner."""
        number = bisect_left(self._lasts, entry)
        left_s = sum(block.left_s for block in self._blocks[:number])
        if number < len(self._blocks):
            entries = self._blocks[number].entries
            place = bisect_left(entries, entry)
            left_s += sum(other.left_s for other in entries[:place])
        return left_s

    def overruns(self, limit: Callable[[float], float]) -> Iterator[tuple[Entry, float]]:
        """Those up to which there is more work than their due moments allow, in order, and how
        much more: seconds of work. `limit` is concave: over any time it is least at an end."""
        done_s = 0.0
        for block in self._blocks:
            entries = block.entries
            least_s = min(limit(entries[0].due_s), limit(entries[-1].due_s))
            if done_s + block.left_s <= least_s:
                done_s += block.left_s
                continue
            for entry in entries:
                done_s += entry.left_s
                over_s = done_s - limit(entry.due_s)
                if over_s > 0:
                    yield entry, over_s
