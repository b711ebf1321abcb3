"""What is promised beside work: slots, cells, and the pace of answers.

Theory of operation. Whoever waits needs a slot and cells by a moment, and so does an answer that
may pause: these are *claims*, served in the order of their moments. What the other running
sequences hold is free when they end. So a claim that *n* others precede has its slot

- at once, if more than n are free;
- when as many as it lacks have certainly ended, by the limits of their answers; or,
- as Graham has it (Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969), after
  the time for which those in front hold a slot, divided by the number of slots. How long answers
  are is only expected, so that a promise counts on twice that.

The same holds for cells, of which a claim needs several; who lacks both waits for both.

Answers with a promised TPOT share each step. Together they may take that part of the least of their
targets which leaves time for prompts.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from heapq import merge
from itertools import chain
from math import inf
from typing import NamedTuple

from edged.core.cost import StepCostModel
from edged.core.timeline import Block, Claims, Entry, Timeline
from edged.core.types import SeqId

_LOOKED_AT = 256
"""A claim that more precede is looked at when fewer do: there is time."""
CAUTION = 2.0
"""How many times what is expected a promise counts on, where answers have to end first."""
HEADROOM_TOKENS = 16
"""Cells left free for each running sequence when another one is started, so that starting one does
not at once evict it again."""
_PACE_PART = 0.7
"""Of the least promised TPOT, what answers may take that have one."""


class Holder(NamedTuple):
    """A running sequence that keeps its slot until it ends."""

    certain_s: float
    """Seconds until it has ended, at its limit."""
    expected_s: float
    num_cells: int
    """As many as it will hold."""


class Room:
    """Slots and cells at one moment, and when more of them will be free."""

    def __init__(self, num_slots: int, num_cells: int, holders: Sequence[Holder]) -> None:
        self._num_slots = num_slots
        self._num_cells = num_cells
        self._num_free = num_slots - len(holders)
        self._free_cells = num_cells - sum(one.num_cells for one in holders)
        self._ends_s = sorted(one.certain_s for one in holders)
        self._held_s = sum(one.expected_s for one in holders)
        self._held_cell_s = sum(one.expected_s * one.num_cells for one in holders)

    def has(self, claims: Claims) -> bool:
        """Whether there is room for all of these at once."""
        return claims.num <= self._num_free and claims.num_cells <= self._free_cells

    def wait_s(self, before: Claims, num_cells: int, caution: float) -> float:
        """Seconds until there is room for a claim that these precede; inf if there never is."""
        if num_cells > self._num_cells + HEADROOM_TOKENS:
            return inf
        wait_s = 0.0
        lacking = before.num + 1 - self._num_free
        if lacking > 0:
            certain_s = self._ends_s[lacking - 1] if lacking <= len(self._ends_s) else inf
            wait_s = min(certain_s, caution * (self._held_s + before.hold_s) / self._num_slots)
        if before.num_cells + num_cells > self._free_cells:
            others = max(1, self._num_cells - num_cells)
            wait_s += caution * (self._held_cell_s + before.hold_cell_s) / others
        return wait_s


def claims_before(entry: Entry, timeline: Timeline, pauses: Iterable[Entry]) -> Claims:
    """What is to be served before it. `pauses`: the answers that may pause, due when they must go
    on."""
    return timeline.claims_before(entry).plus(Claims.of(one for one in pauses if one < entry))


def breaks_a_promise(
    arrival: Entry,
    room: Room,
    timeline: Timeline,
    pauses: Iterable[Entry],
    *,
    is_promised: Callable[[Entry], bool],
    now_s: float,
) -> bool:
    """Whether somebody who was promised to be in time, and is due later, would have no room in time
    if the arrival had. What is expected is counted on: what was promised was so with caution."""

    def is_late(one: Entry, before: Claims) -> bool:
        if one <= arrival or not is_promised(one):
            return False
        return now_s + room.wait_s(before, one.num_cells, 1.0) > one.due_s - one.left_s

    before = Claims()
    rest = sorted([arrival, *pauses])
    for block in timeline.blocks:
        if before.num > _LOOKED_AT:
            return False
        last = block.entries[-1]
        place = bisect_right(rest, last)
        here, rest = rest[:place], rest[place:]
        after = before.plus(block.claims).plus(Claims.of(here))
        if last > arrival and not _all_have_room(block, here, after, room, now_s):
            waiting = (one for one in block.entries if one.seq.slot is None)
            if _one_is_late(merge(waiting, here), before, is_late):
                return True
        before = after
    return _one_is_late(rest, before, is_late)


def _all_have_room(
    block: Block, pauses: Sequence[Entry], after: Claims, room: Room, now_s: float
) -> bool:
    """Whether so many have room in time, as a look at the first and the dearest of them says."""
    if room.has(after):
        return True
    work_s, num_cells = block.dearest
    due_s = min(one.due_s for one in (block.entries[0], *pauses[:1]))
    num_cells = max(num_cells, *(one.num_cells for one in pauses), 0)
    return now_s + room.wait_s(after, num_cells, 1.0) <= due_s - work_s


def _one_is_late(
    claims: Iterable[Entry], before: Claims, is_late: Callable[[Entry, Claims], bool]
) -> bool:
    for one in claims:
        if is_late(one, before):
            return True
        before = before.plus(Claims.of((one,)))
    return False


class PromisedPace:
    """Answers with a promised TPOT, from the promise to their end. Mutable; owned by a policy."""

    def __init__(self, cost: StepCostModel) -> None:
        self._cost = cost
        self._promised: dict[SeqId, tuple[float, int]] = {}
        self._targets_s: Counter[float] = Counter()
        self._num_cells = 0

    @property
    def seq_ids(self) -> Set[SeqId]:
        return self._promised.keys()

    def fits(self, tpot_s: float, num_cells: int, num_slots: int) -> bool:
        """Whether one more would leave enough of the least target of all."""
        num = len(self._promised) + 1
        at_once = min(1.0, num_slots / num)
        cost = self._cost
        decodes_s = num * cost.decode_s + (self._num_cells + num_cells) * cost.cell_s
        least_s = min(chain(self._targets_s, (tpot_s,)))
        return cost.base_s + at_once * decodes_s <= _PACE_PART * least_s

    def fits_alone(self, tpot_s: float, num_cells: int) -> bool:
        """Whether it would if there were no others."""
        cost = self._cost
        return cost.base_s + cost.decode_s + num_cells * cost.cell_s <= _PACE_PART * tpot_s

    def promise(self, seq_id: SeqId, tpot_s: float, num_cells: int) -> None:
        self._promised[seq_id] = tpot_s, num_cells
        self._targets_s[tpot_s] += 1
        self._num_cells += num_cells

    def leave(self, seq_id: SeqId) -> None:
        """It ended, or was promised nothing."""
        tpot_s, num_cells = self._promised.pop(seq_id, (0.0, 0))
        self._num_cells -= num_cells
        if tpot_s:
            self._targets_s[tpot_s] -= 1
            if not self._targets_s[tpot_s]:
                del self._targets_s[tpot_s]
