"""Promises: who can be served in time is, and whoever cannot be does not make others late.

A request is *on time* while its targets can be kept beside those promised to others
(`edged.core.forecast`). Bands, most urgent first:

| band | who | order |
|---|---|---|
| 0 | on time, or promised to be | when its first token is due |
| 0 | relegated, but may be in time yet | the same, behind those that are on time |
| 1 | late | its client's turn |
| 2 | no targets | its client's turn |

The first token is due when the TTFT target says, or as long before the end as the answer will take,
by its expected length and the engine's pace. An answer keeps the band in which it began. Each band
yields slots and step time to those before it. Who is relegated or late gets `relegated_share` of
the engine all the same (`edged.core.relegation`).

Prefills are as large as the answers beside them bear: an answer with a TPOT target bears what that
says, one that is to end in time its slack over the tokens that it still lacks, unless it would miss
its end at the usual pace anyway.
"""

from collections.abc import Collection, Iterable, Mapping
from math import inf

from edged.core.cost import StepCostModel
from edged.core.fairness import Loads, Turns
from edged.core.forecast import Assessment, Forecast
from edged.core.kv import KvBudget
from edged.core.lengths import AnswerLengths
from edged.core.pace import Pace
from edged.core.plan import YIELDS_TO_NOBODY, StepPlan, StepResult
from edged.core.policies.answers import pace_tolerance, tiers_before
from edged.core.policy import Place, PrefillBounds, SchedulerConfig, Tolerance
from edged.core.relegation import Relegated
from edged.core.sequence import Sequence, SequenceState
from edged.core.timeline import Entry
from edged.core.types import TIER_RANK, FinishReason, Rank, SeqId, SloTier

ON_TIME, LATE, BEST_EFFORT = range(3)
BEHIND_S = 1e7
"""What being relegated adds to the order in the band of those on time."""

_LENGTH_PART = 0.6
"""Part of the answers like it that an answer is expected not to outgrow."""
_ANSWER_WEIGHT = 2.0
"""Tokens of a prompt that count as much as one of an answer when clients take turns."""
_REFINED_AFTER = 8
"""Tokens after which an answer's expected length is looked at again; a quarter of it, if more."""
_STEP_PART = 0.06
"""Part of the shortest TTFT target for which an arrival may have to wait for a step that it cannot
cut short."""
_FOR_OTHERS_PART = 0.05
"""What work without promises may add to the step of a prefill that somebody waits for, on a device
that waits for its memory, as a GPU, so that it comes at nearly no cost. A CPU that can cut steps
short waits for its sums."""
_LEAST_PART_BEST_EFFORT = 0.25
"""A prompt that nobody is in a hurry for makes the steps of a slow machine little longer."""
_AT_STAKE_S = 0.25
"""Longest step for a prompt that an arrival may cut short: long chunks are cheaper to compute and
dearer to lose."""
_AT_RISK_STEPS = 8
"""Steps that prefills can wait for a slot before they take that of an answer that is on time."""
_NEAR_ITS_END = 0.05
"""Part of the TTFT target for which an answer's end is waited for rather than to preempt it."""


class Slo:
    honours_shares = True
    ranks_progress = True

    def __init__(self, config: SchedulerConfig, cost: StepCostModel) -> None:
        self._config = config
        self._cost = cost
        self._forecast = Forecast()
        self._lengths = AnswerLengths()
        self._pace = Pace(cost)
        self._turns = Turns()
        self._best_effort_turns = Turns()
        """Apart: else whoever is served in time would age those who wait without targets, and a
        client that comes later would wait for all that others sent before."""
        self._loads = Loads()
        self._expected: dict[SeqId, tuple[float, int]] = {}
        """Of each sequence: its expected length, and the length at which to look anew."""
        self._stamps: dict[SeqId, float] = {}
        """Of sequences that have no slot yet."""
        self._slack = (0.0, 0), inf
        self._entries: dict[SeqId, Entry] = {}
        """Of those that have targets and no token."""
        self._relegated = Relegated(config.relegated_share)
        targets_s = [spec.ttft_target_s for spec in config.tiers.values()]
        shortest_s = min((one for one in targets_s if one is not None), default=inf)
        self._guard_s = min(max(config.arrival_guard_s, _STEP_PART * shortest_s), config.max_step_s)
        """Longest step for prefills that others have to wait for."""
        self._others_part = 0.0 if config.can_interrupt else _FOR_OTHERS_PART
        self._before = {tier: tiers_before(TIER_RANK[tier] + 1) for tier in SloTier}
        self._with_targets = {
            tier: part
            for tier, part in tiers_before(len(SloTier)).items()
            if config.tiers[tier].ttft_target_s is not None
        }

    # ── Where a sequence stands ──────────────────────────────────────────────────────────────────

    def assess(
        self, seq: Sequence, running: Collection[Sequence], kv: KvBudget, now_s: float
    ) -> Assessment | None:
        due_s = self._due_s(seq)
        if due_s is None or seq.first_token_s is not None:
            return None
        work_s = self._cost.prefill_cost_s(0, len(seq.token_ids))
        cost_s = work_s * self._loads.weight(seq.request.client_id)
        entry = Entry(due_s, seq.seq_id, work_s, cost_s, seq)
        assessment = self._forecast.assess(entry, self._pace.speed(now_s), now_s)
        return assessment._replace(
            promised=assessment.promised
            and self._has_room(entry, running, kv, now_s)
            and self._keeps_pace(entry, running),
            expected_tokens=self._expected_tokens(seq),
        )

    def admit(
        self, seq: Sequence, assessment: Assessment | None, now_s: float
    ) -> Iterable[Sequence]:
        client_id = seq.request.client_id
        self._expected[seq.seq_id] = self._estimate(seq)
        if seq.first_token_s is None:
            num_tokens = len(seq.token_ids) + _ANSWER_WEIGHT * self._expected_tokens(seq)
            turns = self._best_effort_turns if assessment is None else self._turns
            self._stamps[seq.seq_id] = turns.stamp(seq.tier, client_id, num_tokens)
        if assessment is None:
            return ()
        self._loads.add(client_id, assessment.entry.work_s, now_s)
        self._entries[seq.seq_id] = assessment.entry
        self._forecast.admit(assessment, now_s)
        moved = [entry.seq for entry in assessment.set_aside if entry.seq is not seq]
        for entry in assessment.set_aside:
            self._relegated.join(entry.seq, entry.work_s, now_s)
        if assessment.taken_back is not None:
            self._relegated.leave(assessment.taken_back.seq_id)
            moved.append(assessment.taken_back.seq)
        return moved

    def _has_room(
        self, entry: Entry, running: Collection[Sequence], kv: KvBudget, now_s: float
    ) -> bool:
        """Whether slots and cells can be had for it, and before it for those that are due sooner,
        without anybody's answer ending first."""
        num_slots, num_cells = kv.num_free_slots, kv.free_cells
        for seq in running:
            if self._would_yield(seq, entry.due_s, now_s):
                num_slots += 1
                num_cells += seq.num_computed_tokens
        num_cells -= len(entry.seq.token_ids)
        for other in self._forecast.due_before(entry):
            if num_slots <= 0 or num_cells < 0:
                return False
            if other.seq.slot is None:
                num_slots -= 1
                num_cells -= len(other.seq.token_ids)
        return num_slots > 0 and num_cells >= 0

    def _keeps_pace(self, entry: Entry, running: Collection[Sequence]) -> bool:
        """Whether answers with a TPOT target, those that are on time and its own, fit in a step."""
        paced = [seq for seq in running if seq.rank.band == ON_TIME]
        paced += [other.seq for other in self._forecast.due_before(entry) if other.seq.slot is None]
        paced.append(entry.seq)
        targets_s = [seq.request.service.tpot_target_s for seq in paced]
        given_s = [one for one in targets_s if one is not None]
        if not given_s:
            return True
        step_s = self._cost.base_s
        for seq, target_s in zip(paced, targets_s, strict=True):
            if target_s is not None:
                step_s += self._cost.decode_cost_s(len(seq.token_ids))
        return step_s <= min(given_s)

    def place(self, seq: Sequence, now_s: float) -> Place:
        seq_id = seq.seq_id
        entry = self._entries.get(seq_id)
        if entry is None:
            return Place(self._rank_without_entry(seq))
        if seq.num_computed_tokens:
            self._forecast.progressed(entry)
        if self._relegated.has_turn(seq_id):
            return Place(Rank(ON_TIME, entry.due_s))
        latest_s = entry.due_s - self._left_s(seq) - self._cost.base_s
        if seq.promised and latest_s <= now_s:
            return Place(Rank(ON_TIME, entry.due_s))  # a promise is broken by as little as can be
        if latest_s > now_s:
            behind_s = BEHIND_S if seq_id in self._relegated else 0.0
            return Place(Rank(ON_TIME, entry.due_s + behind_s), latest_s)
        if seq.rank.band != LATE:
            self._forecast.leave(entry)
            self._relegated.join(seq, entry.work_s, now_s)
        return Place(Rank(LATE, self._stamps.get(seq_id, 0.0)))  # 0: it had its turn

    @property
    def num_turns(self) -> int:
        return self._relegated.num_turns

    def turn_s(self, seq: Sequence) -> float | None:
        return self._relegated.turn_s(seq.seq_id)

    def _rank_without_entry(self, seq: Sequence) -> Rank:
        if seq.first_token_s is None:
            return Rank(BEST_EFFORT, self._stamps.get(seq.seq_id, 0.0))
        if seq.num_generated_tokens == 1 and seq.rank.band == ON_TIME:
            return Rank(ON_TIME, self._answer_due_s(seq))
        if seq.state is not SequenceState.WAITING:
            return seq.rank
        due_s = self._due_s(seq)  # a replay
        return Rank(BEST_EFFORT, 0.0) if due_s is None else Rank(ON_TIME, due_s)

    def _answer_due_s(self, seq: Sequence) -> float:
        """Where an answer that has begun in time stands: it may pause until then, and be complete
        in time. One that has no end to keep stays where it was."""
        order = seq.rank.order
        if order >= BEHIND_S:
            order -= BEHIND_S
        if seq.ends_due_s is None:
            return order
        return max(order, seq.ends_due_s - self._expected_tokens(seq) * self._pace.step_s)

    def _left_s(self, seq: Sequence) -> float:
        """Seconds of its prefill, alone on the engine."""
        return self._cost.prefill_cost_s(seq.num_computed_tokens, seq.num_missing_tokens)

    def _due_s(self, seq: Sequence) -> float | None:
        """When its first token is due; None if never."""
        service, arrival_s = seq.request.service, seq.request.arrival_s
        due_s = inf
        if service.ttft_target_s is not None:
            due_s = arrival_s + service.ttft_target_s
        ends_s = seq.ends_due_s
        if ends_s is not None:
            due_s = min(due_s, ends_s - self._expected_tokens(seq) * self._pace.step_s)
        return None if due_s == inf else due_s

    def _expected_tokens(self, seq: Sequence) -> float:
        """Length of the whole answer."""
        num_tokens = seq.num_generated_tokens
        known = self._expected.get(seq.seq_id)
        if known is not None and num_tokens < known[1]:
            return known[0]
        expected, until = self._estimate(seq)
        if known is not None:  # it was admitted
            self._expected[seq.seq_id] = expected, until
        return expected

    def _estimate(self, seq: Sequence) -> tuple[float, int]:
        request, num_tokens = seq.request, seq.num_generated_tokens
        given = request.expected_tokens
        if given is not None and given > num_tokens:
            expected, until = float(given), given
        else:
            expected = self._lengths.quantile(
                _LENGTH_PART, request.client_id, seq.tier, seq.num_prompt_tokens, num_tokens
            )
            until = num_tokens + max(_REFINED_AFTER, num_tokens // 4)
        return min(expected, seq.max_tokens), until

    # ── A step ───────────────────────────────────────────────────────────────────────────────────

    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        band = urgent.rank.band
        if not self._would_yield(victim, urgent.rank.order, now_s, band):
            return False
        if victim.rank.band == ON_TIME:
            return self._slack_s(now_s) < _AT_RISK_STEPS * self._pace.step_s
        tokens_left = self._expected_tokens(victim) - victim.num_generated_tokens
        ttft_s = urgent.request.service.ttft_target_s or 0.0
        return tokens_left * self._pace.step_s > _NEAR_ITS_END * ttft_s

    def _slack_s(self, now_s: float) -> float:
        """Computed once for all that may yield in a plan."""
        asked = now_s, len(self._forecast)
        if self._slack[0] != asked:
            self._slack = asked, self._forecast.slack_s(self._pace.speed(now_s), now_s)
        return self._slack[1]

    def _would_yield(
        self, victim: Sequence, due_s: float, now_s: float, band: int = ON_TIME
    ) -> bool:
        """Whether a running sequence can give its slot to one of that band that is due then: one of
        a later band, a relegated one, or an answer that may pause for longer."""
        if not self._config.tiers[victim.tier].preemptible:
            return False
        if victim.rank.band != ON_TIME or band != ON_TIME:
            return victim.rank.band > band
        may_pause = victim.is_decoding and victim.request.service.tpot_target_s is None
        return victim.rank.order > due_s and (may_pause or victim.seq_id in self._relegated)

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        config = self._config
        if seq.rank.band >= LATE:
            guard_s = _AT_STAKE_S if config.can_interrupt else config.arrival_guard_s
            return PrefillBounds(min(guard_s, config.max_step_s), _LEAST_PART_BEST_EFFORT)
        if config.can_interrupt:
            return PrefillBounds(config.max_step_s)
        return PrefillBounds(self._guard_s)

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        if not seq.is_decoding:
            if seq.rank.band == ON_TIME and seq.request.service.ttft_target_s is not None:
                return Tolerance(self._guard_s, others_part=self._others_part)
            return Tolerance()
        tolerance = pace_tolerance(seq, now_s)
        ends_s = seq.ends_due_s
        if ends_s is not None and seq.rank.band == ON_TIME:
            tokens_left = max(1.0, self._expected_tokens(seq) - seq.num_generated_tokens)
            step_s = (ends_s - now_s) / tokens_left
            if step_s > self._pace.step_s:
                return Tolerance(
                    min(tolerance.for_equals_s, step_s), min(tolerance.for_others_s, step_s)
                )
        return tolerance

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        if head.rank.band != ON_TIME:
            return self._with_targets
        return self._before[head.tier] if spare_s > 0 else YIELDS_TO_NOBODY

    # ── What happened ────────────────────────────────────────────────────────────────────────────

    def advanced(self, seq: Sequence) -> None:
        seq_id = seq.seq_id
        stamp = self._stamps.pop(seq_id, None)
        if stamp is not None and seq.state is SequenceState.RUNNING:
            turns = self._turns if seq_id in self._entries else self._best_effort_turns
            turns.serve(stamp)
        if seq.first_token_s is not None:
            self._forget(seq_id)

    def ended(self, seq: Sequence, reason: FinishReason) -> None:
        self._forget(seq.seq_id)
        self._stamps.pop(seq.seq_id, None)
        self._expected.pop(seq.seq_id, None)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            request, num_tokens = seq.request, seq.num_generated_tokens
            self._lengths.observe(request.client_id, seq.tier, seq.num_prompt_tokens, num_tokens)

    def learn(self, plan: StepPlan, result: StepResult) -> Iterable[Sequence]:
        self._pace.observe(plan, result, has_more=len(self._forecast) > 0)
        now_s = result.finished_s
        speed, moved = self._pace.speed(now_s), []
        back = self._forecast.relax(speed, now_s)
        if back is not None:
            self._relegated.leave(back.seq_id)
            moved.append(back.seq)
        called = self._relegated.earn(now_s, self._left_s)
        if called is not None:
            entry = self._forecast.call(self._entries[called.seq_id], speed, now_s)
            self._entries[called.seq_id] = entry
            moved.append(called)
        return moved

    def _forget(self, seq_id: SeqId) -> None:
        """It needs no first token any more."""
        entry = self._entries.pop(seq_id, None)
        if entry is not None:
            self._forecast.leave(entry)
        self._relegated.leave(seq_id)
