"""Promises: who can be served in time is, and whoever cannot be does not make others late.

A request is *on time* while its targets can be kept beside those promised to others
(`edged.core.forecast`). Bands, most urgent first:

| band | row | who | order |
|---|---|---|---|
| 0 | 0 | on time, or promised to be | when its first token is due, or its answer to go on |
| 0 | 1 | relegated, but may be in time yet; answers that may pause | the same |
| 1 | 0 | late | its client's turn |
| 2 | 0 | no targets | its client's turn |

The first token is due when the TTFT target says, or as long before the end as the answer will take,
by its expected length and the engine's pace. An answer keeps the band in which it began, unless its
end was to come and has not. Each band yields slots and step time to those before it. Who is
relegated or late gets `relegated_share` of the engine all the same, and so does who has no targets
(`edged.core.relegation`).

A promise is given where work (`edged.core.forecast`), slots, cells and pace allow it
(`edged.core.capacity`), and whoever comes later and would break it is relegated.

Prefills are as large as the answers beside them bear: an answer with a TPOT target bears what that
says, one that is to end in time its slack over the tokens that it still lacks, unless it would miss
its end at the usual pace anyway.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from math import inf

from edged.core.capacity import Room
from edged.core.cost import StepCostModel
from edged.core.fairness import Turns
from edged.core.forecast import Assessment
from edged.core.kv import KvBudget
from edged.core.outlook import Outlook
from edged.core.plan import YIELDS_TO_NOBODY, StepPlan, StepResult
from edged.core.policies.answers import (
    FOR_EQUALS,
    pace_tolerance,
    preemptible_bounds,
    tiers_before,
)
from edged.core.policy import TOLERATES_ALL, Place, PrefillBounds, SchedulerConfig, Tolerance
from edged.core.promises import Holdings, Promises
from edged.core.relegation import Line
from edged.core.sequence import Sequence, SequenceState
from edged.core.types import TIER_RANK, FinishReason, Rank, SeqId, SloTier, TierSpec

ON_TIME, LATE, BEST_EFFORT = range(3)
FIRST, BEHIND = range(2)
"""Rows."""

_ANSWER_WEIGHT = 2.0
"""Tokens of a prompt that count as much as one of an answer when clients take turns."""
_STEP_PART = 0.06
"""Part of the shortest TTFT target for which an arrival may have to wait for a step that it cannot
cut short."""
_FOR_OTHERS_PART = 0.05
"""What work without promises may add to the step of a prefill that somebody waits for, on a device
that waits for its memory, as a GPU, so that it comes at nearly no cost. A CPU that can cut steps
short waits for its sums."""
_AT_RISK_STEPS = 8
"""Steps that prefills, or an answer that paused, can wait for a slot before they take that of an
answer that is on time."""
_NEAR_ITS_END = 0.05
"""Part of the TTFT target for which an answer's end is waited for rather than to preempt it."""


class Slo:
    gives_promises = True
    honours_shares = True
    ranks_progress = True

    def __init__(self, config: SchedulerConfig, cost: StepCostModel) -> None:
        self._config = config
        self._outlook = Outlook(cost)
        self._turns = Turns()
        self._best_effort_turns = Turns()
        """Apart: else whoever is served in time would age those who wait without targets, and a
        client that comes later would wait for all that others sent before."""
        self._paused: dict[SeqId, Sequence] = {}
        """Answers on time that lost their slot."""
        self._slack = (0.0, 0), inf
        self._relegated = Line(config.relegated_share)
        self._best_effort = Line(config.relegated_share)
        """Apart: those who have no targets are many, and are served in turn anyway as a rule."""
        self._promises = Promises(self._outlook)
        self._forecast = self._promises.forecast
        self._others_part = 0.0 if config.can_interrupt else _FOR_OTHERS_PART
        self._before = {tier: tiers_before(TIER_RANK[tier] + 1) for tier in SloTier}
        self.set_tiers(config.tiers)

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        config = self._config = replace(self._config, tiers=tiers)
        targets_s = [spec.ttft_target_s for spec in tiers.values()]
        shortest_s = min((one for one in targets_s if one is not None), default=inf)
        self._guard_s = min(max(config.arrival_guard_s, _STEP_PART * shortest_s), config.max_step_s)
        """Longest step for prefills that others have to wait for."""
        self._promises.least_notice_s = self._guard_s
        self._preemptible = {tier for tier, spec in tiers.items() if spec.preemptible}
        self._with_targets = {
            tier: part
            for tier, part in tiers_before(len(SloTier)).items()
            if tiers[tier].ttft_target_s is not None
        }

    # ── Where a sequence stands ──────────────────────────────────────────────────────────────────

    def assess(
        self, seq: Sequence, running: Collection[Sequence], kv: KvBudget, now_s: float
    ) -> Assessment | None:
        return self._promises.assess(seq, lambda: self._holdings(running, kv, now_s), now_s)

    def admit(
        self, seq: Sequence, assessment: Assessment | None, now_s: float
    ) -> Iterable[Sequence]:
        self._outlook.lengths.admit(seq)
        self._promises.admit(seq, assessment, now_s)
        if seq.first_token_s is None:
            has_entry = self._promises.entry(seq.seq_id) is not None
            turns = self._turns if has_entry else self._best_effort_turns
            size = seq.num_prompt_tokens + _ANSWER_WEIGHT * self._outlook.lengths.tokens(seq)
            turns.join(seq.seq_id, seq.tier, seq.request.client_id, size)
        is_paced = seq.tpot_target_s is not None and seq.first_token_s is not None
        if not is_paced and self._outlook.due_s(seq, now_s) is None:
            self._best_effort.join(seq, self._outlook.whole_s(seq), now_s)
        if assessment is None:
            return ()
        for one in assessment.set_aside:
            self._relegated.join(one.seq, one.work_s, now_s)
        moved = [one.seq for one in assessment.set_aside if one.seq is not seq]
        if assessment.taken_back is not None:
            self._relegated.excuse(assessment.taken_back.seq_id)
            moved.append(assessment.taken_back.seq)
        return moved

    def place(self, seq: Sequence, now_s: float) -> Place:
        seq_id = seq.seq_id
        entry = self._promises.entry(seq_id)
        if entry is None:
            return self._place_answer(seq, now_s)
        if seq.state is not SequenceState.WAITING:
            self._forecast.progressed(entry)
        if self._has_turn(seq_id):
            return Place(Rank(ON_TIME, FIRST, entry.due_s))
        latest_s = entry.due_s - self._outlook.prefill_s(seq) - self._outlook.cost.base_s
        if seq.promised and latest_s <= now_s:
            return Place(Rank(ON_TIME, FIRST, entry.due_s))  # broken by as little as can be
        if latest_s > now_s:
            row = BEHIND if seq_id in self._relegated else FIRST
            return Place(Rank(ON_TIME, row, entry.due_s), latest_s)
        if seq.rank.band != LATE:
            self._forecast.leave(entry)
            self._relegated.join(seq, entry.work_s, now_s)
        return Place(Rank(LATE, FIRST, self._turns.order(seq_id)))

    @property
    def num_turns(self) -> int:
        return self._relegated.num_turns + self._best_effort.num_turns

    def turn_s(self, seq: Sequence, now_s: float) -> float | None:
        turn_s = self._relegated.turn_s(seq.seq_id)
        if turn_s is None:
            turn_s = self._best_effort.turn_s(seq.seq_id)
        if turn_s is None and seq.rank.band == ON_TIME:
            return now_s + self._relegated.wait_s(self._outlook.work_s(seq))
        return turn_s

    def is_in_line(self, seq: Sequence) -> bool:
        """Those on time pass what has no targets, as often as they come: but for its share."""
        return seq.rank.band == BEST_EFFORT and self._config.tiers[seq.tier].min_share > 0

    def _place_answer(self, seq: Sequence, now_s: float) -> Place:
        """One that has no targets, or whose answer has begun."""
        band, _, order = seq.rank
        tpot_s, ends_s = seq.tpot_target_s, seq.ends_due_s
        if seq.first_token_s is None:
            return Place(Rank(BEST_EFFORT, FIRST, self._best_effort_turns.order(seq.seq_id)))
        if seq.state is SequenceState.WAITING:  # a replay
            due_s = self._outlook.due_s(seq, now_s)
            if due_s is None and tpot_s is None:
                return Place(Rank(BEST_EFFORT, FIRST, 0.0))
            return Place(Rank(ON_TIME, FIRST, now_s if due_s is None else due_s))
        has_turn = self._has_turn(seq.seq_id)
        if (band == BEST_EFFORT and tpot_s is not None) or (band != ON_TIME and has_turn):
            band, order = ON_TIME, now_s
        is_over = ends_s is not None and ends_s <= now_s
        if band == ON_TIME and is_over and not (has_turn or seq.promised):
            self._relegated.join(seq, self._outlook.work_s(seq), now_s)
            band, order = LATE, 0.0
        if band != ON_TIME:
            self._paused.pop(seq.seq_id, None)
            return Place(Rank(band, FIRST, order))
        return self._place_on_time(seq, order, inf if ends_s is None or is_over else ends_s, now_s)

    def _place_on_time(self, seq: Sequence, order: float, ends_s: float, now_s: float) -> Place:
        """An answer is before others if it was promised a pace, or must go on to end in time as
        promised; and while it waits for a slot."""
        if ends_s < inf:
            order = max(order, ends_s - self._outlook.answer_s(seq, now_s))
        may_pause = seq.tpot_target_s is None and (ends_s == inf or order > now_s)
        if seq.slot is None:
            self._paused[seq.seq_id] = seq
            return Place(Rank(ON_TIME, FIRST, order), ends_s)
        self._paused.pop(seq.seq_id, None)
        row = FIRST if seq.promised and not may_pause else BEHIND
        return Place(Rank(ON_TIME, row, order), order if now_s < order < ends_s < inf else ends_s)

    def _has_turn(self, seq_id: SeqId) -> bool:
        return self._relegated.has_turn(seq_id) or self._best_effort.has_turn(seq_id)

    def _holdings(self, running: Collection[Sequence], kv: KvBudget, now_s: float) -> Holdings:
        """What there is for those that are on time, and the answers that may pause."""
        outlook = self._outlook
        step_s = outlook.pace.step_s(now_s)
        holders, pauses = [], []
        for seq in chain(running, self._paused.values()):
            if seq.slot is None or self._may_pause(seq):
                pauses.append(outlook.claim(seq, seq.rank.order, step_s))
            elif not self._yields(seq):
                holders.append(outlook.holder(seq, step_s))
        num_slots = kv.geometry.num_slots
        room = Room(num_slots, kv.geometry.num_cells, holders)
        return Holdings(room, pauses, num_slots, *self._step(running, now_s))

    def _step(self, running: Collection[Sequence], now_s: float) -> tuple[float, float]:
        """Seconds that answers on time take of a step, and the longest step that all of these
        bear."""
        decodes_s, bear_s = 0.0, inf
        for seq in running:
            if seq.rank.band == ON_TIME and seq.is_decoding:
                decodes_s += self._outlook.cost.decode_cost_s(len(seq.token_ids))
                if seq.tpot_target_s is not None:
                    bear_s = min(bear_s, FOR_EQUALS * seq.tpot_target_s)
                bear_s = min(bear_s, self._bears_s(seq, now_s))
        return decodes_s, bear_s

    def _bears_s(self, seq: Sequence, now_s: float) -> float:
        """The step with which an answer would just be complete in time; inf if it would be late at
        the usual pace anyway, or is never due."""
        if seq.ends_due_s is None or seq.rank.band != ON_TIME:
            return inf
        step_s = (seq.ends_due_s - now_s) / self._outlook.lengths.left(seq)
        return step_s if step_s > self._outlook.pace.step_s(now_s) else inf

    # ── A step ───────────────────────────────────────────────────────────────────────────────────

    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        if victim.rank.band == ON_TIME and urgent.rank.band == ON_TIME:
            if urgent.rank.row == BEHIND or not (
                self._yields(victim)
                or (self._may_pause(victim) and victim.rank.order > urgent.rank.order)
            ):
                return False
            return self._is_at_risk(urgent, now_s)
        if not self._yields(victim) or victim.rank.band <= urgent.rank.band:
            return False
        near_s = _NEAR_ITS_END * (urgent.request.service.ttft_target_s or 0.0)
        is_near = self._outlook.answer_s(victim, now_s) <= near_s
        return not is_near or (urgent.rank.band == ON_TIME and self._is_at_risk(urgent, now_s))

    def _is_at_risk(self, urgent: Sequence, now_s: float) -> bool:
        """Whether it can hardly wait for a slot."""
        has_begun = urgent.first_token_s is not None
        slack_s = urgent.rank.order - now_s if has_begun else self._slack_s(now_s)
        return slack_s < _AT_RISK_STEPS * self._outlook.pace.step_s(now_s)

    def is_worth(self, victim: Sequence, cost_s: float, now_s: float) -> bool:
        left_s = self._outlook.prefill_s(victim) + self._outlook.answer_s(victim, now_s)
        return left_s > cost_s

    def _slack_s(self, now_s: float) -> float:
        """Computed once for all that may yield in a plan."""
        asked = now_s, len(self._forecast)
        if self._slack[0] != asked:
            self._slack = asked, self._forecast.slack_s(self._outlook.pace.speed(now_s), now_s)
        return self._slack[1]

    def _yields(self, seq: Sequence) -> bool:
        """Whether a running sequence gives its slot to whoever is on time."""
        is_behind = seq.rank.band != ON_TIME or seq.seq_id in self._relegated
        return is_behind and seq.tier in self._preemptible

    def _may_pause(self, seq: Sequence) -> bool:
        """Whether it gives its slot to those that are due before it must go on."""
        return (
            seq.tpot_target_s is None
            and seq.rank.band == ON_TIME
            and seq.tier in self._preemptible
            and seq.is_decoding
        )

    def tokens_left(self, seq: Sequence) -> float:
        return self._outlook.lengths.left(seq)

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        config = self._config
        if seq.rank.band >= LATE:
            return preemptible_bounds(config)
        return PrefillBounds(config.max_step_s if config.can_interrupt else self._guard_s)

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        if len(seq.token_ids) - seq.num_computed_tokens > 1:
            if seq.rank.band == ON_TIME and seq.request.service.ttft_target_s is not None:
                return Tolerance(self._guard_s, others_part=self._others_part)
            return TOLERATES_ALL
        tolerance = pace_tolerance(seq, now_s)
        step_s = inf if seq.ends_due_s is None else self._bears_s(seq, now_s)
        if step_s == inf:
            return tolerance
        return Tolerance(min(tolerance.for_equals_s, step_s), min(tolerance.for_others_s, step_s))

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        if head.rank.band != ON_TIME:
            return self._with_targets
        return self._before[head.tier] if spare_s > 0 else YIELDS_TO_NOBODY

    # ── What happened ────────────────────────────────────────────────────────────────────────────

    def advanced(self, seq: Sequence) -> None:
        seq_id = seq.seq_id
        self._turns.begin(seq_id, in_turn=seq.rank.band == LATE)
        self._best_effort_turns.begin(seq_id, in_turn=seq.rank.band == BEST_EFFORT)
        if seq.first_token_s is not None:
            self._promises.begun(seq_id)
            if seq.rank.band != LATE and not self._relegated.has_turn(seq_id):
                self._relegated.leave(seq_id)
                if seq.tpot_target_s is not None:
                    self._best_effort.leave(seq_id)

    def ended(self, seq: Sequence, reason: FinishReason) -> None:
        seq_id = seq.seq_id
        self._promises.ended(seq_id)
        self._relegated.leave(seq_id)
        self._best_effort.leave(seq_id)
        self._paused.pop(seq_id, None)
        self._outlook.lengths.end(seq, by_itself=reason in (FinishReason.STOP, FinishReason.LENGTH))
        size = seq.num_prompt_tokens + _ANSWER_WEIGHT * seq.num_generated_tokens
        for turns in (self._turns, self._best_effort_turns):
            turns.leave(seq_id, size)

    def learn(
        self,
        plan: StepPlan,
        result: StepResult,
        running: Collection[Sequence],
        kv: KvBudget,
    ) -> Iterable[Sequence]:
        self._outlook.pace.observe(plan, result, has_more=len(self._forecast) > 0)
        now_s = result.finished_s
        moved = []

        def holdings() -> Holdings:
            return self._holdings(running, kv, now_s)

        back = self._forecast.relax(
            self._outlook.pace.speed(now_s),
            now_s,
            lambda entry: self._promises.gives_way(entry, holdings(), now_s),
        )
        if back is not None:
            self._relegated.excuse(back.seq_id)
            moved.append(back.seq)
        self._relegated.save(now_s)
        self._best_effort.save(now_s, self._best_effort.part(plan) * (now_s - result.started_s))
        lines = (self._relegated, self._outlook.work_s), (self._best_effort, self._outlook.whole_s)
        for line, cost_s in lines:
            turn = line.next(cost_s)
            if turn is None:
                continue
            if self._promises.call(turn, holdings, now_s):
                line.call(turn.seq_id, cost_s(turn))
                moved.append(turn)
            else:
                line.postpone(cost_s(turn))
        return moved
