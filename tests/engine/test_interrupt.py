"""Who cuts a running step short, and what comes of it."""

import threading
from collections.abc import Sequence

import pytest

from edged.clock import ManualClock, MonotonicClock
from edged.core.cost import StepCostModel
from edged.core.plan import Chunk, StepPlan
from edged.core.types import FinishEvent, RequestId, SeqId, ServiceLevel, SlotId, SloTier
from edged.engine.engine_thread import EngineThread
from edged.engine.interrupt import StepInterrupter
from edged.engine.mailbox import EngineReport, Loaded, Progress, SubmitRequest
from tests.engine.process import PATIENCE_S, start_command
from tests.factories import request

CHAT = ServiceLevel(SloTier.INTERACTIVE, ttft_target_s=1.0)
CHUNK = Chunk(SeqId(0), SlotId(0), 0, tuple(range(40)), None)
PLAN = StepPlan(0, (), (), (), (), (CHUNK,), {SloTier.INTERACTIVE: 0.01})


class Interruption:
    """An interrupter of a step whose predicted seconds are known, and how often it struck."""

    def __init__(self) -> None:
        self.count = 0
        self.clock = ManualClock()
        self.cost = StepCostModel()
        self.interrupter = StepInterrupter(self._strike, self.cost, self.clock)
        self.step_s = self.cost.base_s + self.cost.prefill_cost_s(0, 40)

    def _strike(self) -> None:
        self.count += 1


@pytest.mark.parametrize(("rest_s", "count"), [(0.011, 1), (0.009, 0), (-0.009, 0), (-1.0, 1)])
def test_an_arrival_cuts_a_step_short_whose_rest_is_long_enough(rest_s: float, count: int) -> None:
    """Of a step that is overdue, as long again is expected."""
    step = Interruption()
    step.interrupter.begin(PLAN)
    step.clock.advance(step.step_s - rest_s)
    step.interrupter.arrive(CHAT)
    assert step.count == count


@pytest.mark.parametrize(("ttft_target_s", "count"), [(0.5, 1), (2.0, 0), (None, 0)])
def test_what_an_arrival_waits_is_a_part_of_its_own_target(
    ttft_target_s: float | None, count: int
) -> None:
    step = Interruption()
    step.interrupter.begin(PLAN)
    step.clock.advance(step.step_s - 0.011)
    step.interrupter.arrive(ServiceLevel(SloTier.INTERACTIVE, ttft_target_s))
    assert step.count == count


def test_a_tier_that_the_step_does_not_yield_to_waits() -> None:
    step = Interruption()
    step.interrupter.begin(PLAN)
    step.interrupter.arrive(ServiceLevel(SloTier.STANDARD, 1.0))
    assert step.count == 0


def test_a_step_is_cut_short_once_and_only_while_it_runs() -> None:
    step = Interruption()
    step.interrupter.arrive(CHAT)
    step.interrupter.begin(PLAN)
    step.interrupter.end()
    step.interrupter.arrive(CHAT)
    assert step.count == 0
    step.interrupter.begin(PLAN)
    step.interrupter.arrive(CHAT)
    step.interrupter.arrive(CHAT)
    assert step.count == 1


class Steps:
    """The flight recorder's place: tells when a step of a request begins."""

    def __init__(self, request_id: str) -> None:
        self._request_id = RequestId(request_id)
        self.has_begun = threading.Event()

    def begin_step(self, request_ids: Sequence[RequestId]) -> None:
        if self._request_id in request_ids:
            self.has_begun.set()

    def end_step(self) -> None:
        pass


class Reports:
    """What an engine thread said, as far as the test waits for it."""

    def __init__(self) -> None:
        self.is_loaded = threading.Event()
        self.has_finished = threading.Event()

    def __call__(self, report: EngineReport) -> None:
        if isinstance(report, Loaded):
            self.is_loaded.set()
        events = report.events if isinstance(report, Progress) else ()
        if any(isinstance(event, FinishEvent) for event in events):
            self.has_finished.set()


def test_a_chat_is_answered_though_the_step_it_comes_upon_lasts_an_hour() -> None:
    clock = MonotonicClock()
    steps, reports = Steps("batch"), Reports()
    start = start_command(backend="tests.engine.runtimes:create_endless")
    thread = EngineThread(start, reports, clock, steps)
    thread.launch()
    assert reports.is_loaded.wait(PATIENCE_S)
    batch = request("batch", tier=SloTier.BATCH, prompt=(126,), arrival_s=clock.now_s())
    thread.post(SubmitRequest(batch))
    assert steps.has_begun.wait(PATIENCE_S)
    for number in range(16):
        # The step is longer than predicted; the longer, the longer its rest is taken to be.
        name, tier = f"chat-{number}", SloTier.INTERACTIVE
        chat = request(name, tier=tier, prompt=(65, 66), max_tokens=1, arrival_s=clock.now_s())
        thread.post(SubmitRequest(chat))
        if reports.has_finished.wait(PATIENCE_S / 16):
            return
    raise AssertionError("no chat was answered")
