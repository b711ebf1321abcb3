"""Who is blamed for a lost engine."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edged.core.types import RequestId
from edged.supervise.blame import NOBODY, Trials, Verdict, judge

A, B, C = RequestId("a"), RequestId("b"), RequestId("c")
IDS = st.sampled_from([RequestId(name) for name in "abcdef"])
SETS = st.frozensets(IDS)


def verdict(
    num_blames: Mapping[RequestId, int],
    executing: frozenset[RequestId] = frozenset(),
    unanswered: frozenset[RequestId] = frozenset(),
    *,
    has_questions: bool = False,
    is_blamable: bool = True,
) -> Verdict:
    return judge(
        num_blames,
        executing=executing,
        unanswered=unanswered,
        has_questions=has_questions,
        is_blamable=is_blamable,
    )


def test_requests_in_the_step_are_suspects() -> None:
    assert verdict({A: 0, B: 0, C: 0}, frozenset({A, B})) == Verdict(frozenset({A, B}), None)


def test_request_whose_text_was_being_read_is_a_suspect() -> None:
    blamed = verdict({A: 0, B: 0, C: 0}, frozenset({A}), frozenset({B}))
    assert blamed == Verdict(frozenset({A, B}), None)


def test_crash_between_steps_makes_everyone_on_the_engine_a_suspect() -> None:
    assert verdict({A: 0, B: 0}) == Verdict(frozenset({A, B}), None)


def test_only_suspect_is_convicted_when_it_was_blamed_before() -> None:
    assert verdict({A: 1, B: 0}, frozenset({A})) == Verdict(frozenset(), A)


def test_suspect_beside_others_is_not_convicted_however_often_it_was_blamed() -> None:
    assert verdict({A: 7, B: 0}, frozenset({A, B})).convicted is None


def test_nobody_is_convicted_while_other_texts_were_tokenized() -> None:
    blamed = verdict({A: 1, B: 0}, frozenset({A}), has_questions=True)
    assert blamed == Verdict(frozenset({A}), None)


def test_loss_of_an_idle_engine_blames_nobody() -> None:
    assert verdict({}, frozenset({A})) == NOBODY


@given(st.dictionaries(IDS, st.integers(0, 3)), SETS, SETS, st.booleans())
def test_verdict_is_just(
    num_blames: dict[RequestId, int],
    executing: frozenset[RequestId],
    unanswered: frozenset[RequestId],
    is_blamable: bool,
) -> None:
    given_verdict = verdict(num_blames, executing, unanswered, is_blamable=is_blamable)
    assert given_verdict.suspects <= num_blames.keys()
    if not is_blamable:
        assert given_verdict == NOBODY
    if num_blames and is_blamable:
        assert given_verdict.suspects or given_verdict.convicted, "a crash has suspects"
    convicted = given_verdict.convicted
    if convicted is not None:
        assert given_verdict.suspects == frozenset()
        assert num_blames[convicted] > 0
        assert (executing | unanswered) & num_blames.keys() <= {convicted}


def state(trials: Trials) -> tuple[RequestId | None, RequestId]:
    return trials.tried, trials.first


def test_suspects_are_tried_one_after_the_other_until_two_tokens_came() -> None:
    trials = Trials()
    trials.summon([A, B])
    assert trials.first == A
    trials.begin()
    trials.deliver(A, 1)
    trials.deliver(B, 5)
    assert list(state(trials)) == [A, A]
    trials.deliver(A, 1)
    assert list(state(trials)) == [None, B]
    trials.begin()
    trials.deliver(B, 2)
    assert trials.are_over


def test_trial_that_an_unrelated_loss_interrupts_begins_anew() -> None:
    trials = Trials()
    trials.summon([A])
    trials.begin()
    trials.deliver(A, 1)
    trials.interrupt()
    trials.begin()
    trials.deliver(A, 1)
    assert trials.tried == A


def test_suspect_that_ends_is_tried_no_more() -> None:
    trials = Trials()
    trials.summon([A, B])
    trials.summon([B, C])
    trials.begin()
    trials.dismiss(A)
    assert (trials.tried, trials.first) == (None, B)
    trials.dismiss(C)
    trials.dismiss(B)
    assert trials.are_over
