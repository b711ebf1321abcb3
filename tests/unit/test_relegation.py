"""The line of those relegated: first in, first out, and never later than what was said."""

import random
from math import inf

import pytest

from edged.core.plan import Chunk, StepPlan
from edged.core.relegation import Line
from edged.core.sequence import Sequence
from edged.core.types import SeqId, SlotId
from tests.factories import request

SHARE = 0.05


def _seq(number: int) -> Sequence:
    return Sequence(SeqId(number), request(f"r{number}"), max_tokens=4, stop_token_ids=frozenset())


def _served(line: Line, now_s: float, left_s: float = inf) -> Sequence | None:
    line.save(now_s)
    seq = line.next(lambda _: left_s)
    if seq is not None:
        line.call(seq.seq_id, left_s)
    return seq


def test_a_turn_comes_when_the_share_has_saved_what_it_costs() -> None:
    line = Line(SHARE)
    seq = _seq(0)
    line.join(seq, 1.0, 100.0)
    assert line.turn_s(seq.seq_id) == pytest.approx(100.0 + 1.0 / SHARE)
    assert _served(line, 119.9) is None
    assert seq.seq_id in line
    assert _served(line, 120.1) is seq
    assert seq.seq_id not in line
    assert line.has_turn(seq.seq_id)


def test_what_is_computed_already_need_not_be_saved() -> None:
    line = Line(SHARE)
    seq = _seq(0)
    line.join(seq, 1.0, 0.0)
    assert _served(line, 10.1, left_s=0.5) is seq


def test_whoever_is_in_the_line_longest_goes_first() -> None:
    line = Line(SHARE)
    seqs = [_seq(number) for number in range(4)]
    for seq in seqs:
        line.join(seq, 0.1, 0.0)
    line.leave(seqs[1].seq_id)
    turns = [_served(line, 100.0 + step) for step in range(4)]
    assert turns == [seqs[0], seqs[2], seqs[3], None]


def test_joining_twice_is_joining_once() -> None:
    line = Line(SHARE)
    first, second = _seq(0), _seq(1)
    line.join(first, 1.0, 0.0)
    line.join(second, 1.0, 0.0)
    line.join(first, 1.0, 30.0)
    assert line.turn_s(first.seq_id) == pytest.approx(20.0)
    assert _served(line, 20.1) is first
    line.join(first, 1.0, 21.0)
    assert first.seq_id not in line


def test_nothing_is_saved_while_nobody_is_in_the_line() -> None:
    line = Line(SHARE)
    first, second = _seq(0), _seq(1)
    line.join(first, 1.0, 0.0)
    line.leave(first.seq_id)
    line.join(second, 1.0, 1000.0)
    assert _served(line, 1019.0) is None
    assert line.turn_s(first.seq_id) is None


def test_without_a_share_no_turn_is_named() -> None:
    line = Line(0.0)
    seq = _seq(0)
    line.join(seq, 1.0, 0.0)
    assert line.turn_s(seq.seq_id) == inf
    assert _served(line, 1e9) is None


@pytest.mark.parametrize("seed", range(20))
def test_nobodys_turn_is_later_than_was_said(seed: int) -> None:
    draw = random.Random(seed)
    line = Line(SHARE)
    work_s: dict[SeqId, float] = {}
    said_s: dict[SeqId, float] = {}
    step_s, now_s = 0.2, 0.0
    num_turns = 0
    for number in range(3000):
        now_s += step_s
        if number < 2000 and draw.random() < 0.02:
            seq = _seq(number)
            work_s[seq.seq_id] = draw.uniform(0.01, 1.0)
            line.join(seq, work_s[seq.seq_id], now_s)
            turn_s = line.turn_s(seq.seq_id)
            assert turn_s is not None
            said_s[seq.seq_id] = turn_s
        if said_s and draw.random() < 0.003:
            line.leave(draw.choice(list(said_s)))
        if said_s and draw.random() < 0.02:
            away = draw.choice(list(said_s))
            if away in line:
                line.excuse(away)
                del said_s[away]
        line.save(now_s)
        turn = line.next(lambda seq: work_s[seq.seq_id])
        if turn is not None:
            line.call(turn.seq_id, work_s[turn.seq_id])
            num_turns += 1
            assert now_s <= said_s[turn.seq_id] + step_s + 1e-9
    assert num_turns > 5


def test_who_is_excused_keeps_its_place_and_its_savings() -> None:
    line = Line(SHARE)
    first, second = _seq(0), _seq(1)
    for seq in (first, second):
        line.join(seq, 1.0, 0.0)
    line.excuse(first.seq_id)
    assert first.seq_id not in line
    assert line.turn_s(first.seq_id) is None
    assert _served(line, 39.9) is None, "the share of the first is kept for it"
    assert _served(line, 40.1) is second
    line.join(first, 1.0, 50.0)
    assert line.turn_s(first.seq_id) == pytest.approx(20.0)
    assert _served(line, 50.2) is first


def test_no_more_is_saved_than_those_in_the_line_can_spend() -> None:
    line = Line(SHARE)
    line.join(_seq(0), 1.0, 0.0)
    line.excuse(SeqId(0))
    assert _served(line, 1e6) is None
    line.join(_seq(1), 3.0, 1e6)
    assert line.turn_s(SeqId(1)) == pytest.approx(1e6 + 3.0 / SHARE)


def test_savings_of_a_line_that_is_empty_count_for_nobody() -> None:
    line = Line(SHARE)
    line.join(_seq(0), 1.0, 0.0)
    line.save(19.0)
    line.leave(SeqId(0))
    assert line.wait_s(1.0) == pytest.approx(1.0 / SHARE)
    line.join(_seq(1), 1.0, 20.0)
    assert line.turn_s(SeqId(1)) == pytest.approx(20.0 + 1.0 / SHARE)


def test_what_they_get_anyway_is_not_saved_for_them() -> None:
    line = Line(SHARE)
    seq = _seq(0)
    line.join(seq, 1.0, 0.0)
    line.save(10.0, served_s=0.5)
    line.save(29.9)
    assert line.next(lambda _: inf) is None
    line.save(30.1)
    assert line.next(lambda _: inf) is seq


def test_the_part_of_a_step_that_is_theirs_is_told_by_its_tokens() -> None:
    line = Line(SHARE)
    chunks = tuple(Chunk(SeqId(n), SlotId(n), 0, (1,) * (n + 1), None) for n in range(3))
    plan = StepPlan(0, (), (), (), (), chunks)
    assert line.part(plan) == 0.0
    line.join(_seq(2), 1.0, 0.0)
    assert line.part(plan) == pytest.approx(3 / 6)
    assert line.part(plan._replace(chunks=())) == 0.0


def test_a_turn_that_has_to_wait_is_asked_for_again_when_it_could_be_done() -> None:
    for work_s, again_s in ((1.0, 1.0), (0.001, 0.5)):
        line = Line(SHARE)
        seq = _seq(0)
        line.join(seq, work_s, 0.0)
        line.save(100.0)
        assert line.next(lambda _: inf) is seq
        line.postpone(work_s)
        line.save(100.0 + again_s - 0.01)
        assert line.next(lambda _: inf) is None
        line.save(100.0 + again_s)
        assert line.next(lambda _: inf) is seq
