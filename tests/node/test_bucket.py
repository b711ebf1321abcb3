"""A rate is never exceeded, and who waits as told gets in."""

from hypothesis import example, given
from hypothesis import strategies as st

from edged.node.trust.bucket import MAX_BURST, RateBucket

RATES = st.floats(min_value=0.01, max_value=1e6)
GAPS_S = st.lists(st.floats(min_value=0.0, max_value=100.0), max_size=200)


@given(per_minute=RATES, gaps_s=GAPS_S, start_s=st.floats(min_value=0.0, max_value=1e6))
def test_no_span_has_more_than_the_rate_and_one_burst(
    per_minute: float, gaps_s: list[float], start_s: float
) -> None:
    bucket, now_s = RateBucket(per_minute, start_s), start_s
    taken_s: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        if bucket.take(now_s) is None:
            taken_s.append(now_s)
    burst = max(1.0, min(per_minute, MAX_BURST))
    for first, begin_s in enumerate(taken_s):
        for number, end_s in enumerate(taken_s[first:], 1):
            assert number <= burst + (end_s - begin_s) * per_minute / 60 + 1e-6 * number + 1e-3


@given(per_minute=RATES, gaps_s=GAPS_S)
@example(per_minute=0.34375, gaps_s=[0.0, 0.0])
def test_who_waits_as_long_as_told_gets_in(per_minute: float, gaps_s: list[float]) -> None:
    bucket, now_s = RateBucket(per_minute, 0.0), 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        wait_s = bucket.take(now_s)
        if wait_s is not None:
            assert 0 < wait_s <= 60 / per_minute * (1 + 1e-12), "but for a rounding error"
            now_s += wait_s
            assert bucket.take(now_s) is None


def test_a_burst_is_a_minutes_worth_and_at_most_sixty() -> None:
    for per_minute, burst in ((0.5, 1), (10.0, 10), (6000.0, 60)):
        bucket = RateBucket(per_minute, 0.0)
        assert sum(bucket.take(0.0) is None for _ in range(100)) == burst
        assert bucket.take(60.0 / per_minute) is None
        assert bucket.take(60.0 / per_minute) is not None
