"""What comes is averaged and forgotten; each size of prompts keeps its part."""

import pytest

from edged.core.demand import RATE_S, Arrivals, Sizes


def _rate(arrivals: Arrivals) -> float:
    """Of arrivals that are due two seconds later."""
    ((rate, horizon_s),) = arrivals.expected(0.0)
    assert horizon_s == 2.0
    return rate


def test_work_that_comes_steadily_is_offered_at_its_rate() -> None:
    arrivals = Arrivals()
    for number in range(3000):
        arrivals.come(0.05, 1.0, number / 10)
    assert arrivals.offered(300.0) == pytest.approx(0.5, rel=0.02)


def test_what_came_is_forgotten() -> None:
    arrivals = Arrivals()
    arrivals.come(3.0, 1.0, 10.0)
    assert arrivals.offered(10.0) == pytest.approx(3.0 / RATE_S)
    assert arrivals.offered(10.0 + RATE_S) == pytest.approx(3.0 / RATE_S / 2.71828, rel=1e-4)
    assert arrivals.offered(1e9) == 0.0


def test_what_is_set_aside_does_not_compete() -> None:
    arrivals = Arrivals()
    for _ in range(4):
        arrivals.come(3.0, 2.0, 0.0)
    assert _rate(arrivals) == pytest.approx(12.0 / RATE_S)
    for _ in range(3):
        arrivals.set_aside(3.0, 2.0, 0.0)
    assert _rate(arrivals) == pytest.approx(3.0 / RATE_S)
    for _ in range(3):
        arrivals.take_back(3.0, 2.0, 0.0)
    assert _rate(arrivals) == pytest.approx(12.0 / RATE_S)


def test_only_what_is_due_sooner_comes_before() -> None:
    arrivals = Arrivals()
    arrivals.come(3.0, 1.0, 0.0)
    arrivals.come(6.0, 60.0, 0.0)
    assert arrivals.offered_before(0.5, 0.0) == 0.0
    assert arrivals.offered_before(11.0, 0.0) == pytest.approx(3.0 / RATE_S * 10.0)
    assert arrivals.offered_before(61.0, 0.0) == pytest.approx(3.0 / RATE_S * 60 + 6.0 / RATE_S)


def test_one_distant_deadline_says_nothing_of_those_that_are_due_soon() -> None:
    arrivals = Arrivals()
    for _ in range(10):
        arrivals.come(3.0, 10.0, 0.0)
    before_s = arrivals.offered_before(600.0, 0.0)
    arrivals.come(0.001, 36_000.0, 0.0)
    assert arrivals.offered_before(600.0, 0.0) == pytest.approx(before_s)
    assert [horizon_s for _, horizon_s in arrivals.expected(0.0)] == pytest.approx([10.0, 36_000.0])


def test_horizons_are_averaged_where_they_are_alike() -> None:
    arrivals = Arrivals()
    arrivals.come(3.0, 10.0, 0.0)
    arrivals.come(1.0, 14.0, 0.0)
    ((_, horizon_s),) = arrivals.expected(0.0)
    assert horizon_s == pytest.approx(11.0)


def test_what_is_known_of_horizons_is_bounded() -> None:
    arrivals = Arrivals()
    for exponent in range(-300, 300):
        arrivals.come(1.0, 2.0**exponent, 0.0)
    assert len(arrivals.expected(0.0)) <= 26
    arrivals.come(1.0, 1.0, 1e6)
    assert len(arrivals.expected(1e6)) == 1


def test_a_size_is_spared_when_it_has_lost_its_part_of_what_is_kept() -> None:
    sizes = Sizes()
    for _ in range(50):
        sizes.come(10)
        sizes.come(1000)
    for _ in range(27):
        sizes.set_aside(1000)
    # With 29 lost, 71 % of all are kept: of each size 43 % are to be, which is 21 of 50.
    assert not sizes.is_spared(1000)
    for _ in range(3):
        sizes.set_aside(1000)
    assert sizes.is_spared(1000)
    assert not sizes.is_spared(10)
    sizes.take_back(1000)
    sizes.take_back(1000)
    assert not sizes.is_spared(1000)


def test_sizes_are_powers_of_two() -> None:
    sizes = Sizes()
    sizes.come(600)
    sizes.set_aside(1000)
    assert sizes.lost(600) == sizes.lost(1023) == 1.0
    assert sizes.lost(1024) == sizes.lost(511) == 0.0


def test_what_a_size_lost_is_forgotten_as_more_of_it_come() -> None:
    sizes = Sizes()
    for _ in range(10):
        sizes.come(100)
        sizes.set_aside(100)
    for _ in range(5000):
        sizes.come(100)
    assert sizes.lost(100) < 0.01


def test_what_comes_too_late_already_counts_for_no_more_than_the_time_there_is() -> None:
    """A replay may have been due long ago."""
    arrivals = Arrivals()
    arrivals.come(3.0, -100.0, 0.0)
    assert arrivals.offered_before(10.0, 0.0) == pytest.approx(3.0 / RATE_S * 10.0)
