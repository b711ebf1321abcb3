"""A profile is fitted to what a backend's steps take."""

import pytest

from backends.sim import SimBackend, SimModel, StepProfile
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.simulate.fit import fit_profile

TRUE = StepProfile(
    step_s=0.0045,
    prefill_token_s=0.0034,
    decode_token_s=0.0042,
    cell_s=2.0e-6,
    prefill_cell_s=3.0e-7,
    swap_byte_s=1e-10,
)


def backend(
    clock: ManualClock,
    *,
    num_slots: int = 16,
    num_cells: int = 16384,
    can_swap: bool = True,
    max_step_tokens: int = 512,
) -> SimBackend:
    config = BackendConfig("", "q8_0", num_cells, num_slots, max_step_tokens)
    return SimBackend(config, clock, TRUE, model=SimModel(can_swap=can_swap))


def test_a_device_is_found_out_from_its_steps() -> None:
    clock = ManualClock()
    profile, error = fit_profile(backend(clock), clock, name="mine", max_step_tokens=512)
    assert error < 0.01
    assert profile.name == "mine"
    assert (profile.num_slots, profile.num_cells, profile.max_step_tokens) == (16, 16384, 512)
    for field in ("step_s", "prefill_token_s", "cell_s", "prefill_cell_s", "swap_byte_s"):
        assert getattr(profile, field) == pytest.approx(getattr(TRUE, field), rel=0.02), field
    assert profile.decode_token_s == pytest.approx(TRUE.decode_token_s, rel=0.02)


@pytest.mark.parametrize(("num_slots", "num_cells"), [(1, 64), (2, 300), (16, 400)])
def test_a_small_device_is_measured_as_far_as_it_goes(num_slots: int, num_cells: int) -> None:
    clock = ManualClock()
    small = backend(clock, num_slots=num_slots, num_cells=num_cells)
    profile, _ = fit_profile(small, clock, name="small", max_step_tokens=64)
    assert profile.prefill_token_s == pytest.approx(TRUE.prefill_token_s, rel=0.1)


def test_no_step_is_larger_than_the_device_takes() -> None:
    clock, told = ManualClock(), list[str]()
    short_steps = backend(clock, max_step_tokens=64)
    profile, _ = fit_profile(short_steps, clock, name="short", max_step_tokens=64, told=told.append)
    assert profile.decode_token_s == pytest.approx(TRUE.decode_token_s, rel=0.02)
    assert told[0] == "16 tokens of a prompt after 0"
    assert told[-1] == "16 answers of 256 tokens at once"


def test_a_backend_that_cannot_swap_has_no_time_for_it() -> None:
    clock = ManualClock()
    profile, _ = fit_profile(backend(clock, can_swap=False), clock, name="n", max_step_tokens=512)
    assert profile.swap_byte_s == 0.0
