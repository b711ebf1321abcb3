"""Moments of sequences: in order, of live ones, and bounded."""

from edged.core.moments import MAX_STALE, Moments
from edged.core.types import SeqId


def test_moments_come_in_order_and_each_once() -> None:
    live = {SeqId(number) for number in range(3)}
    moments = Moments(live)
    for at_s, number in ((3.0, 0), (1.0, 1), (2.0, 2)):
        moments.add(at_s, SeqId(number))
    assert moments.first_s == 1.0
    assert list(moments.due(2.0)) == [1, 2]
    assert list(moments.due(2.0)) == []
    assert moments.first_s == 3.0


def test_moments_of_what_has_ended_go_by_unnoticed() -> None:
    live = {SeqId(1)}
    moments = Moments(live)
    moments.add(1.0, SeqId(1))
    moments.add(1.0, SeqId(2))
    assert list(moments.due(1.0)) == [1]


def test_a_moment_that_is_added_while_others_are_due_is_due_too() -> None:
    moments = Moments({SeqId(1)})
    moments.add(1.0, SeqId(1))
    seen = []
    for seq_id in moments.due(2.0):
        seen.append(seq_id)
        if len(seen) == 1:
            moments.add(2.0, seq_id)
    assert seen == [1, 1]


def test_the_moment_named_last_counts() -> None:
    moments = Moments({SeqId(1)})
    moments.add(1.0, SeqId(1))
    moments.add(3.0, SeqId(1))
    assert list(moments.due(2.0)) == []
    assert list(moments.due(3.0)) == [1]
    moments.add(5.0, SeqId(1))
    moments.add(4.0, SeqId(1))
    assert list(moments.due(4.0)) == [1]
    assert list(moments.due(9.0)) == []


def test_moments_of_one_sequence_that_is_looked_at_often_are_bounded() -> None:
    moments = Moments({SeqId(1)})
    for number in range(3 * MAX_STALE):
        moments.add(float(number), SeqId(1))
        assert len(moments) <= MAX_STALE + 4
    assert list(moments.due(9e9)) == [1]


def test_stale_moments_are_bounded() -> None:
    moments = Moments({SeqId(-1)})
    moments.add(5.0, SeqId(-1))
    for number in range(3 * MAX_STALE):
        moments.add(9.0, SeqId(number))
        assert len(moments) <= MAX_STALE + 4
    assert list(moments.due(5.0)) == [-1]
