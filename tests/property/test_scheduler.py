"""Any order of submit, cancel, step and loss keeps the scheduler's invariants (I1-I5, I7, I8)."""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.core.plan import StepPlan, StepResult
from edged.core.scheduler import Scheduler
from edged.core.sequence import SequenceState
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    OnUnattainable,
    PastService,
    PreemptMode,
    RejectReason,
    RequestId,
    SampledToken,
    SeqId,
    SloTier,
    SnapshotId,
    TokenEvent,
)
from tests.factories import TIERS, check_eviction, request, scheduler

NUM_SLOTS, NUM_CELLS, BYTES_PER_CELL = 3, 96, 1024


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine and the clients; the backend is a table of cells per slot."""

    policy = "strict"

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.scheduler: Scheduler = scheduler(
            num_slots=NUM_SLOTS,
            num_cells=NUM_CELLS,
            max_step_tokens=24,
            max_snapshot_bytes=64_000,
            policy=self.policy,
        )
        self.num_submitted = 0
        self.was_cut = False
        self.tiers = dict(TIERS)
        self.next_index: dict[RequestId, int] = {}
        self.cells: dict[int, int] = dict.fromkeys(range(NUM_SLOTS), 0)
        self.saved: dict[SnapshotId, int] = {}

    @rule(
        tier=st.sampled_from(SloTier),
        prompt=st.integers(1, 100),
        max_tokens=st.integers(1, 20),
        generated=st.integers(0, 4),
        ttlt_s=st.one_of(st.none(), st.floats(0.01, 2)),
        expected=st.one_of(st.none(), st.integers(1, 30)),
        on_unattainable=st.sampled_from(OnUnattainable),
        deadline_s=st.one_of(st.none(), st.floats(0, 2)),
    )
    def submit(
        self,
        *,
        tier: SloTier,
        prompt: int,
        max_tokens: int,
        generated: int,
        ttlt_s: float | None,
        expected: int | None,
        on_unattainable: OnUnattainable,
        deadline_s: float | None,
    ) -> None:
        name = f"r{self.num_submitted}"
        self.num_submitted += 1
        wanted = request(
            name,
            tier=tier,
            prompt=prompt,
            max_tokens=max_tokens,
            arrival_s=self.now_s,
            deadline_s=None if deadline_s is None else self.now_s + deadline_s,
            generated=tuple(range(generated)),
            past=PastService(num_engine_losses=1) if generated else None,
            expected=expected,
            on_unattainable=on_unattainable,
            ttlt_target_s=ttlt_s,
        )
        answer = self.scheduler.submit(wanted, self.now_s)
        if isinstance(answer, Admitted):
            self.next_index[wanted.request_id] = generated
        elif prompt >= NUM_CELLS:
            assert answer.reason is RejectReason.PROMPT_TOO_LONG
        elif answer.reason is RejectReason.UNATTAINABLE:
            assert on_unattainable is OnUnattainable.REJECT
            assert not generated
        else:
            spec = self.tiers[tier]
            most = spec.max_waiting
            if answer.reason is not RejectReason.QUEUE_FULL:
                assert answer.reason is RejectReason.CLIENT_SHARE
                most = spec.max_waiting_per_client
            assert len(self.next_index) >= most
            self.check_limit(tier, most)

    @precondition(lambda self: self.next_index)
    @rule(data=st.data(), reason=st.sampled_from([FinishReason.CANCELLED, FinishReason.STOP]))
    def cancel(self, data: st.DataObject, reason: FinishReason) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.next_index)))
        ended = self.scheduler.cancel(request_id, reason, self.now_s)
        assert ended is not None
        self.take([ended])
        assert self.scheduler.cancel(request_id, reason, self.now_s) is None

    def check_limit(self, tier: SloTier, most: int) -> None:
        """So many wait for their first step, or more since the limit was lowered."""
        known = self.scheduler.sequences()
        new = [seq for seq, _ in known if seq.state is SequenceState.WAITING and seq.tier is tier]
        assert len(new) >= most, f"refused with {len(new)} waiting; {most} may"

    @rule(
        tier=st.sampled_from(SloTier),
        max_waiting=st.integers(1, 6),
        max_queue_s=st.one_of(st.none(), st.floats(0.01, 2)),
        preemptible=st.booleans(),
        min_share=st.sampled_from([0.0, 0.1, 0.3]),
        ttft_target_s=st.one_of(st.none(), st.floats(0.01, 2)),
    )
    def set_tier(self, tier: SloTier, max_waiting: int, **changes: Any) -> None:
        owed, before = self.scheduler.owed, self.scheduler.sequences()
        limits = {"max_waiting": max_waiting, "max_waiting_per_client": max_waiting}
        self.tiers[tier] = replace(self.tiers[tier], **limits, **changes)
        self.scheduler.set_tiers(dict(self.tiers))
        assert all(self.tiers[one].min_share for one in self.scheduler.owed), "owed without a share"
        if self.scheduler.owed == owed:
            assert self.scheduler.sequences() == before, "somebody changed its place"

    @rule(seconds=st.floats(0.001, 0.5), data=st.data())
    def step(self, seconds: float, data: st.DataObject) -> None:
        self.take(self.scheduler.tick(self.now_s))
        plan = self.scheduler.plan(self.now_s)
        assert plan == self.scheduler.plan(self.now_s), "plan() changed something"
        if plan is None:
            assert not self.next_index, f"I7: {self.next_index} are unfinished"
            return
        self.check_order(plan)
        may_fail = [*(e.seq_id for e in plan.evict), *(c.seq_id for c in plan.chunks)]
        failed = data.draw(st.booleans()) if may_fail else False
        lost = frozenset([data.draw(st.sampled_from(may_fail))]) if failed else frozenset()
        is_cut = bool(plan.yields_to) and data.draw(st.booleans())
        assert not (self.was_cut and plan.yields_to), "two steps in a row may be cut short"
        result = self.execute(plan, lost, seconds, is_cut=is_cut)
        self.was_cut = bool(result.interrupted)
        self.now_s += seconds
        self.take(self.scheduler.commit(plan, result, self.now_s))

    def execute(
        self, plan: StepPlan, lost: frozenset[SeqId], seconds: float, *, is_cut: bool
    ) -> StepResult:
        saved: dict[SnapshotId, int] = {}
        for snapshot in plan.discard:
            self.saved.pop(snapshot, None)
        unsaved = {evict.slot for evict in plan.evict if evict.seq_id in lost}
        for save in plan.save:
            if save.slot not in unsaved:
                self.saved[save.snapshot] = self.cells[save.slot]
                saved[save.snapshot] = self.cells[save.slot] * BYTES_PER_CELL
        for slot in plan.clear:
            self.cells[slot] = 0
        for evict in plan.evict:
            assert evict.mode is not PreemptMode.PARK, "there are no cache slots to park in"
            self.cells[evict.slot] = 0
        for restore in plan.restore:
            assert self.cells[restore.slot] == 0, "I1: restored into a slot that is held"
            assert self.saved[restore.snapshot] == restore.num_tokens, "swapped KV comes back whole"
            self.cells[restore.slot] = restore.num_tokens
        assert set(self.saved) <= self.scheduler.holdings.saved | saved.keys(), (
            "I8: a lost snapshot"
        )
        sampled: dict[SeqId, SampledToken] = {}
        chunked = {chunk.seq_id for chunk in plan.chunks}
        interrupted = frozenset(chunked - lost if is_cut else ())
        for chunk in plan.chunks:
            assert self.cells[chunk.slot] == chunk.start, "I3: a chunk starts elsewhere"
            if chunk.seq_id in interrupted:
                continue
            self.cells[chunk.slot] += len(chunk.token_ids)
            if chunk.seq_id in lost:
                self.cells[chunk.slot] = 0
            elif chunk.sampling is not None:
                sampled[chunk.seq_id] = SampledToken(len(sampled))
        assert sum(self.cells.values()) <= NUM_CELLS, "I2: more cells than there are"
        assert sum(len(chunk.token_ids) for chunk in plan.chunks) <= 24, "I3"
        end_s = self.now_s + seconds
        return StepResult(plan.step, sampled, saved, lost, interrupted, self.now_s, end_s, seconds)

    def check_order(self, plan: StepPlan) -> None:
        known = {seq.seq_id: seq for seq, _ in self.scheduler.sequences()}
        by_request = {seq.request.request_id: seq for seq in known.values()}
        for evict in plan.evict:
            assert evict.cause is not None
            cause, victim = by_request[evict.cause], known[evict.seq_id]
            check_eviction(cause, victim, self.policy, self.tiers)

    def take(self, events: list[EngineEvent] | list[FinishEvent]) -> None:
        for event in events:
            assert event.request_id in self.next_index, f"I4: {event} of a request that ended"
            match event:
                case TokenEvent(token_index=index):
                    assert index == self.next_index[event.request_id], "I4: a gap in the tokens"
                    self.next_index[event.request_id] += 1
                case FinishEvent():
                    del self.next_index[event.request_id]

    @invariant()
    def holds(self) -> None:
        self.scheduler.check()
        unfinished = {seq.request.request_id for seq, _ in self.scheduler.sequences()}
        assert unfinished <= set(self.next_index)


class SloMachine(SchedulerMachine):
    policy = "slo"


SETTINGS = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = SETTINGS
TestSlo = SloMachine.TestCase
TestSlo.settings = SETTINGS
