"""Prefills in the order in which they are due, and the work up to each of them.

Theory of operation. Thousands may wait, and each arrival asks whether all are in time. They are
kept in blocks of a few dozen with the work of each block, so that most blocks are passed over
without a look at what is in them, and an arrival costs little more among thousands than alone.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from edged.core.sequence import Sequence as SchedulerSequence
from edged.core.types import SeqId

_MOST = 64
"""Entries in a block."""


class Entry(NamedTuple):
    due_s: float
    seq_id: SeqId
    work_s: float
    """Of the prefill that it came with, alone on the engine."""
    cost_s: float
    """`work_s`, weighed by what the client had."""
    seq: SchedulerSequence
    hold_s: float = 0.0
    """For which it will hold a slot, as expected."""
    num_cells: int = 0
    """That it will hold."""
    num_tokens: int = 1
    """Of that prefill."""

    @property
    def horizon_s(self) -> float:
        """Seconds from its arrival until it is due."""
        return self.due_s - self.seq.request.arrival_s

    @property
    def left_s(self) -> float:
        """Of `work_s`, what is not done yet."""
        return self.work_s * self.seq.num_missing_tokens / self.num_tokens


class Claims(NamedTuple):
    """Slots and cells that several need, and for how long."""

    num: int = 0
    num_cells: int = 0
    hold_s: float = 0.0
    """Seconds, of all together."""
    hold_cell_s: float = 0.0
    """Cells times seconds."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Claims":
        num, num_cells, hold_s, hold_cell_s = 0, 0, 0.0, 0.0
        for one in entries:
            num += 1
            num_cells += one.num_cells
            hold_s += one.hold_s
            hold_cell_s += one.hold_s * one.num_cells
        return cls(num, num_cells, hold_s, hold_cell_s)

    def plus(self, other: "Claims") -> "Claims":
        return Claims(
            self.num + other.num,
            self.num_cells + other.num_cells,
            self.hold_s + other.hold_s,
            self.hold_cell_s + other.hold_cell_s,
        )


class Block:
    """Entries that follow one another."""

    __slots__ = ("_claims", "_dearest", "entries", "left_s")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.sum_up()

    def sum_up(self) -> None:
        self.left_s = sum(entry.left_s for entry in self.entries)
        self._claims: Claims | None = None
        self._dearest = 0.0, 0

    @property
    def claims(self) -> Claims:
        """Of those that have no slot."""
        if self._claims is None:
            self._claims = Claims.of(one for one in self.entries if one.seq.slot is None)
            self._dearest = (
                max(one.work_s for one in self.entries),
                max(one.num_cells for one in self.entries),
            )
        return self._claims

    @property
    def dearest(self) -> tuple[float, int]:
        """No entry has more seconds of work, nor more cells."""
        _ = self.claims
        return self._dearest


class Timeline:
    """Mutable; owned by a forecast."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._lasts: list[Entry] = []
        """Of each block."""
        self._num_entries = 0

    def __len__(self) -> int:
        return self._num_entries

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from block.entries

    @property
    def blocks(self) -> Sequence[Block]:
        return self._blocks

    def add(self, entry: Entry) -> None:
        self._num_entries += 1
        if not self._blocks:
            self._blocks.append(Block([entry]))
            self._lasts.append(entry)
            return
        number = min(bisect_left(self._lasts, entry), len(self._blocks) - 1)
        entries = self._blocks[number].entries
        insort(entries, entry)
        if len(entries) > _MOST:
            half = len(entries) // 2
            self._blocks.insert(number + 1, Block(entries[half:]))
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
        """Some of its work was done, or undone, or it has a slot or has lost it."""
        number = bisect_left(self._lasts, entry)
        if number < len(self._blocks):
            self._blocks[number].sum_up()

    def work_before_s(self, entry: Entry) -> float:
        """What is left to do of those that are due sooner."""
        number, rest = self._before(entry)
        left_s = sum(block.left_s for block in self._blocks[:number])
        return left_s + sum(other.left_s for other in rest)

    def claims_before(self, entry: Entry) -> Claims:
        """Of those that are due sooner and have no slot."""
        number, rest = self._before(entry)
        several = [block.claims for block in self._blocks[:number]]
        several.append(Claims.of(one for one in rest if one.seq.slot is None))
        num, num_cells, hold_s, hold_cell_s = map(sum, zip(*several, strict=True))
        return Claims(num, num_cells, hold_s, hold_cell_s)

    def around(self, entry: Entry, num_blocks: int) -> Iterator[Entry]:
        """All in order, from so many blocks before that of an entry on."""
        number = bisect_left(self._lasts, entry)
        for block in self._blocks[max(0, number - num_blocks) :]:
            yield from block.entries

    def _before(self, entry: Entry) -> tuple[int, Iterator[Entry]]:
        """How many whole blocks are due sooner, and which of the next one."""
        number = bisect_left(self._lasts, entry)
        if number == len(self._blocks):
            return number, iter(())
        entries = self._blocks[number].entries
        return number, islice(entries, bisect_left(entries, entry))

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
