"""Runs a workload through the production engine loop on a manual clock.

Theory of operation: the loop, the scheduler and the policies are those that serve. Only the backend
is simulated, and time is moved by what its steps take. Whoever arrives in the middle of a step is
seen at its end, or cuts it short, as the engine thread would have it, if the device can do that.
"""

import gc
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from edged.backend import BackendConfig, SimulatedBackend, find_simulated
from edged.clock import ManualClock
from edged.core.cost import StepShape, step_shape
from edged.core.plan import StepPlan
from edged.core.policies import ORACLES
from edged.core.policy import SchedulerConfig
from edged.core.types import (
    EngineEvent,
    FinishEvent,
    PreemptEvent,
    PreemptMode,
    QueueEvent,
    Rejected,
    Request,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TokenEvent,
)
from edged.engine.interrupt import is_worth_interrupting
from edged.engine.loop import EngineLoop
from edged.simulate.profile import DeviceProfile
from edged.simulate.workload import Job

NUMBER_TOKENS = 4
"""Prompt tokens, of 256 values each, that say which job a prompt is: the backend looks up how long
its answer is, and the scheduler is not told."""
_FILLER = 65
_SPEEDS = (
    "step_s",
    "prefill_token_s",
    "decode_token_s",
    "cell_s",
    "prefill_cell_s",
    "swap_byte_s",
    "bytes_per_cell",
)
_SAMPLING = SamplingParams(temperature=0.0)
_SOON_S = 1e-9
"""After an arrival: it is in the queue when the step ends."""


class Notice(NamedTuple):
    """A `QueueEvent`, and when it was told."""

    at_s: float
    position: int
    eta_s: float
    eta_bound_s: float


@dataclass
class Life:
    """What one job got."""

    job: Job
    token_times_s: "array[float]" = field(default_factory=lambda: array("d"))
    finish: FinishEvent | None = None
    rejected: Rejected | None = None
    promised: bool | None = None
    notices: list[Notice] = field(default_factory=list)
    num_swaps: int = 0
    num_recomputes: int = 0


@dataclass(frozen=True)
class Run:
    lives: list[Life]
    """By the job's number."""
    num_steps: int
    ended_s: float
    cost_model_error: float
    chunk_tokens: Sequence[int]
    """Prompt tokens of each step that had any."""
    num_turns: int
    """Relegated requests, and those without targets, that were served by their share."""


def run_jobs(
    jobs: Sequence[Job],
    scheduler: SchedulerConfig,
    services: Mapping[SloTier, ServiceLevel],
    profile: DeviceProfile,
    backend: str = "sim",
) -> Run:
    """Every job to its end. `jobs` are in order of arrival and numbered from 0."""
    clock = ManualClock()
    simulated = _backend(jobs, profile, clock, backend)
    tells_lengths = scheduler.policy in ORACLES
    simulation = _Simulation(
        jobs, services, simulated, scheduler, clock, tells_lengths=tells_lengths
    )
    with _without_collection():
        return simulation.run()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Next to nothing that a simulation makes refers to itself, and looking for it takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _backend(
    jobs: Sequence[Job], profile: DeviceProfile, clock: ManualClock, backend: str
) -> SimulatedBackend:
    lengths = [job.num_answer_tokens for job in jobs]

    def length_of(prompt: Sequence[int]) -> int | None:
        number = _number_of(prompt)
        return lengths[number] if number < len(lengths) else None

    config = BackendConfig(
        "",
        "q8_0",
        profile.num_cells,
        profile.num_slots,
        profile.max_step_tokens,
        options={
            **{name: repr(getattr(profile, name)) for name in _SPEEDS},
            "train_context_tokens": str(profile.num_cells),
            "can_interrupt": str(profile.can_interrupt).lower(),
            "draws_text": "false",
        },
    )
    return find_simulated(backend)(config, clock, length_of)


def _number_of(prompt: Sequence[int]) -> int:
    return sum(token_id << 8 * place for place, token_id in enumerate(prompt[:NUMBER_TOKENS]))


def _prompt(job: Job) -> tuple[int, ...]:
    head = tuple(job.number >> 8 * place & 255 for place in range(NUMBER_TOKENS))
    return head + (_FILLER,) * (job.num_prompt_tokens - NUMBER_TOKENS)


class _Simulation:
    def __init__(
        self,
        jobs: Sequence[Job],
        services: Mapping[SloTier, ServiceLevel],
        backend: SimulatedBackend,
        scheduler: SchedulerConfig,
        clock: ManualClock,
        *,
        tells_lengths: bool,
    ) -> None:
        self._tells_lengths = tells_lengths
        self._jobs = jobs
        self._services = services
        self._backend = backend
        self._clock = clock
        self._chunk_tokens = array("l")
        self._loop = EngineLoop(backend, scheduler, clock, self._on_step)
        self._loop.calibrate()
        self._start_s = clock.now_s()
        self._lives = [Life(job) for job in jobs]
        self._by_id: dict[RequestId, Life] = {}
        self._next = 0

    def run(self) -> Run:
        loop, clock = self._loop, self._clock
        num_steps = 0
        while True:
            self._arrive()
            events = loop.run_once()
            if events is not None:
                self._take(events)
                num_steps += 1
            elif self._next < len(self._jobs):
                clock.advance_to(self._arrival_s(self._next))
            else:
                break
        statistics = loop.statistics()
        return Run(
            self._lives,
            num_steps,
            clock.now_s() - self._start_s,
            statistics.cost_model_error,
            self._chunk_tokens,
            statistics.num_turns,
        )

    def _arrive(self) -> None:
        now_s = self._clock.now_s()
        while self._next < len(self._jobs) and self._arrival_s(self._next) <= now_s:
            life = self._lives[self._next]
            request = self._request(life.job)
            self._next += 1
            answer = self._loop.submit(request)
            if isinstance(answer, Rejected):
                life.rejected = answer
            else:
                self._by_id[request.request_id] = life
                life.promised = answer.promised

    def _on_step(self, plan: StepPlan) -> None:
        shape = step_shape(plan.chunks)
        if shape.prefill_tokens:
            self._chunk_tokens.append(shape.prefill_tokens)
        if plan.yields_to and self._backend.info.can_interrupt:
            self._cut_short(plan, shape)

    def _cut_short(self, plan: StepPlan, shape: StepShape) -> None:
        """Where the first arrival comes that is worth it."""
        began_s, cost = self._clock.now_s(), self._loop.scheduler.cost
        ends_s = began_s + cost.predict_s(shape)
        for number in range(self._next, len(self._jobs)):
            arrival_s = self._arrival_s(number)
            if arrival_s > ends_s:
                return
            service = self._services[self._jobs[number].tier]
            if is_worth_interrupting(plan, service, arrival_s - began_s, cost):
                self._backend.interrupt_at(arrival_s + _SOON_S)
                return

    def _arrival_s(self, number: int) -> float:
        return self._start_s + self._jobs[number].arrival_s

    def _request(self, job: Job) -> Request:
        return Request(
            request_id=RequestId(f"job-{job.number}"),
            client_id=job.client_id,
            prompt_token_ids=_prompt(job),
            sampling=_SAMPLING,
            service=self._services[job.tier],
            arrival_s=self._start_s + job.arrival_s,
            expected_tokens=job.num_answer_tokens if self._tells_lengths else None,
        )

    def _take(self, events: Iterable[EngineEvent]) -> None:
        now_s = self._clock.now_s() - self._start_s
        for event in events:
            life = self._by_id[event.request_id]
            if isinstance(event, TokenEvent):
                life.token_times_s.append(now_s)
            elif isinstance(event, QueueEvent):
                notice = Notice(now_s, event.position, event.eta_s, event.eta_bound_s)
                life.notices.append(notice)
            elif isinstance(event, FinishEvent):
                life.finish = event
                del self._by_id[event.request_id]
            elif isinstance(event, PreemptEvent):
                if event.mode is PreemptMode.SWAP:
                    life.num_swaps += 1
                elif event.mode is PreemptMode.RECOMPUTE:
                    life.num_recomputes += 1
