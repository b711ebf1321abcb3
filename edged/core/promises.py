"""What is promised, and what a promise asks of others.

A request is promised its targets if there is time for its prefill (`edged.core.forecast`), a slot
and cells (`edged.core.capacity`), and room for its pace beside those of others. Whoever comes later
and would take from that is set aside, whatever work there is.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from edged.core.capacity import CAUTION, PromisedPace, Room, breaks_a_promise, claims_before
from edged.core.fairness import Loads
from edged.core.forecast import Assessment, Forecast
from edged.core.outlook import Outlook
from edged.core.sequence import Sequence as SchedulerSequence
from edged.core.timeline import Entry
from edged.core.types import Obstacle, SeqId

_LEAST_SPEED = 0.01
"""Part of a step that prefills get in any case."""


class Holdings(NamedTuple):
    """Who holds what at one moment."""

    room: Room
    """Beside those that give way."""
    pauses: Sequence[Entry]
    """Answers that may pause, due when they must go on."""
    num_slots: int
    decodes_s: float = 0.0
    """Seconds that the answers which run take of each step."""
    bear_s: float = inf
    """The longest step that all of these bear."""


class Promises:
    """Mutable; owned by a policy."""

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self.least_notice_s = 0.0
        """Seconds that an arrival may have to wait for the step it comes upon; the policy's."""
        self._loads = Loads()
        self._paces = PromisedPace(outlook.cost)
        self._entries: dict[SeqId, Entry] = {}
        """Of those that have targets and no token."""
        self.forecast = Forecast()

    def __len__(self) -> int:
        """Live sequences that it knows."""
        return len(self._entries.keys() | self._paces.seq_ids)

    def entry(self, seq_id: SeqId) -> Entry | None:
        """None once it has a token, or if its first is never due."""
        return self._entries.get(seq_id)

    def assess(
        self, seq: SchedulerSequence, look: Callable[[], Holdings], now_s: float
    ) -> Assessment | None:
        """None for a request that has a token already, or no targets."""
        outlook = self._outlook
        due_s, tpot_s = outlook.due_s(seq, now_s), seq.tpot_target_s
        if seq.first_token_s is not None or (due_s is None and tpot_s is None):
            return None
        holdings = look()
        num_tokens = outlook.lengths.tokens(seq)
        num_cells = len(seq.token_ids) + int(num_tokens)
        obstacle = None
        if tpot_s is not None and not self._paces.fits(tpot_s, num_cells, holdings.num_slots):
            fits_alone = self._paces.fits_alone(tpot_s, num_cells)
            obstacle = Obstacle.PACE if fits_alone else Obstacle.TARGETS
        if due_s is None:
            return Assessment(None, obstacle is None, obstacle, expected_tokens=num_tokens)
        entry = self._arrival(seq, due_s, now_s)
        if seq.promised:  # a replay
            return Assessment(entry, promised=True, expected_tokens=num_tokens)
        spare_s = self._spare_s(seq, now_s)
        assessment = self.forecast.assess(
            entry,
            outlook.pace.speed(now_s),
            now_s,
            gives_way=lambda one: self.gives_way(one, holdings, now_s),
            spare_s=spare_s,
            sure_speed=self._sure_speed(entry, holdings),
        )
        before = claims_before(entry, self.forecast.timeline, holdings.pauses)
        room_s = holdings.room.wait_s(before, num_cells, CAUTION)
        least_notice_s = self.least_notice_s + outlook.cost.base_s
        if obstacle is Obstacle.TARGETS or outlook.is_late_alone(seq, now_s + least_notice_s):
            obstacle = Obstacle.TARGETS
        elif assessment.obstacle is not None:
            obstacle = Obstacle.WORK
        elif now_s + room_s + entry.work_s > due_s - spare_s:
            obstacle = Obstacle.ROOM
        return assessment._replace(
            promised=obstacle is None,
            obstacle=obstacle,
            room_s=room_s,
            expected_tokens=num_tokens,
        )

    def admit(self, seq: SchedulerSequence, assessment: Assessment | None, now_s: float) -> None:
        tpot_s = seq.tpot_target_s
        if seq.promised and tpot_s is not None:
            num_cells = seq.num_prompt_tokens + int(self._outlook.lengths.tokens(seq))
            self._paces.promise(seq.seq_id, tpot_s, num_cells)
        if assessment is not None and assessment.entry is not None:
            self._loads.add(seq.request.client_id, assessment.entry.work_s, now_s)
            self._entries[seq.seq_id] = assessment.entry
            self.forecast.admit(assessment, now_s)

    def call(self, seq: SchedulerSequence, look: Callable[[], Holdings], now_s: float) -> bool:
        """Put one whose turn it is in front, unless that would break a promise."""
        entry = self._entries.get(seq.seq_id)
        if entry is None and seq.first_token_s is not None:
            claim = self._outlook.claim(seq, now_s, self._outlook.pace.step_s(now_s))
            return seq.slot is not None or not self.gives_way(claim, look(), now_s)
        called = self.forecast.call(
            entry or self._arrival(seq, now_s, now_s),
            self._outlook.pace.speed(now_s),
            now_s,
            lambda one: self.gives_way(one, look(), now_s),
        )
        if called is not None:
            self._entries[seq.seq_id] = called
        return called is not None

    def gives_way(self, entry: Entry, holdings: Holdings, now_s: float) -> bool:
        """Whether others who were promised something need the slot or the cells it would take."""
        return breaks_a_promise(
            entry,
            holdings.room,
            self.forecast.timeline,
            holdings.pauses,
            is_promised=self._is_promised,
            now_s=now_s,
        )

    def begun(self, seq_id: SeqId) -> None:
        """It has its first token."""
        entry = self._entries.pop(seq_id, None)
        if entry is not None:
            self.forecast.leave(entry)

    def ended(self, seq_id: SeqId) -> None:
        self.begun(seq_id)
        self._paces.leave(seq_id)

    def _arrival(self, seq: SchedulerSequence, due_s: float, now_s: float) -> Entry:
        outlook = self._outlook
        work_s = outlook.prefill_s(seq)
        num_tokens = outlook.lengths.tokens(seq)
        return Entry(
            due_s,
            seq.seq_id,
            work_s,
            cost_s=work_s * self._loads.weight(seq.request.client_id, work_s),
            seq=seq,
            hold_s=work_s + num_tokens * outlook.pace.step_s(now_s),
            num_cells=len(seq.token_ids) + int(num_tokens),
            num_tokens=seq.num_missing_tokens,
        )

    def _sure_speed(self, entry: Entry, holdings: Holdings) -> float:
        """Part of each step that prefills get as long as the answers bear no longer steps, when
        those due before have become answers too."""
        if holdings.bear_s == inf:
            return inf
        cost = self._outlook.cost
        num = self.forecast.timeline.claims_before(entry).num
        decodes_s = cost.base_s + holdings.decodes_s + num * cost.decode_s
        return max(_LEAST_SPEED, 1.0 - decodes_s / holdings.bear_s)

    def _spare_s(self, seq: SchedulerSequence, now_s: float) -> float:
        """By how much a first token must be early to be promised: a step runs already, and another
        one computes it; and answers may be longer than expected."""
        outlook = self._outlook
        step_s = outlook.pace.step_s(now_s)
        spare_s = max(step_s, self.least_notice_s) + outlook.cost.base_s
        if seq.ends_due_s is not None:
            longer = outlook.lengths.sure_tokens(seq) - outlook.lengths.tokens(seq)
            spare_s += max(0.0, longer) * step_s
        return spare_s

    def _is_promised(self, entry: Entry) -> bool:
        """Whether a first token, or an end, was promised that has not come."""
        seq = entry.seq
        has_more = seq.first_token_s is None or seq.ends_due_s is not None
        return bool(seq.promised and has_more) or self.forecast.is_promised(entry)
