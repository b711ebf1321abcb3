"""What steps take in service: also the time between two of them, if there was work."""

import pytest

from edged.clock import ManualClock
from edged.core.plan import StepPlan, StepResult
from edged.core.types import EngineEvent
from edged.engine.loop import EngineLoop
from tests.factories import engine, request

BETWEEN_S = 0.25
PAUSE_S = 100.0


def overheads(loop: EngineLoop, clock: ManualClock) -> list[float]:
    """Of every step until nothing is left to do; the scheduler takes its time between two."""
    commit, seen = loop.scheduler.commit, []

    def slow(plan: StepPlan, result: StepResult, now_s: float) -> list[EngineEvent]:
        seen.append(result.overhead_s)
        clock.advance_to(clock.now_s() + BETWEEN_S)
        return commit(plan, result, now_s)

    loop.scheduler.commit = slow  # type: ignore[method-assign]  # a slow one for this test
    while loop.run_once() is not None:
        pass
    loop.scheduler.commit = commit  # type: ignore[method-assign]  # as it was
    return seen


def test_time_between_two_steps_is_a_part_of_the_second() -> None:
    clock = ManualClock()
    loop = engine(clock)
    loop.submit(request(max_tokens=4, arrival_s=clock.now_s()))
    first, *others = overheads(loop, clock)
    assert first == 0
    assert len(others) >= 3
    assert others == pytest.approx([BETWEEN_S] * len(others))


def test_time_without_work_is_none_of_it() -> None:
    clock = ManualClock()
    loop = engine(clock)
    for number in range(2):
        loop.submit(request(f"req-{number}", max_tokens=4, arrival_s=clock.now_s()))
        assert overheads(loop, clock)[0] == 0
        clock.advance_to(clock.now_s() + PAUSE_S)


def test_the_cost_model_learns_it() -> None:
    clock = ManualClock()
    loop = engine(clock)
    before_s = loop.scheduler.cost.base_s
    for number in range(20):
        loop.submit(request(f"req-{number}", max_tokens=30, arrival_s=clock.now_s()))
        overheads(loop, clock)
    learned_s = loop.scheduler.cost.base_s + loop.scheduler.cost.decode_s - before_s
    assert 0.8 * BETWEEN_S < learned_s < 1.2 * BETWEEN_S
