"""The scheduler: admits, orders, preempts and finishes requests. A deterministic state machine.

Theory of operation. The engine calls, in this order and from one thread: `submit` and `cancel` for
commands, then `tick(now_s)`, `plan(now_s)`, and after executing the plan `commit(plan, result)`.
`plan` reads; the others write. Time is an argument and nothing is drawn at random, so the same
calls give the same answers (I10).

| state | slot | KV | queued |
|---|---|---|---|
| WAITING | no | none | yes |
| RUNNING | yes | `num_computed_tokens` cells | no |
| PREEMPTED | no | parked, swapped, or none | yes |
| FINISHED | no | none | no |
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from itertools import count, islice
from math import inf

from edged.core.accounts import Accounts
from edged.core.admission import AdmissionView, promise, refuse, refuse_unpromised
from edged.core.expectations import Expectations
from edged.core.expiry import Expiries
from edged.core.holdings import Holdings
from edged.core.invariants import check_between_steps
from edged.core.kv import KvBudget
from edged.core.leases import renew_leases, take_back_leases
from edged.core.metrics import SchedulerStatistics, finish_event
from edged.core.moments import Moments
from edged.core.placement import PlannerView
from edged.core.plan import YIELDS_TO_NOBODY, Chunk, Pending, StepPlan, StepResult
from edged.core.planner import draft_plan
from edged.core.policies import POLICIES
from edged.core.policy import SchedulerConfig
from edged.core.prefix_cache import PrefixCache
from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence, SequenceState, by_rank
from edged.core.types import (
    Admitted,
    EngineEvent,
    FileId,
    FinishEvent,
    FinishReason,
    KvAbilities,
    KvGeometry,
    PreemptEvent,
    PreemptMode,
    Rejected,
    Request,
    RequestId,
    ResumeEvent,
    SeqId,
    SloTier,
    SnapshotId,
    TierSpec,
    TokenEvent,
)

MAX_REVIEWS = 256
"""In one step; the others come with the next ones, so that nobody's tokens wait for them."""
MAX_LOSSES = 2
"""A sequence whose KV was lost this often ends with ERROR."""


class Scheduler:
    def __init__(
        self,
        config: SchedulerConfig,
        geometry: KvGeometry,
        eog_token_ids: frozenset[int],
        abilities: KvAbilities,
    ) -> None:
        self._config = config
        self._eog_token_ids = eog_token_ids
        self._accounts = Accounts(config)
        self.cost = self._accounts.cost
        self._policy = POLICIES[config.policy](config, self.cost)
        self._kv = KvBudget(geometry)
        self._queue = WaitingQueue(config.tiers)
        self._sequences: dict[RequestId, Sequence] = {}
        self._by_id: dict[SeqId, Sequence] = {}
        self._running: list[Sequence] = []
        self._pending = Pending([], [], [], [], [])
        self.holdings = Holdings(self._kv, self.cost, config, self._pending, abilities)
        self._prefixes = PrefixCache(self.holdings, config, can_copy=abilities.can_copy)
        self.expiries = Expiries(config.tiers, self._by_id)
        self._reviews = Moments(self._by_id)
        """When the policy is to be asked again where a sequence stands."""
        self._complete_at_submit: list[Sequence] = []
        self._seq_ids = count()
        self._step = 0
        self._was_interrupted = False
        """Whether the last step was; two in a row never are, so that arrivals stop nobody."""
        self._view = PlannerView(
            running=self._running,
            queue=self._queue,
            kv=self._kv,
            holdings=self.holdings,
            prefixes=self._prefixes,
            cost=self.cost,
            policy=self._policy,
            max_step_tokens=config.max_step_tokens,
            horizon_tokens=config.horizon_tokens,
            pending=self._pending,
        )
        self._admission = AdmissionView(
            *(self._queue, self._running, self._kv, self.cost),
            *(config.max_step_tokens, self._policy.gives_promises),
        )
        self._expectations = Expectations(self._admission, self._policy, self._by_id)

    # ── Commands ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: Request, now_s: float) -> Admitted | Rejected:
        """Queue a request, or say why not; a refusal changes nothing."""
        refusal = refuse(request, self._admission, request.request_id in self._sequences)
        if refusal is not None:
            return refusal
        seq = Sequence.of(next(self._seq_ids), request, self._kv.geometry, self._eog_token_ids)
        self._prefixes.arrive(seq)
        assessment = self._policy.assess(seq, self._running, self._kv, now_s)
        refusal = refuse_unpromised(seq, assessment, self._admission, now_s)
        if refusal is not None:
            self._prefixes.leave(seq)
            return refusal
        self._sequences[request.request_id] = seq
        self._by_id[seq.seq_id] = seq
        if assessment is not None:
            assessment = promise(seq, assessment)
        self._accounts.tiers[seq.tier].num_promised += bool(seq.promised)
        if seq.num_generated_tokens >= seq.max_tokens:
            self._prefixes.leave(seq)
            self._complete_at_submit.append(seq)  # a replay that lacked only its finish event
            return Admitted(seq.seq_id, 0, 0.0, seq.promised)
        moved = self._policy.admit(seq, assessment, now_s)
        self._place(seq, now_s)
        self._queue.add(seq)
        for other in moved:
            self._place(other, now_s)
        self.expiries.watch(seq)
        predicted_ttft_s = self._expectations.arrived(seq, assessment, now_s)
        return Admitted(seq.seq_id, self._queue.position(seq), predicted_ttft_s, seq.promised)

    def cancel(
        self, request_id: RequestId, reason: FinishReason, now_s: float, detail: str = ""
    ) -> FinishEvent | None:
        """End a request whatever its state; its KV is freed by the next plan. None if unknown."""
        seq = self._sequences.get(request_id)
        return None if seq is None else self._finish(seq, reason, now_s, detail)

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        """Between steps. Who is known keeps its targets and its place; all else is new for all."""
        assert tiers.keys() == self._config.tiers.keys(), f"other tiers: {list(tiers)}"
        self._queue.set_tiers(tiers)
        self._accounts.shares.set_tiers(tiers.values())
        self.expiries.set_tiers(tiers)
        self._policy.set_tiers(tiers)

    # ── The step ─────────────────────────────────────────────────────────────────────────────────

    def tick(self, now_s: float) -> list[EngineEvent]:
        """End what has waited or lived too long, and tell others how long they will."""
        events: list[EngineEvent] = []
        while self._complete_at_submit:
            events.append(self._finish(self._complete_at_submit[0], FinishReason.LENGTH, now_s))
        for seq, reason, detail in self.expiries.due(now_s):
            events.append(self._finish(seq, reason, now_s, detail))
        for seq_id in islice(self._reviews.due(now_s), MAX_REVIEWS):
            self._place(self._by_id[seq_id], now_s)
        for kept in self.holdings.files.overdue(now_s):
            self._reclaim(self.holdings.give_up(kept), now_s)
        self.holdings.rest(now_s, is_idle=not self._by_id)
        events.extend(self._expectations.notices(now_s))
        return events

    def plan(self, now_s: float) -> StepPlan | None:
        """What the next step does; None when there is nothing to do (I7). Changes nothing."""
        plan = draft_plan(self._view, self.owed, self._step, now_s)
        if plan is not None and self._was_interrupted:
            return plan._replace(yields_to=YIELDS_TO_NOBODY)
        return plan

    def commit(self, plan: StepPlan, result: StepResult, now_s: float) -> list[EngineEvent]:
        """Take over what a step did. The only writer of sequence progress."""
        assert plan.step == result.step == self._step, f"step {plan.step} is not {self._step}"
        self._step += 1
        self._pending.empty()
        self._was_interrupted = bool(result.interrupted)
        events: list[EngineEvent] = []
        self._reclaim(self.holdings.discard(plan), now_s)
        saved = {one.slot: one.snapshot for one in plan.save if one.snapshot in result.saved_bytes}
        self.holdings.files.begin_reading(plan.read, now_s)
        for evict in plan.evict:
            seq = self._by_id[evict.seq_id]
            to = saved.get(evict.slot)
            events.append(self._preempt(seq, evict.mode, to, evict.cause, result.started_s))
        take_back_leases(self._kv, self._running, plan.shorten)
        for chunk in plan.chunks if len(self._queue) else ():
            self._commit_start(self._by_id[chunk.seq_id], chunk, result.started_s, events)
        for slot in plan.drop:
            self._reclaim(self.holdings.drop(slot, saved.get(slot)), now_s)
        self._reclaim(self.holdings.transfer(plan, result), now_s)
        for chunk in plan.chunks:
            seq = self._by_id[chunk.seq_id]
            assert chunk.slot == seq.slot, f"I1: {seq.seq_id} holds {seq.slot}, not {chunk.slot}"
            self._kv.reserve(chunk.slot, len(seq.token_ids))
            if chunk.seq_id in result.lost:
                seq.num_losses += not any(one.is_of_file(seq.seq_id) for one in plan.restore)
                self._commit_loss(seq, result, now_s, events)
            elif chunk.seq_id not in result.interrupted:
                self._commit_chunk(seq, chunk, result, now_s, events)
        renew_leases(self._kv, self._running, self._config.lease_tokens)
        self._accounts.close_step(plan, result, self._running, self._queue)
        for seq in self._policy.learn(plan, result, self._running, self._kv):
            self._place(seq, now_s)
        return events

    def next_wakeup_s(self) -> float | None:
        """When `tick` next has something to do, though nothing runs."""
        if self._complete_at_submit:
            return 0.0
        moments_s = (self.expiries.first_s, self.holdings.rests_at_s)
        return min((at_s for at_s in moments_s if at_s is not None), default=None)

    def wrote(self, file: FileId, num_bytes: int | None, now_s: float) -> None:
        """A file of kept KV is complete, or could not be written (None)."""
        self._reclaim(self.holdings.wrote(file, num_bytes), now_s)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────────

    @property
    def owed(self) -> frozenset[SloTier]:
        """Tiers that get their `min_share` next."""
        return self._accounts.shares.owed if self._policy.honours_shares else frozenset()

    def sequences(self) -> list[tuple[Sequence, int | None]]:
        """Every unfinished sequence, most urgent first, with its place in the queue."""
        waiting = enumerate(self._queue.in_order(self.owed))
        return [(seq, None) for seq in self._running] + [(seq, place) for place, seq in waiting]

    def statistics(self) -> SchedulerStatistics:
        counts = self._accounts.counts(self._running, self._queue)
        return self._accounts.statistics(self._step, self._policy.num_turns, self.holdings, counts)

    def check(self) -> None:
        """Assert what holds between steps; for tests and simulations."""
        assert len(self._sequences) == len(self._by_id), "a sequence is known by one name only"
        check_between_steps(self._view, self._by_id.values(), self.owed, self._step)

    # ── Inside ───────────────────────────────────────────────────────────────────────────────────

    def _place(self, seq: Sequence, now_s: float) -> None:
        """Ask the policy where a sequence stands, and remember when to ask again."""
        rank, until_s = self._policy.place(seq, now_s)
        if until_s < inf:
            assert until_s > now_s, f"{seq.seq_id} stands where it does until {until_s}, which was"
            self._reviews.add(until_s, seq.seq_id)
        if rank == seq.rank:
            return
        is_queued = seq.slot is None and seq in self._queue
        if rank.band > seq.rank.band and (is_queued or seq.slot is not None):
            self._accounts.tiers[seq.tier].num_relegated += not seq.was_relegated
            seq.was_relegated = True
        if is_queued:
            self._queue.remove(seq)
        elif seq.slot is not None:
            self._running.remove(seq)
        seq.rank = rank
        if is_queued:
            self._queue.add(seq)
        elif seq.slot is not None:
            insort(self._running, seq, key=by_rank)

    def _preempt(
        self,
        seq: Sequence,
        mode: PreemptMode,
        snapshot: SnapshotId | None,
        cause: RequestId | None,
        now_s: float,
    ) -> PreemptEvent:
        """Take a running sequence out of its slot and put it back into the queue."""
        self._running.remove(seq)
        seq.to(SequenceState.PREEMPTED)
        mode, affected = self._prefixes.preempt(seq, mode, snapshot, now_s)
        self._prefixes.arrive(seq)
        seq.preempted_at_s = now_s
        seq.num_preemptions += 1
        self._accounts.preemptions[mode] += 1
        self._queue.add(seq)
        self._place(seq, now_s)
        self._reclaim(affected, now_s)
        return PreemptEvent(seq.request.request_id, mode, cause)

    def _commit_start(
        self, seq: Sequence, chunk: Chunk, began_s: float, events: list[EngineEvent]
    ) -> None:
        """Take a sequence that holds no slot out of the queue and give it its slot."""
        if seq.slot is not None:
            return
        self._queue.remove(seq)
        num_shared = self._prefixes.start(seq, chunk.slot, began_s)
        seq.to(SequenceState.RUNNING)
        seq.slot = chunk.slot
        self._prefixes.leave(seq)
        insort(self._running, seq, key=by_rank)
        self._policy.advanced(seq)
        if seq.first_token_s is not None:
            self._place(seq, began_s)
        if seq.first_scheduled_s is None:
            seq.first_scheduled_s = began_s
            seq.num_cached_tokens = num_shared
            self._accounts.num_cached_tokens += num_shared
            self._expectations.started(seq, began_s)
        if seq.preempted_at_s is not None:
            paused_s = began_s - seq.preempted_at_s
            events.append(ResumeEvent(seq.request.request_id, paused_s))
            seq.preempted_at_s = None

    def _commit_loss(
        self, seq: Sequence, result: StepResult, now_s: float, events: list[EngineEvent]
    ) -> None:
        """Its KV is gone and its slot is clear already: recompute, or end it the second time."""
        if seq.first_scheduled_s == result.started_s:  # what was found could not be had
            self._accounts.num_cached_tokens -= seq.num_cached_tokens
            seq.num_cached_tokens = 0
        events.append(self._preempt(seq, PreemptMode.RECOMPUTE, None, None, now_s))
        if seq.num_losses >= MAX_LOSSES:
            detail = f"its KV was lost {seq.num_losses} times: {result.detail}"
            events.append(self._finish(seq, FinishReason.ERROR, now_s, detail))

    def _commit_chunk(
        self,
        seq: Sequence,
        chunk: Chunk,
        result: StepResult,
        now_s: float,
        events: list[EngineEvent],
    ) -> None:
        start, num_tokens = chunk.start, len(chunk.token_ids)
        assert start == seq.num_computed_tokens, f"I3: {start} for {seq.seq_id}"
        account = self._accounts.tiers[seq.tier]
        account.served_tokens += num_tokens
        seq.num_computed_tokens = start + num_tokens
        if start < seq.num_prompt_tokens:
            num_prompt_tokens = min(num_tokens, seq.num_prompt_tokens - start)
            self._accounts.num_prompt_tokens += num_prompt_tokens
        if chunk.sampling is None:
            if self._policy.ranks_progress:
                self._place(seq, now_s)
            return
        if num_tokens > 1 or seq.first_token_s is None:
            self._reclaim(self._prefixes.publish(seq, now_s), now_s)
        token = result.sampled[seq.seq_id]
        if token.token_id in seq.stop_token_ids:
            if seq.first_token_s is None:
                seq.first_token_s = now_s  # of an empty answer
            events.append(self._finish(seq, FinishReason.STOP, now_s))
            return
        if seq.first_token_s is None:
            seq.first_token_s = now_s
            self._policy.advanced(seq)
        seq.last_token_s = now_s
        account.num_generated_tokens += 1
        index = len(seq.token_ids) - seq.num_prompt_tokens
        events.append(TokenEvent(seq.request.request_id, index, token))
        seq.token_ids.append(token.token_id)
        if index == 0 and self._policy.ranks_progress:
            self._place(seq, now_s)
        if index + 1 >= seq.max_tokens:
            events.append(self._finish(seq, FinishReason.LENGTH, now_s))

    def _reclaim(self, affected: Iterable[Sequence], now_s: float) -> None:
        """Let sequences that wait look again what is computed of theirs."""
        for seq in affected:
            self._queue.remove(seq)
            self._prefixes.reclaim(seq)
            self._queue.add(seq)
            self._place(seq, now_s)

    def _finish(
        self, seq: Sequence, reason: FinishReason, now_s: float, detail: str = ""
    ) -> FinishEvent:
        if seq.state is SequenceState.RUNNING:
            self._running.remove(seq)
            affected, seq.slot = self._prefixes.retire(seq, now_s), None
            self._reclaim(affected, now_s)
        elif seq in self._complete_at_submit:
            self._complete_at_submit.remove(seq)
        else:
            self._queue.remove(seq)
            self._prefixes.leave(seq)
        seq.to(SequenceState.FINISHED)
        self._policy.ended(seq, reason)
        del self._sequences[seq.request.request_id]
        del self._by_id[seq.seq_id]
        event = finish_event(seq, reason, now_s, detail)
        self._accounts.close(seq.tier, event)
        return event
