"""The forecast promises what fits, keeps what it promised, and lets the dearest wait."""

import random
from math import inf

import pytest

from edged.core.demand import RATE_S
from edged.core.forecast import Assessment, Forecast
from edged.core.sequence import Sequence
from edged.core.timeline import Entry
from edged.core.types import Obstacle, SeqId
from tests.factories import request


def _entry(
    number: int, due_s: float, work_s: float, *, prompt: int = 64, cost_s: float | None = None
) -> Entry:
    seq = Sequence(SeqId(number), request(prompt=prompt), max_tokens=4, stop_token_ids=frozenset())
    cost_s = work_s if cost_s is None else cost_s
    return Entry(due_s, seq.seq_id, work_s, cost_s, seq, num_tokens=prompt)


def _come(forecast: Forecast, entry: Entry, now_s: float = 0.0) -> Assessment:
    assessment = forecast.assess(entry, 1.0, now_s)
    forecast.admit(assessment, now_s)
    return assessment


def _ids(entries: tuple[Entry, ...]) -> list[int]:
    return [entry.seq_id for entry in entries]


def test_what_fits_is_promised_and_what_does_not_is_not() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 1.0, 0.5)).promised
    assert not _come(forecast, _entry(2, 1.0, 0.5)).promised


@pytest.mark.parametrize("seed", range(20))
def test_a_promise_is_never_broken_by_a_later_arrival(seed: int) -> None:
    """Everything comes at one moment: in order of due times, all that is promised fits."""
    draw = random.Random(seed)
    forecast, promised, aside = Forecast(), dict[int, Entry](), set[int]()
    for number in range(60):
        work_s = draw.choice((0.02, 0.1, 0.5, 2.0)) * draw.uniform(0.5, 2)
        entry = _entry(
            number,
            draw.uniform(0.2, 12.0),
            work_s,
            prompt=int(400 * work_s) + 1,
            cost_s=work_s * draw.uniform(0.1, 3),
        )
        assessment = _come(forecast, entry)
        if assessment.promised:
            promised[number] = entry
        aside.update(_ids(assessment.set_aside))
        if assessment.taken_back is not None:
            aside.discard(assessment.taken_back.seq_id)
        assert not aside & promised.keys()
        kept = sorted(one for one in _all(forecast) if one.seq_id not in aside)
        for place, one in enumerate(kept):
            assert sum(other.work_s for other in kept[: place + 1]) <= one.due_s
    assert promised
    assert aside


def _all(forecast: Forecast) -> list[Entry]:
    return [*forecast._timeline, *(entry for _, _, entry in forecast._aside)]


def test_the_dearest_is_set_aside_and_comes_back_when_a_larger_one_takes_its_place() -> None:
    forecast = Forecast()
    _come(forecast, _entry(1, 1.05, 0.45))
    _come(forecast, _entry(2, 1.0, 0.4))
    # Too small to be promised against the rate at which work comes, so neither was: the first is.
    dear = _entry(3, 1.1, 0.42)
    assert _ids(_come(forecast, dear).set_aside) == [3]
    larger = _entry(4, 1.2, 0.9)
    forecast.leave(next(iter(forecast._timeline)))
    assessment = _come(forecast, larger)
    assert _ids(assessment.set_aside) == [4]
    assert assessment.taken_back is dear
    assert not assessment.promised


@pytest.mark.parametrize(
    ("cost_s", "is_spared", "comes_back"),
    [(0.9, False, True), (0.55, False, False), (0.9, True, False)],
)
def test_nobody_comes_back_for_an_arrival_that_is_hardly_dearer_or_of_a_spared_size(
    cost_s: float, is_spared: bool, comes_back: bool
) -> None:
    forecast = Forecast()
    _come(forecast, _entry(1, 1.0, 0.5))
    assert _ids(_come(forecast, _entry(2, 1.0, 0.4)).set_aside) == [2]
    forecast.leave(next(iter(forecast._timeline)))
    for _ in range(20 if is_spared else 0):
        forecast._sizes.come(1000)
        forecast._sizes.set_aside(1000)
    arrival = _entry(3, 1.1, 0.9, prompt=1000, cost_s=cost_s)
    assert (forecast.assess(arrival, 1.0, 0.0).taken_back is not None) == comes_back


def test_one_that_comes_back_takes_no_place_where_both_fit() -> None:
    forecast = Forecast()
    _come(forecast, _entry(1, 1.0, 0.5))
    small = _entry(2, 1.0, 0.4)
    assert _ids(_come(forecast, small).set_aside) == [2]
    forecast.leave(next(iter(forecast._timeline)))
    assessment = _come(forecast, _entry(3, 9.0, 1.0), 0.1)
    assert assessment.taken_back is small
    assert not assessment.set_aside
    assert assessment.promised
    assert len(forecast) == 2


def test_of_the_unpromised_in_front_the_dearest_gives_way() -> None:
    forecast = Forecast()
    for number, work_s in ((1, 0.2), (2, 0.5)):
        forecast.admit(Assessment(_entry(number, 1.0, work_s), False), 0.0)
    assert _ids(_come(forecast, _entry(3, 0.9, 0.3)).set_aside) == [2]
    assert len(forecast) == 2


def test_the_promised_stay_though_they_are_the_dearest() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 1.0, 0.6)).promised
    forecast.admit(Assessment(_entry(2, 1.0, 0.1), False), 0.0)
    assert _ids(_come(forecast, _entry(3, 0.9, 0.2)).set_aside) == [3]


def test_behind_promises_that_will_be_late_an_arrival_makes_no_other_late() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 1.0, 0.5)).promised
    assert _come(forecast, _entry(2, 6.0, 0.1)).promised
    # At 0.9 s the first cannot be helped; the arrival would make the second late too.
    assert _ids(_come(forecast, _entry(3, 5.0, 4.0), 0.9).set_aside) == [3]
    assert not _come(forecast, _entry(4, 20.0, 0.1), 0.9).set_aside


def test_an_arrival_that_does_not_fit_all_the_same_sets_nobody_else_aside() -> None:
    forecast = Forecast()
    for number in range(3):
        forecast.admit(Assessment(_entry(number, 2.0, 0.4), False), 0.0)
    cheap_for_its_client = _entry(9, 3.0, 2.9, cost_s=0.3)
    assert _ids(_come(forecast, cheap_for_its_client).set_aside) == [9]
    assert len(forecast) == 3


def test_who_would_be_late_alone_counts_for_nothing() -> None:
    forecast = Forecast()
    before = _books(forecast)
    for number in range(100):
        assert not _come(forecast, _entry(number, 0.1, 5.0, prompt=1000)).promised
    assert _books(forecast) == before


def test_a_prefill_that_has_begun_is_not_set_aside() -> None:
    forecast = Forecast()
    begun = _entry(1, 1.0, 0.8)
    forecast.admit(Assessment(begun, False), 0.0)
    begun.seq.num_computed_tokens = 1
    assert _ids(_come(forecast, _entry(2, 0.9, 0.4)).set_aside) == [2]


def test_only_the_rest_of_a_prefill_that_has_begun_counts() -> None:
    forecast = Forecast()
    begun = _entry(1, 1.0, 0.8)
    forecast.admit(Assessment(begun, False), 0.0)
    begun.seq.num_computed_tokens = 48
    assert not _come(forecast, _entry(2, 1.1, 0.4)).set_aside


def test_to_assess_changes_nothing() -> None:
    forecast = Forecast()
    for number in range(6):
        _come(forecast, _entry(number, 1.0 + number / 10, 0.3))
    asked = _entry(9, 1.3, 0.6)
    before = _books(forecast)
    first = forecast.assess(asked, 1.0, 0.5)
    assert first.set_aside
    assert _books(forecast) == before
    assert forecast.assess(asked, 1.0, 0.5) == first


def _books(forecast: Forecast) -> list[str]:
    arrivals, sizes = vars(forecast.arrivals), vars(forecast._sizes)
    own = [list(forecast._timeline), forecast._aside, forecast._promised]
    return [repr(one) for one in (*own, arrivals, sizes)]


def test_one_that_was_set_aside_comes_back_when_there_is_room_again() -> None:
    forecast = Forecast()
    _come(forecast, _entry(1, 1.0, 0.5))
    aside = _entry(2, 1.0, 0.4)
    assert _ids(_come(forecast, aside).set_aside) == [2]
    assert forecast.relax(1.0, 0.0) is None
    forecast.leave(next(iter(forecast._timeline)))
    assert forecast.relax(1.0, 0.7) is None, "too late for it"
    assert forecast.relax(0.4, 0.0) is None, "too slow for it"
    assert forecast.relax(1.0, 0.0) is aside
    assert list(forecast._timeline) == [aside]
    assert forecast.relax(1.0, 0.0) is None


def test_slack_is_what_the_tightest_of_those_due_next_has() -> None:
    forecast = Forecast()
    assert forecast.slack_s(1.0, 0.0) == inf
    for number, due_s, work_s in ((1, 1.0, 0.2), (2, 1.5, 1.0), (3, 9.0, 1.0)):
        forecast.admit(Assessment(_entry(number, due_s, work_s), False), 0.0)
    assert forecast.slack_s(1.0 / 0.88, 0.0) == pytest.approx(1.5 - 1.2)
    assert forecast.slack_s(0.5 / 0.88, 0.0) == pytest.approx(1.5 - 2.4)
    assert forecast.slack_s(1.0 / 0.88, 0.2) == pytest.approx(0.1)


def test_a_turn_comes_when_no_promise_is_late_for_it() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 1.0, 0.5)).promised
    late = _entry(2, -5.0, 0.6)
    called = forecast.call(late, 1.0, 0.0)
    # In front of the other it would make that one late, and right behind it be late itself.
    assert called == late._replace(due_s=0.6 * 4)
    assert [one.seq_id for one in forecast._timeline] == [1, 2]
    assert not _come(forecast, _entry(3, 2.3, 1.5)).promised


def test_a_turn_waits_while_promises_leave_no_room() -> None:
    forecast = Forecast()
    for number in range(100):
        entry = _entry(number, number + 1.0, 0.9)
        forecast.admit(Assessment(entry, True), 0.0)
    late = _entry(100, -5.0, 1.0)
    before = _books(forecast)
    assert forecast.call(late, 1.0, 0.0) is None
    assert _books(forecast) == before


@pytest.mark.parametrize("who", [1, 2])
def test_a_turn_waits_for_whom_it_has_to_give_way_to(who: int) -> None:
    forecast = Forecast()
    called = forecast.call(_entry(1, -5.0, 1.0), 1.0, 0.0, lambda one: one.seq_id == who)
    assert (called is None) == (who == 1)


def test_who_gives_way_is_set_aside_and_not_taken_back() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 9.0, 0.5)).promised
    late = forecast.assess(_entry(2, 8.0, 0.1), 1.0, 0.0, gives_way=lambda _: True)
    assert (late.promised, late.obstacle, _ids(late.set_aside)) == (False, Obstacle.WORK, [2])
    forecast.admit(late, 0.0)
    assert forecast.relax(1.0, 0.0, lambda _: True) is None
    large = _entry(3, 9.0, 6.0)
    assert forecast.assess(large, 1.0, 0.0, gives_way=lambda _: True).taken_back is None
    assert forecast.assess(large, 1.0, 0.0).taken_back is late.entry
    assert forecast.relax(1.0, 0.0) is late.entry


def test_what_must_be_early_is_promised_only_if_it_is() -> None:
    forecast, entry = Forecast(), _entry(1, 1.0, 0.3)
    assert forecast.assess(entry, 1.0, 0.0, spare_s=0.5).promised
    assert not forecast.assess(entry, 1.0, 0.0, spare_s=0.8).promised


def test_one_arrival_sets_few_aside_and_else_goes_itself() -> None:
    def set_aside(large_s: float) -> list[int]:
        forecast = Forecast()
        for number in range(60):
            forecast.admit(Assessment(_entry(number, 10.0, 0.13), False), 0.0)
        for _ in range(50):  # its size has lost its part
            forecast._sizes.come(1000)
            forecast._sizes.set_aside(1000)
        return _ids(_come(forecast, _entry(99, 10.0, large_s, prompt=1000)).set_aside)

    few = set_aside(2.0)
    assert 0 < len(few) <= 16
    assert 99 not in few
    assert few == sorted(few, reverse=True), "of equals the youngest"
    assert set_aside(6.0) == [99]


def test_all_who_were_set_aside_are_tried_again_in_turns() -> None:
    forecast = Forecast()
    _come(forecast, _entry(0, 1.0, 0.5))
    for number in range(1, 8):
        assert number in _ids(_come(forecast, _entry(number, 1.0, 0.4)).set_aside)
    forecast.leave(next(iter(forecast._timeline)))
    tried: set[int] = set()

    def gives_way(entry: Entry) -> bool:
        tried.add(entry.seq_id)
        return True

    for _ in range(7):
        assert forecast.relax(1.0, 0.0, gives_way) is None
    assert tried == set(range(1, 8))


def test_who_is_late_in_any_case_keeps_nobody_from_a_promise() -> None:
    forecast = Forecast()
    assert _come(forecast, _entry(1, 1.0, 0.5)).promised
    assert _come(forecast, _entry(2, 9.0, 0.3), 5.0).promised


def test_a_size_that_has_lost_its_part_is_spared() -> None:
    def long_and_short(*, has_lost: bool) -> list[int]:
        forecast = Forecast()
        for _ in range(20):
            forecast._sizes.come(1000)
            forecast._sizes.come(10)
            if has_lost:
                forecast._sizes.set_aside(1000)
        forecast.admit(Assessment(_entry(1, 1.0, 0.5, prompt=1000), False), 0.0)
        forecast.admit(Assessment(_entry(2, 1.0, 0.2, prompt=10), False), 0.0)
        return _ids(_come(forecast, _entry(3, 1.0, 0.25, prompt=10)).set_aside)

    assert long_and_short(has_lost=False) == [1]
    assert long_and_short(has_lost=True) == [3]


def test_who_is_due_later_is_passed_by_those_that_will_come() -> None:
    forecast = Forecast()
    for number in range(200):
        entry = _entry(number, number / 2 + 1.0, 0.4)
        _come(forecast, entry, number / 2)
        forecast.leave(entry)
    # 0.8 s of work come a second, due a second later: they leave no room for 5 s in 20.
    assert not forecast.assess(_entry(200, 120.0, 5.0), 1.0, 100.0).promised
    quiet_s = 100.0 + 20 * RATE_S
    assert forecast.assess(_entry(200, quiet_s + 20.0, 5.0), 1.0, quiet_s).promised


def test_who_leaves_leaves_nothing_behind() -> None:
    forecast = Forecast()
    entries = [_entry(number, 1.0, 0.4) for number in range(5)]
    assessments = [_come(forecast, entry) for entry in entries]
    assert any(one.promised for one in assessments)
    assert any(one.set_aside for one in assessments)
    for entry in entries:
        forecast.leave(entry)
        forecast.leave(entry)
    assert len(forecast) == 0
    assert not _all(forecast)
    assert not forecast._promised
