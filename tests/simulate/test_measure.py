"""What a run is said to be worth."""

import math
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.core.types import (
    ClientId,
    FinishEvent,
    FinishReason,
    MissCause,
    Outcome,
    RequestId,
    RequestTimings,
    SloTier,
)
from edged.simulate.measure import Measures, Targets, jain, measure, percentiles
from edged.simulate.run import Life, Notice, Run
from edged.simulate.workload import Job

FINISH = FinishEvent(
    RequestId("r"), FinishReason.STOP, 1, 1, RequestTimings(*([None] * 3), 0.0, 0, 0, None, None)
)
CHAT = Targets(ttft_s=1.0, tpot_s=0.1)


def life(*times_s: float, arrival_s: float = 0.0, is_finished: bool = True) -> Life:
    job = Job(0, arrival_s, 10, len(times_s) or 1, SloTier.INTERACTIVE)
    return Life(job, array("d", times_s), FINISH if is_finished else None)


def measured(*lives: Life, targets: Targets = CHAT, ended_s: float = 10.0) -> Measures:
    return measure(Run(list(lives), 1, ended_s, 0.0, [], 0), {SloTier.INTERACTIVE: targets})


@pytest.mark.parametrize(
    ("times_s", "violated", "missed_tpot"),
    [
        ((1.0, 1.1, 1.2), 0.0, 0.0),
        ((1.01, 1.1, 1.2), 1.0, 0.0),
        ((0.5, 0.6, 1.2), 0.0, 0.0),
        ((0.5, 0.6, 1.21), 1.0, 1.0),
    ],
    ids=["in time", "first late", "pause while ahead", "pause too long"],
)
def test_a_token_is_due_by_the_targets_and_not_by_the_token_before(
    times_s: tuple[float, ...], violated: float, missed_tpot: float
) -> None:
    found = measured(life(*times_s))
    assert (found.violated, found.missed_tpot) == (violated, missed_tpot)


def test_the_last_token_has_a_target_of_its_own() -> None:
    targets = Targets(ttlt_s=30.0)
    late = life(20.0, 40.1, arrival_s=10.0)
    found = measured(life(20.0, 40.0, arrival_s=10.0), late, targets=targets)
    assert found.violated == 0.5


def test_what_did_not_finish_is_violated() -> None:
    found = measured(life(0.5, is_finished=False), life())
    assert (found.violated, found.num_unfinished, found.goodput) == (1.0, 1, 0.0)


def test_goodput_counts_requests_and_smooth_goodput_tokens() -> None:
    found = measured(life(0.5, 0.6), life(1.5, 1.6), ended_s=2.0)
    assert found.goodput == 0.5
    # The second answer's tokens are 0.5 s late, half of what its TTFT target allows.
    assert found.smooth_goodput == pytest.approx((2 + 2 * 0.5) / 2.0)


@given(
    st.lists(st.floats(0.01, 2.0), min_size=1, max_size=8),
    st.integers(0, 7),
    st.floats(0.0, 5.0),
    st.sampled_from([CHAT, Targets(ttft_s=1.0), Targets(ttlt_s=3.0), Targets()]),
)
def test_neither_delaying_nor_dropping_tokens_raises_smooth_goodput(
    gaps_s: list[float], place: int, delay_s: float, targets: Targets
) -> None:
    times_s = [sum(gaps_s[: n + 1]) for n in range(len(gaps_s))]
    worth = measured(life(*times_s), targets=targets).smooth_goodput
    later_from = min(place, len(times_s) - 1)
    held_until_s = times_s[later_from] + delay_s
    delayed = [
        max(at_s, held_until_s) if n >= later_from else at_s for n, at_s in enumerate(times_s)
    ]
    dropped = times_s[:later_from]
    for other in (delayed, dropped):
        assert measured(life(*other), targets=targets).smooth_goodput <= worth + 1e-9


def test_light_clients_have_a_column_of_their_own() -> None:
    def of(client: str, ttft_s: float) -> Life:
        one = life(ttft_s)
        return replace(one, job=replace(one.job, client_id=ClientId(client)))

    found = measured(*[of("hog", 0.5)] * 7, of("first", 2.0), of("second", 0.5))
    assert found.violated_light == 0.5
    assert measured(of("only", 2.0)).violated_light == 0.0


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles(range(1, 101)) == (50, 95, 99)
    assert percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert all(map(math.isnan, percentiles([])))


def test_jains_index_is_one_among_equals() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_a_promise_is_broken_by_any_target_that_is_missed() -> None:
    lives = [life(0.5), life(1.5), life(0.5), life(1.5), life(1.5)]
    for one, promised in zip(lives, (True, True, True, False, None), strict=True):
        one.promised = promised
        one.finish = replace(FINISH, outcome=Outcome(promised, one is lives[0], None))
    run = measured(*lives)
    assert run.promised == pytest.approx(3 / 4), "the last has no targets"
    assert run.broken == pytest.approx(2 / 3)
    assert run.broken_ttft == pytest.approx(1 / 3)


def test_who_promises_nothing_breaks_nothing() -> None:
    run = measured(life(0.5))
    assert math.isnan(run.promised)
    assert math.isnan(run.broken)


def test_one_client_alone_has_no_part_to_compare() -> None:
    assert math.isnan(measured(life(0.5)).fairness)


def test_who_missed_a_target_for_the_sake_of_others_is_counted() -> None:
    lives = [life(0.5), life(1.5), life(4.5)]
    for one, cause in zip(lives[1:], (MissCause.ESTIMATE, MissCause.OVERLOAD), strict=True):
        one.finish = replace(FINISH, outcome=Outcome(None, False, cause))
    run = measured(*lives)
    assert (run.num_relegated, run.relegated_p99_s) == (1, 4.5)


def test_bounds_of_waits_are_judged_where_many_wait() -> None:
    one = life(10.0)
    one.notices = [Notice(1.0, 30, 5.0, 9.0), Notice(2.0, 25, 5.0, 7.0), Notice(9.0, 1, 0.1, 0.5)]
    one.notices.append(Notice(3.0, 22, 5.0, math.inf))
    assert measured(one).bound_held == pytest.approx(1 / 2)
    assert math.isnan(measured(life(1.0)).bound_held)
