"""Lengths of answers: learned, conditional on what is generated, and bounded in memory."""

import random
from itertools import pairwise

import pytest

from edged.core.lengths import MAX_KEYS, AnswerLengths, ExpectedLengths
from edged.core.sequence import Sequence
from edged.core.types import ClientId, SeqId, SloTier
from tests.factories import request

ME, OTHER = ClientId("me"), ClientId("other")
TIER = SloTier.STANDARD


def _quantile(lengths: AnswerLengths, part: float, longer_than: int = 0) -> float:
    return lengths.quantile(part, ME, TIER, 100, longer_than)


def test_before_any_answer_quantiles_are_those_of_the_prior() -> None:
    lengths = AnswerLengths()
    assert _quantile(lengths, 0.5) == pytest.approx(128, rel=0.2)
    assert _quantile(lengths, 0.1) < 80
    assert _quantile(lengths, 0.9) > 200


@pytest.mark.parametrize("part", [0.25, 0.5, 0.6, 0.9])
def test_quantiles_come_to_those_that_were_observed(part: float) -> None:
    draw = random.Random(3)
    lengths = AnswerLengths()
    observed = [int(draw.lognormvariate(5.5, 0.8)) + 1 for _ in range(2000)]
    for one in observed:
        lengths.observe(ME, TIER, 100, one)
    recent = sorted(observed[-500:])
    assert _quantile(lengths, part) == pytest.approx(recent[int(part * 500)], rel=0.2)


def test_a_quantile_is_of_those_longer_than_what_is_generated() -> None:
    lengths = AnswerLengths()
    for number in range(400):
        lengths.observe(ME, TIER, 100, 10 if number % 2 else 1000)
    assert _quantile(lengths, 0.4) < 20
    assert _quantile(lengths, 0.4, longer_than=50) == pytest.approx(1000, rel=0.4)


@pytest.mark.parametrize("longer_than", [0, 1, 2, 3, 7, 64, 100, 1000, 4097, 10_000])
def test_an_answer_is_expected_to_be_longer_than_it_is(longer_than: int) -> None:
    lengths = AnswerLengths()
    for _ in range(100):
        lengths.observe(ME, TIER, 100, 30)
    answers = [_quantile(lengths, part / 20, longer_than) for part in range(1, 20)]
    assert answers == sorted(answers)
    assert answers[0] > longer_than


def test_what_is_known_of_others_is_believed_until_a_client_has_answers_of_its_own() -> None:
    lengths = AnswerLengths()
    for _ in range(300):
        lengths.observe(OTHER, TIER, 100, 1000)
    assert _quantile(lengths, 0.5) > 500
    for _ in range(100):
        lengths.observe(ME, TIER, 100, 20)
    assert _quantile(lengths, 0.5) < 40
    assert lengths.quantile(0.5, OTHER, TIER, 100) > 500


def test_prompts_of_another_size_have_answers_of_their_own() -> None:
    lengths = AnswerLengths()
    for _ in range(200):
        lengths.observe(ME, TIER, 100, 20)
        lengths.observe(ME, TIER, 3000, 900)
    assert _quantile(lengths, 0.5) < 40
    assert lengths.quantile(0.5, ME, TIER, 3000) > 500


def test_newer_answers_count_for_more() -> None:
    lengths = AnswerLengths()
    for _ in range(1000):
        lengths.observe(ME, TIER, 100, 1000)
    for _ in range(400):
        lengths.observe(ME, TIER, 100, 20)
    assert _quantile(lengths, 0.5) < 40


def test_keys_are_bounded_and_the_one_unused_for_longest_goes() -> None:
    lengths = AnswerLengths()
    for _ in range(50):
        lengths.observe(ME, TIER, 100, 20)
    for number in range(2 * MAX_KEYS):
        lengths.observe(ClientId(f"client-{number}"), TIER, 100, 1000)
        assert len(lengths) <= MAX_KEYS
    assert len(lengths) == MAX_KEYS
    # Of "me" nothing is left; the tier and all that is wider were used with every answer.
    assert _quantile(lengths, 0.5) > 500


def test_answers_without_tokens_are_counted_as_the_shortest() -> None:
    lengths = AnswerLengths()
    for _ in range(200):
        lengths.observe(ME, TIER, 100, 0)
    assert 1.0 <= _quantile(lengths, 0.5) < 2.0


def test_a_client_that_goes_on_is_remembered_whoever_else_comes() -> None:
    lengths = AnswerLengths()
    for number in range(2 * MAX_KEYS):
        lengths.observe(ClientId(f"client-{number}"), TIER, 100, 1000)
        if number % 40 == 0:
            lengths.observe(ME, TIER, 100, 20)
    assert _quantile(lengths, 0.5) < 40


def test_an_answer_that_outgrew_what_was_expected_is_expected_to_go_on() -> None:
    """At once: who is thought to end with the next token keeps its slot from others."""
    lengths = ExpectedLengths()
    wanted = request("long", max_tokens=2000)
    seq = Sequence(SeqId(0), wanted, max_tokens=2000, stop_token_ids=frozenset())
    lengths.admit(seq)
    left = []
    while seq.num_generated_tokens < 1500:
        seq.token_ids.append(7)
        left.append(lengths.left(seq))
    ends = [place for place, tokens in enumerate(left) if tokens <= 1.0]
    assert all(later - sooner > 8 for sooner, later in pairwise(ends))


def _answers(lengths: ExpectedLengths, number: int, *, said: int, came: int, client: str) -> float:
    """So many answers of a client; what is expected of another one."""
    for place in range(number + 1):
        wanted = request("answer", max_tokens=2000, expected=said, client=client)
        seq = Sequence(SeqId(place), wanted, max_tokens=2000, stop_token_ids=frozenset())
        lengths.admit(seq)
        if place < number:
            seq.token_ids.extend([7] * came)
            lengths.end(seq, by_itself=True)
    return lengths.tokens(seq)


def test_what_a_client_says_is_counted_on_while_its_answers_do_not_outgrow_it() -> None:
    lengths = ExpectedLengths()
    assert _answers(lengths, 0, said=5, came=5, client="honest") == 5.0
    assert _answers(lengths, 50, said=5, came=5, client="honest") == 5.0
    assert _answers(lengths, 50, said=1000, came=5, client="careful") == 1000.0
    assert _answers(lengths, 4, said=1, came=300, client="careless") == 1.0
    assert _answers(lengths, 4, said=1, came=300, client="careless") > 100.0
    assert _answers(lengths, 20, said=300, came=300, client="careless") == 300.0


def test_clients_that_say_too_little_are_bounded() -> None:
    lengths = ExpectedLengths()
    for number in range(2 * MAX_KEYS):
        _answers(lengths, 1, said=1, came=3, client=f"client-{number}")
    assert len(lengths._outgrown) == MAX_KEYS
