"""Runs a workload through the production engine loop on a manual clock, and holds every step to the
invariants I1-I10."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from backends.sim.backend import SimBackend, SimModel
from backends.sim.faults import Faults
from backends.sim.profile import StepProfile
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.core.cost import StepCostModel, step_shape
from edged.core.plan import StepPlan
from edged.core.policy import SchedulerConfig
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    PreemptEvent,
    Rejected,
    Request,
    RequestId,
    ResumeEvent,
    SeqId,
    SloTier,
    TierSpec,
    TokenEvent,
)
from edged.engine.interrupt import is_worth_interrupting
from edged.engine.loop import EngineLoop
from tests.factories import GPU_LIKE, TIERS, check_eviction, config, request
from tests.sim.disk import NO_DISK, Disk, NoDisk

MAX_STEPS = 200_000


@dataclass(frozen=True)
class Cancellation:
    at_s: float
    request_id: RequestId


@dataclass
class Life:
    """What one request got."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    token_times_s: list[float] = field(default_factory=list)
    finish: FinishEvent | None = None
    rejected: Rejected | None = None
    num_preempts: int = 0
    num_resumes: int = 0


@dataclass
class Run:
    lives: dict[RequestId, Life]
    trace: list[EngineEvent]
    num_steps: int
    finished_s: float
    loop: EngineLoop
    chunk_sizes: set[int]
    num_parked: int
    """Times a running sequence was left out of a step."""
    num_interrupted: int
    """Steps that an arrival cut short."""

    def finished(self, reason: FinishReason) -> list[Life]:
        return [
            life
            for life in self.lives.values()
            if life.finish is not None and life.finish.reason is reason
        ]


class Checker:
    """Holds plans and events to the invariants as they come."""

    def __init__(self, max_step_tokens: int, clock: ManualClock, policy: str) -> None:
        self._policy = policy
        self._clock = clock
        self.lives: dict[RequestId, Life] = {}
        self.trace: list[EngineEvent] = []
        self.chunk_sizes: set[int] = set()
        self.num_parked = 0
        self.num_interrupted = 0
        self.on_plan: Callable[[StepPlan], bool] = lambda plan: False
        """Told each plan; whether the step will be interrupted."""
        self._max_step_tokens = max_step_tokens
        self.tiers: Mapping[SloTier, TierSpec] = TIERS
        self.loop: EngineLoop | None = None

    def on_step(self, plan: StepPlan) -> None:
        assert self.loop is not None
        again = self.loop.scheduler.plan(self._clock.now_s())
        assert again == plan, "plan() asked twice answered differently"
        slots = [chunk.slot for chunk in plan.chunks]
        assert len(set(slots)) == len(slots), f"I3: two chunks in a slot: {slots}"
        total = sum(len(chunk.token_ids) for chunk in plan.chunks)
        assert total <= self._max_step_tokens, f"I3: {total} tokens in a step"
        sequences = {seq.seq_id: seq for seq, _ in self.loop.sequences()}
        by_request = {seq.request.request_id: seq for seq in sequences.values()}
        for evict in plan.evict:
            assert evict.cause is not None
            cause, victim = by_request[evict.cause], sequences[evict.seq_id]
            check_eviction(cause, victim, self._policy, self.tiers)
            in_vain = cause.slot is None and cause.seq_id not in {c.seq_id for c in plan.chunks}
            assert not in_vain, f"{victim.seq_id} yields to one that gets no token"
        for chunk in plan.chunks:
            seq = sequences[chunk.seq_id]
            assert chunk.start == seq.num_computed_tokens, "I3: a chunk starts elsewhere"
            self.chunk_sizes.add(len(chunk.token_ids))
        planned: set[SeqId] = {chunk.seq_id for chunk in plan.chunks}
        evicted = {evict.seq_id for evict in plan.evict}
        self.num_parked += sum(
            1
            for seq in sequences.values()
            if seq.slot is not None and seq.seq_id not in planned | evicted
        )
        self.num_interrupted += self.on_plan(plan)

    def result(self, num_steps: int, loop: EngineLoop) -> Run:
        return Run(
            self.lives,
            self.trace,
            num_steps,
            self._clock.now_s(),
            loop,
            self.chunk_sizes,
            self.num_parked,
            self.num_interrupted,
        )

    def on_events(self, events: Iterable[EngineEvent], now_s: float) -> None:
        for event in events:
            self.trace.append(event)
            life = self.lives[event.request_id]
            assert life.finish is None, f"I4: {event} after the end of {event.request_id}"
            match event:
                case TokenEvent(token_index=index, token=token):
                    expected = len(life.request.generated_token_ids) + len(life.tokens)
                    assert index == expected, f"I4: token {index} came where {expected} was due"
                    life.tokens.append(token.token_id)
                    life.token_times_s.append(now_s)
                case PreemptEvent():
                    life.num_preempts += 1
                case ResumeEvent(paused_s=paused_s):
                    assert paused_s >= 0
                    life.num_resumes += 1
                case FinishEvent():
                    life.finish = event


def simulate(
    requests: Sequence[Request],
    *,
    num_slots: int = 4,
    num_cells: int = 256,
    num_cached: int = 0,
    is_unified: bool = True,
    max_step_tokens: int = 128,
    profile: StepProfile = GPU_LIKE,
    faults: Faults | None = None,
    cancellations: Sequence[Cancellation] = (),
    scheduler_config: SchedulerConfig | None = None,
    disk: Disk | NoDisk = NO_DISK,
    model: SimModel | None = None,
    new_tiers: Callable[[int], Mapping[SloTier, TierSpec] | None] = lambda step: None,
) -> Run:
    """Every request to its end; raises AssertionError at the first broken invariant. `new_tiers`:
    those from a step on; None where they stay as they are."""
    clock = ManualClock()
    sizes = "", "q8_0", num_cells, num_slots, max_step_tokens
    backend_config = BackendConfig(*sizes, kv_unified=is_unified, cached_sequences=num_cached)
    backend = SimBackend(backend_config, clock, profile, faults, model)
    settings = scheduler_config or config(max_step_tokens=max_step_tokens)
    settings = replace(settings, caches_prefixes=num_cached > 0)
    checker = Checker(max_step_tokens, clock, settings.policy)
    loop = EngineLoop(backend, settings, clock, checker.on_step, disk=disk.tier)
    checker.loop = loop
    loop.calibrate()
    disk.tell(loop)
    start_s = clock.now_s()
    arrivals = sorted(requests, key=lambda r: r.arrival_s)
    to_cancel = sorted(cancellations, key=lambda c: c.at_s)

    def on_plan(plan: StepPlan) -> bool:
        coming = (at(one, start_s) for one in arrivals)
        return interrupt_for(coming, plan, loop.scheduler.cost, backend, clock.now_s())

    checker.on_plan = on_plan
    num_steps = 0
    while num_steps < MAX_STEPS:
        while arrivals and arrivals[0].arrival_s <= clock.now_s() - start_s:
            _arrive(loop, checker, arrivals.pop(0), start_s)
        while to_cancel and to_cancel[0].at_s <= clock.now_s() - start_s:
            _cancel(loop, checker, to_cancel.pop(0), clock)
        _set_tiers(loop, checker, new_tiers(num_steps))
        events = loop.run_once()
        loop.check()
        disk.tell(loop)
        if events is None:
            moments = [r.arrival_s for r in arrivals[:1]] + [c.at_s for c in to_cancel[:1]]
            if not moments:
                break
            clock.advance_to(min(_wakeup_s(loop, clock), start_s + min(moments)) + 1e-9)
            continue
        checker.on_events(events, clock.now_s())
        num_steps += 1
    assert num_steps < MAX_STEPS, "I7: the workload does not end"
    disk.put_away(loop)
    _check_end(loop, backend, checker)
    return checker.result(num_steps, loop)


def _set_tiers(
    loop: EngineLoop, checker: Checker, tiers: Mapping[SloTier, TierSpec] | None
) -> None:
    if tiers is not None:
        checker.tiers = tiers
        loop.set_tiers(tiers.values())
        loop.check()


def _cancel(
    loop: EngineLoop, checker: Checker, cancellation: Cancellation, clock: ManualClock
) -> None:
    ended = loop.cancel(cancellation.request_id, FinishReason.CANCELLED)
    checker.on_events([ended] if ended else [], clock.now_s())


def _wakeup_s(loop: EngineLoop, clock: ManualClock) -> float:
    """When the loop has something to do though nobody asks for anything."""
    wakeup_s = loop.next_wakeup_s()
    return inf if wakeup_s is None or wakeup_s <= clock.now_s() else wakeup_s


def _check_end(loop: EngineLoop, backend: SimBackend, checker: Checker) -> None:
    """Every request has ended, and nothing is held for any."""
    assert loop.statistics().num_used_slots == 0, "a slot is held after the end"
    assert loop.statistics().swapped_bytes == 0, "a snapshot is owned after the end"
    cached = loop.statistics().num_cached_cells
    assert backend.num_used_cells == cached, (
        f"{backend.num_used_cells} cells are held, not {cached}"
    )
    for life in checker.lives.values():
        assert life.rejected or life.finish, f"I4: {life.request.request_id} never ended"


def interrupt_for(
    arrivals: Iterable[Request],
    plan: StepPlan,
    cost: StepCostModel,
    backend: SimBackend,
    now_s: float,
) -> bool:
    """Interrupt a step, as the engine thread would, for the first arrival that is worth it.
    `arrivals` are in order, their times on the clock of `now_s`."""
    if not plan.yields_to:
        return False
    step_s = cost.predict_s(step_shape(plan.chunks))
    for arriving in arrivals:
        elapsed_s = arriving.arrival_s - now_s
        if elapsed_s > step_s:
            break
        if is_worth_interrupting(plan, arriving.service, elapsed_s, cost):
            backend.interrupt_at(arriving.arrival_s + 1e-9)  # it is in the queue when the step ends
            return True
    return False


def _arrive(loop: EngineLoop, checker: Checker, arriving: Request, start_s: float) -> None:
    shifted = at(arriving, start_s)
    checker.lives[arriving.request_id] = life = Life(shifted)
    answer = loop.submit(shifted)
    if isinstance(answer, Rejected):
        life.rejected = answer
    else:
        assert isinstance(answer, Admitted)
        assert answer.predicted_ttft_s >= 0


def at(request: Request, start_s: float) -> Request:
    deadline_s = None if request.deadline_s is None else request.deadline_s + start_s
    return replace(request, arrival_s=request.arrival_s + start_s, deadline_s=deadline_s)


def alone(of: Request, *, num_cells: int = 256) -> list[int]:
    """The tokens of a request that has the engine to itself."""
    run = simulate([at(of, -of.arrival_s)], num_slots=1, num_cells=num_cells)
    return run.lives[of.request_id].tokens


def workload(seed: int, *, num_requests: int = 24, load: float = 2.0) -> list[Request]:
    """Mixed tiers, lengths and clients; arrivals at about `load` times what the engine serves."""
    draw = random.Random(seed)
    requests = []
    at_s = 0.0
    for number in range(num_requests):
        tier = draw.choices(list(SloTier), weights=(3, 2, 4))[0]
        prompt = draw.choice((1, 2, draw.randint(3, 40), draw.randint(40, 150)))
        requests.append(
            request(
                f"{tier}-{number}",
                tier=tier,
                prompt=prompt,
                max_tokens=draw.choice((1, 2, draw.randint(3, 60))),
                arrival_s=at_s,
                deadline_s=at_s + draw.uniform(0.05, 3.0) if draw.random() < 0.1 else None,
                client=f"client-{draw.randint(0, 2)}",
            )
        )
        at_s += draw.expovariate(load * 8.0)
    return requests
