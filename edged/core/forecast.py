"""Who can be served in time: the prefills that have a deadline, and what is still to come.

Theory of operation. A prefill is due at the latest moment at which its request can still keep its
targets. In order of those moments, the work up to each must fit in the time up to it:

    now + (Σ work due until then + work still to come that is due until then) / speed ≤ due

*Speed* is the part of the engine's time that prefills get beside the decodes, as it is measured
(`edged.core.pace`), less a margin; a promise counts on no more than running answers leave of a step
now. *Work still to come*: whoever is due in a minute is passed by those that come meanwhile and are
due sooner (`edged.core.demand`).

Where the sum does not fit, somebody is late whatever the order is, and one late request must not
make many so. As Moore (Management Science 15, 1968) has it, the one with the most work of those in
front is set aside, as often as needed: so the fewest are late. Three things temper that. Work is
weighed with what its client had of late, so that whoever asks for more than its part loses first.
Of each size of prompts a part is kept whatever it costs: long prompts are not to be late always.
And who was set aside comes back when there is room again, or when somebody larger comes, in that
one's place.

A request is *promised* its targets if it fits although all arrivals go on as they did, and is
small, or there is room for all. Who is promised is never set aside. Who would be late with the
engine to itself competes with nobody, and counts for nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import islice
from math import inf
from typing import NamedTuple

from edged.core.demand import Arrivals, Sizes
from edged.core.timeline import Entry, Timeline
from edged.core.types import Obstacle, SeqId

_MARGIN = 0.88
"""Part of the measured speed that is counted on."""
_MARGIN_AGAIN = 0.84
"""The same, to take one back that was set aside."""
_LOOKED_AT = 32
"""Of those due next, how many say whether there is time to wait."""
_WORTH_A_CHANGE = 1.5
"""How much dearer an arrival must be than one set aside, to give it its place."""
_TRIED = 8
"""How many that were set aside are tried in the place of an arrival."""
_MOST_FOR_ONE = 16
"""How many may be set aside for the sake of one arrival."""
_BLOCKS_LOOKED_AT = 32
"""Before the first that is late, for whom to set aside: a thousand, so a few milliseconds."""
_TURN_TIMES = (1, 4, 16, 64)
"""In how many times the time that its work takes alone a turn may be due."""
_SMALL = 0.1
"""Work, as a part of the time until it is due, that may be promised whatever the load."""
_SURE = 0.8
"""Part of the time until it is due within which work must fit to be promised."""
_ROOM_FOR_ALL = 0.7
"""Work that comes per second, as a part of the speed, below which anything may be promised."""


_Loss = tuple[bool, float, float]
"""Least for whom to set aside first: not spared, the part that its size has lost, then dear."""


class Assessment(NamedTuple):
    """What an arrival would mean; nothing has changed yet."""

    entry: Entry | None
    """None if its first token is never due."""
    promised: bool
    obstacle: Obstacle | None = None
    """To a promise."""
    predicted_s: float = 0.0
    """Seconds until its first token, if it is served in its turn."""
    room_s: float = 0.0
    """Seconds until there is a slot and cells for it."""
    expected_tokens: float = 0.0
    """Length of its answer, as the policy expects it."""
    set_aside: tuple[Entry, ...] = ()
    """Those that would be late; the arrival itself may be among them."""
    taken_back: Entry | None = None
    """One that was set aside, and has room now: the arrival's, unless both fit."""

    @property
    def fits(self) -> bool:
        """Whether the targets can be held beside those of others."""
        return self.obstacle is not Obstacle.TARGETS and self.entry not in self.set_aside


def _to_nobody(_entry: Entry) -> bool:
    return False


class Forecast:
    """Mutable; owned by a policy, which says what work and deadlines are."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._aside: list[tuple[float, SeqId, Entry]] = []
        """Those set aside that could still be in time, the cheapest first."""
        self._promised: set[SeqId] = set()
        self._num_relaxed = 0
        self.arrivals = Arrivals()
        self._sizes = Sizes()

    def __len__(self) -> int:
        return len(self._timeline)

    # ── An arrival ───────────────────────────────────────────────────────────────────────────────

    def assess(
        self,
        entry: Entry,
        speed: float,
        now_s: float,
        *,
        gives_way: Callable[[Entry], bool] = _to_nobody,
        spare_s: float = 0.0,
        sure_speed: float = inf,
    ) -> Assessment:
        """What would become of an arrival, and of others for its sake. `gives_way`: who is to be
        set aside whatever work there is. `spare_s`: by how much it must be early to be promised.
        `sure_speed`: the speed to promise by, if it is less."""
        sure_speed = min(speed, sure_speed) * _MARGIN
        speed *= _MARGIN
        wait_s = self._wait_s(entry, speed)
        if _is_late_alone(entry, now_s):
            return Assessment(entry, False, Obstacle.TARGETS, wait_s)
        taken_back = self._exchange(entry, speed, now_s, gives_way)
        if taken_back is not None:
            with self._having(taken_back):
                all_fit = not gives_way(entry)
                with self._having(entry):
                    all_fit = all_fit and self._all_fit(speed, now_s)
            set_aside = [] if all_fit else [entry]
        elif gives_way(entry):
            others, all_fit = self._relieve(speed, now_s)
            set_aside, all_fit = [entry, *others], False
        else:
            set_aside, all_fit = self._relieve_for(entry, speed, now_s)
        left_s = entry.due_s - now_s
        sure_s = min(_SURE * left_s, left_s - spare_s)
        is_sure = all_fit and self._may_promise(entry, taken_back, sure_speed, now_s, sure_s)
        return Assessment(
            entry,
            is_sure,
            None if is_sure else Obstacle.WORK,
            wait_s,
            set_aside=tuple(set_aside),
            taken_back=taken_back,
        )

    def admit(self, assessment: Assessment, now_s: float) -> None:
        """Do as an assessment says, made at this moment."""
        entry = assessment.entry
        if entry is None or _is_late_alone(entry, now_s):
            return
        self._timeline.add(entry)
        self.arrivals.come(entry.work_s, entry.horizon_s, now_s)
        self._sizes.come(entry.seq.num_prompt_tokens)
        if assessment.promised:
            self._promised.add(entry.seq_id)
        for one in assessment.set_aside:
            self._timeline.remove(one)
            insort(self._aside, (one.cost_s, one.seq_id, one))
            self.arrivals.set_aside(one.work_s, one.horizon_s, now_s)
            self._sizes.set_aside(one.seq.num_prompt_tokens)
        if assessment.taken_back is not None:
            self._take_back(assessment.taken_back, now_s)

    def relax(
        self, speed: float, now_s: float, gives_way: Callable[[Entry], bool] = _to_nobody
    ) -> Entry | None:
        """Take one back that was set aside, if work went so well that there is room for it now.
        Less is counted on than for an arrival, else it would be at the cost of the next ones."""
        self._num_relaxed += 1
        num = len(self._aside)
        for place in {0, self._num_relaxed % num} if num else ():
            _, _, entry = self._aside[place]
            if not _is_late_alone(entry, now_s):
                with self._having(entry):
                    fits = self._all_fit(_MARGIN_AGAIN * speed, now_s)
                if fits and not gives_way(entry):
                    self._take_back(entry, now_s)
                    return entry
        return None

    def call(
        self,
        entry: Entry,
        speed: float,
        now_s: float,
        gives_way: Callable[[Entry], bool] = _to_nobody,
    ) -> Entry | None:
        """One that was relegated has its turn, as soon as nobody who was promised anything is late
        for it: the same, due then, and promised that. None if somebody would be all the same."""
        for times in _TURN_TIMES:
            called = entry._replace(due_s=now_s + times * entry.work_s)
            with self._having(called):
                late = self._overruns(speed * _MARGIN, now_s)
                breaks_promise = any(one.seq_id in self._promised for one, _ in late)
            if not breaks_promise and not gives_way(called):
                self.leave(entry)
                self._promised.add(called.seq_id)
                self._timeline.add(called)
                return called
        return None

    def leave(self, entry: Entry) -> None:
        """It got its first token, ended, or is late."""
        if not self._timeline.remove(entry):
            key = (entry.cost_s, entry.seq_id, entry)
            place = bisect_left(self._aside, key)
            if place < len(self._aside) and self._aside[place][2] is entry:
                del self._aside[place]
        self._promised.discard(entry.seq_id)

    def progressed(self, entry: Entry) -> None:
        """Some of its prefill was computed."""
        self._timeline.progressed(entry)

    def slack_s(self, speed: float, now_s: float) -> float:
        """Seconds that the prefills due next can wait, and be in time."""
        speed *= _MARGIN
        done_s, slack_s = 0.0, inf
        for entry in islice(self._timeline, _LOOKED_AT):
            done_s += entry.left_s
            slack_s = min(slack_s, entry.due_s - now_s - done_s / speed)
        return slack_s

    @property
    def timeline(self) -> Timeline:
        """Those expected to be in time."""
        return self._timeline

    def is_promised(self, entry: Entry) -> bool:
        """Whether it is in time whoever comes."""
        return entry.seq_id in self._promised

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _exchange(
        self, entry: Entry, speed: float, now_s: float, gives_way: Callable[[Entry], bool]
    ) -> Entry | None:
        """One that was set aside, is much cheaper than the arrival and would be in time."""
        if self._sizes.is_spared(entry.seq.num_prompt_tokens):
            return None
        for cost_s, _, other in self._aside[:_TRIED]:
            if cost_s * _WORTH_A_CHANGE >= entry.cost_s:
                return None
            with self._having(other):
                fits = self._all_fit(speed, now_s)
            if fits and not gives_way(other):
                return other
        return None

    @contextmanager
    def _having(self, *entries: Entry) -> Iterator[None]:
        """As if they were expected to be in time."""
        for entry in entries:
            self._timeline.add(entry)
        try:
            yield
        finally:
            for entry in entries:
                self._timeline.remove(entry)

    def _take_back(self, entry: Entry, now_s: float) -> None:
        self._aside.remove((entry.cost_s, entry.seq_id, entry))
        self._timeline.add(entry)
        self.arrivals.take_back(entry.work_s, entry.horizon_s, now_s)
        self._sizes.take_back(entry.seq.num_prompt_tokens)

    def _relieve_for(self, entry: Entry, speed: float, now_s: float) -> tuple[list[Entry], bool]:
        """Whom to set aside for an arrival, or with it, and whether it and all others are in time
        then."""
        with self._having(entry):
            set_aside, all_fit = self._relieve(speed, now_s)
        is_in = entry not in set_aside
        if len(set_aside) <= (_MOST_FOR_ONE if is_in else 1):
            return set_aside, all_fit and is_in
        others, _ = self._relieve(speed, now_s)
        if is_in and len(set_aside) <= len(others) + _MOST_FOR_ONE:
            return set_aside, all_fit
        return [entry, *others], False  # nobody else is set aside in vain

    def _relieve(self, speed: float, now_s: float) -> tuple[list[Entry], bool]:
        """Whom to set aside so that the others are in time, and whether all of them are then: the
        dearest, or if all sizes have lost their part the one whose size lost least; of equals the
        youngest. A prefill that has begun goes on. Of thousands that are due before the first that
        is late, the last ones are looked at."""
        set_aside: list[Entry] = []
        movable: list[tuple[_Loss, SeqId, Entry]] = []
        losses: dict[int, tuple[bool, float]] = {}
        gained_s, all_fit = 0.0, True
        in_order: Iterator[Entry] | None = None
        for entry, over_s in self._overruns(speed, now_s):
            if over_s > gained_s:
                if in_order is None:
                    in_order = self._timeline.around(entry, _BLOCKS_LOOKED_AT)
                for one in self._movable(in_order, entry):
                    size = one.seq.num_prompt_tokens.bit_length()
                    if size not in losses:
                        losses[size] = self._sizes.loss(one.seq.num_prompt_tokens)
                    heappush(movable, ((*losses[size], -one.cost_s), SeqId(-one.seq_id), one))
            while over_s > gained_s and movable:
                *_, dearest = heappop(movable)
                set_aside.append(dearest)
                gained_s += dearest.work_s
            all_fit = all_fit and over_s <= gained_s
        return set_aside, all_fit

    def _movable(self, in_order: Iterator[Entry], last: Entry) -> Iterator[Entry]:
        """The next ones, through the last, that may be set aside."""
        for entry in in_order:
            if not (entry.seq.has_kv or entry.seq_id in self._promised):
                yield entry
            if entry is last:
                return

    def _all_fit(self, speed: float, now_s: float) -> bool:
        return next(self._overruns(speed, now_s), None) is None

    def _overruns(self, speed: float, now_s: float) -> Iterator[tuple[Entry, float]]:
        """Those that will be late, and by how many seconds of work."""
        to_come = self.arrivals.expected(now_s)

        def limit(due_s: float) -> float:
            left_s = due_s - now_s
            work_s = left_s * speed
            for rate, horizon_s in to_come:
                if left_s > horizon_s:
                    work_s -= rate * (left_s - horizon_s)
            return work_s

        for entry, over_s in self._timeline.overruns(limit):
            if entry.due_s - now_s >= entry.left_s:  # else it is late in any case
                yield entry, over_s

    def _may_promise(
        self, entry: Entry, taken_back: Entry | None, speed: float, now_s: float, sure_s: float
    ) -> bool:
        """Whether it is done within `sure_s`, whatever comes."""
        left_s = entry.due_s - now_s
        small = entry.work_s < _SMALL * left_s
        if not small and self.arrivals.offered(now_s) > _ROOM_FOR_ALL * speed:
            return False
        before_s = self.arrivals.offered_before(left_s, now_s)
        if taken_back is not None:
            before_s += taken_back.work_s
        return self._wait_s(entry, 1.0) + before_s <= sure_s * speed

    def _wait_s(self, entry: Entry, speed: float) -> float:
        """Seconds until its work is done, if nothing else comes."""
        return (entry.work_s + self._timeline.work_before_s(entry)) / speed


def _is_late_alone(entry: Entry, now_s: float) -> bool:
    return entry.due_s - now_s < entry.work_s
