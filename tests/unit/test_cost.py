"""The cost model learns what steps take, and stays sane."""

import random

import pytest

from edged.core.cost import StepCostModel, StepShape, attended_cells

TRUE = (0.006, 0.0035, 0.0044, 2e-6, 5e-8)


def _seconds(shape: StepShape) -> float:
    base, prefill, decode, cell, prefill_cell = TRUE
    decodes_s = decode * shape.decodes + cell * shape.decode_cells
    return base + decodes_s + prefill * shape.prefill_tokens + prefill_cell * shape.prefill_cells


def _shapes(seed: int, count: int) -> list[StepShape]:
    draw = random.Random(seed)
    shapes = []
    for _ in range(count):
        decodes, prefill = draw.randint(0, 16), draw.choice((0, 0, 16, 64, 128))
        decodes = max(decodes, 1 if not prefill else 0)
        cells = sum(draw.randint(20, 600) for _ in range(decodes))
        start = draw.choice((0, 0, 500, 4000))
        shapes.append(StepShape(prefill, decodes, cells, attended_cells(start, prefill)))
    return shapes


def test_it_learns_a_machine_from_mixed_steps() -> None:
    model = StepCostModel()
    for shape in _shapes(1, 300):
        model.observe(shape, _seconds(shape))
    for shape in _shapes(2, 50):
        assert model.predict_s(shape) == pytest.approx(_seconds(shape), rel=0.05)
    assert model.median_error < 0.02


def test_what_it_has_learned_is_what_it_predicts_with() -> None:
    model = StepCostModel()
    for shape in _shapes(1, 300):
        model.observe(shape, _seconds(shape))
    model.observe_transfer(1000, 0.5)
    costs = model.costs
    assert costs[:3] == pytest.approx(TRUE[:3], rel=0.2)
    for shape in _shapes(2, 20):
        decodes_s = costs.decode_s * shape.decodes + costs.cell_s * shape.decode_cells
        prefill_s = (
            costs.prefill_token_s * shape.prefill_tokens
            + costs.prefill_cell_s * shape.prefill_cells
        )
        assert costs.base_s + decodes_s + prefill_s == pytest.approx(model.predict_s(shape))
    assert costs.transfer_byte_s * 1000 == pytest.approx(model.transfer_s(1000))


def test_it_follows_a_machine_that_gets_slower() -> None:
    model = StepCostModel()
    for shape in _shapes(1, 300):
        model.observe(shape, _seconds(shape))
    for shape in _shapes(3, 400):
        model.observe(shape, 2 * _seconds(shape))
    assert model.median_error < 0.1


def test_noise_and_hiccups_do_not_shake_it() -> None:
    draw = random.Random(5)
    model = StepCostModel()
    for shape in _shapes(1, 600):
        hiccup = 40 if draw.random() < 0.02 else 1
        model.observe(shape, _seconds(shape) * draw.lognormvariate(0, 0.15) * hiccup)
    for shape in _shapes(2, 50):
        assert model.predict_s(shape) == pytest.approx(_seconds(shape), rel=0.35)


def test_what_decoding_says_nothing_about_stays_what_it_was() -> None:
    model = StepCostModel()
    for shape in _shapes(1, 300):
        model.observe(shape, _seconds(shape))
    before = model.prefill_token_s
    draw = random.Random(7)
    for number in range(5000):
        shape = StepShape(0, 1, 100 + number % 900)
        model.observe(shape, _seconds(shape) * draw.lognormvariate(0, 0.3))
        assert model.predict_s(shape) < 20 * _seconds(shape)
    assert model.prefill_token_s == pytest.approx(before, rel=0.05)


def test_a_chunk_within_a_time_is_as_long_as_that_time_allows() -> None:
    model = StepCostModel()
    for shape in _shapes(1, 300):
        model.observe(shape, _seconds(shape))
    for seconds in (0.01, 0.05, 0.3):
        for start in (0, 500, 4000):
            tokens = model.prefill_tokens_within(seconds, start, 10_000)
            assert model.prefill_cost_s(start, tokens) <= seconds
            assert model.prefill_cost_s(start, tokens + 1) > seconds
    assert model.prefill_tokens_within(float("inf"), 0, 77) == 77
    assert model.prefill_tokens_within(0.0, 0, 77) == 0


def test_transfers_are_learned_from_what_they_took() -> None:
    model = StepCostModel()
    for _ in range(40):
        model.observe_transfer(10_000_000, 0.02)
    assert model.transfer_s(1_000_000) == pytest.approx(0.002, rel=0.05)


def test_a_bus_that_gets_slower_or_faster_is_learned_soon() -> None:
    model = StepCostModel()
    for byte_s in (1e-9, 1e-7, 1e-10):
        for _ in range(25):
            model.observe_transfer(1_000_000, 1_000_000 * byte_s)
        assert model.transfer_s(1_000_000) == pytest.approx(1_000_000 * byte_s, rel=0.5)


def test_one_stall_does_not_say_that_moving_is_slow() -> None:
    model = StepCostModel()
    for _ in range(10):
        model.observe_transfer(1_000_000, 0.001)
    model.observe_transfer(1_000_000, 3.0)
    assert model.transfer_s(1_000_000) < 0.002


def test_large_moves_say_more_than_small_ones() -> None:
    model = StepCostModel()
    for _ in range(10):
        model.observe_transfer(10_000_000, 0.01)
        model.observe_transfer(1_000, 0.001)  # a fixed cost, no bandwidth
    assert model.transfer_s(10_000_000) == pytest.approx(0.01, rel=0.25)
