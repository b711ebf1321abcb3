"""Pace is measured where prefills wait, and forgotten where they do not."""

import pytest

from edged.core.cost import StepCostModel
from edged.core.pace import Pace
from edged.core.plan import Chunk, StepPlan, StepResult
from edged.core.types import SeqId, SlotId

PREFILL = Chunk(SeqId(0), SlotId(0), 0, tuple(range(64)), None)
DECODE = Chunk(SeqId(1), SlotId(1), 40, (1,), None)


class _Engine:
    def __init__(self) -> None:
        self.cost = StepCostModel()
        self.pace = Pace(self.cost)
        self.now_s = 0.0
        self.prefill_s = self.cost.prefill_cost_s(0, 64)

    def step(
        self, *chunks: Chunk, seconds: float, has_more: bool = True, cut: bool = False
    ) -> None:
        interrupted = frozenset(chunk.seq_id for chunk in chunks) if cut else frozenset()
        began_s = self.now_s
        self.now_s += seconds
        result = StepResult(
            0, {}, {}, frozenset(), interrupted, began_s, self.now_s, compute_s=seconds
        )
        self.pace.observe(StepPlan(0, (), (), (), (), chunks), result, has_more=has_more)

    @property
    def speed(self) -> float:
        return self.pace.speed(self.now_s)

    @property
    def step_s(self) -> float:
        return self.pace.step_s(self.now_s)


def test_speed_is_the_part_of_the_time_that_waiting_prefills_get() -> None:
    engine = _Engine()
    for _ in range(400):
        engine.step(PREFILL, DECODE, seconds=4 * engine.prefill_s)
    assert engine.speed == pytest.approx(0.25, rel=0.02)


def test_one_step_changes_little() -> None:
    engine = _Engine()
    before = engine.speed
    engine.step(PREFILL, DECODE, seconds=1000 * engine.prefill_s)
    assert before - 0.02 < engine.speed < before


def test_speed_is_never_more_than_one() -> None:
    engine = _Engine()
    for _ in range(400):
        engine.step(PREFILL, seconds=engine.prefill_s / 10)
    assert engine.speed == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("has_more", [True, False])
def test_steps_say_nothing_of_speed_where_no_prefill_waits_or_none_is_computed(
    has_more: bool,
) -> None:
    engine = _Engine()
    before = engine.speed
    engine.step(*((DECODE,) if has_more else (PREFILL,)), seconds=1.0, has_more=has_more)
    engine.step(PREFILL, DECODE, seconds=1.0, cut=True)
    engine.step(PREFILL, DECODE, seconds=0.0)
    assert engine.speed == before


def test_a_speed_that_is_not_measured_any_more_is_forgotten() -> None:
    engine = _Engine()
    first = engine.speed
    for _ in range(400):
        engine.step(PREFILL, DECODE, seconds=100 * engine.prefill_s)
    assert engine.speed < 0.02
    engine.now_s += 600.0
    assert engine.speed == pytest.approx(first, rel=0.01)


def test_the_pace_of_answers_is_that_of_steps_with_decodes() -> None:
    engine = _Engine()
    alone_s = engine.cost.base_s + engine.cost.decode_s
    assert engine.step_s == pytest.approx(alone_s)
    engine.step(DECODE, seconds=2 * alone_s)
    assert engine.step_s == pytest.approx(2 * alone_s)
    engine.step(PREFILL, seconds=9.0)
    assert engine.step_s < 2 * alone_s
    for _ in range(400):
        engine.step(DECODE, PREFILL, seconds=3 * alone_s)
    assert engine.step_s == pytest.approx(3 * alone_s, rel=0.02)


def test_a_pace_that_is_not_measured_any_more_is_forgotten() -> None:
    engine = _Engine()
    alone_s = engine.step_s
    for _ in range(400):
        engine.step(DECODE, seconds=5 * alone_s)
    assert engine.step_s == pytest.approx(5 * alone_s, rel=0.02)
    engine.now_s += 600.0
    assert engine.step_s == pytest.approx(alone_s, rel=0.01)


def test_a_hiccup_of_the_host_says_little_of_the_pace() -> None:
    engine = _Engine()
    for _ in range(400):
        engine.step(DECODE, seconds=0.03)
    before_s = engine.step_s
    engine.step(DECODE, seconds=25.0)
    assert before_s < engine.step_s < 1.2 * before_s


def test_long_steps_in_a_row_forget_nothing() -> None:
    engine = _Engine()
    for _ in range(400):
        engine.step(PREFILL, DECODE, seconds=1000 * engine.prefill_s)
    assert engine.speed == pytest.approx(0.001, rel=0.5)
