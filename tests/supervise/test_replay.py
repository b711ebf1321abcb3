"""What the daemon remembers of a request, and the submission it makes of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.core.types import PastService
from edged.engine.wire import Delta, TextPrompt, TokensPrompt
from edged.supervise.exits import EngineGarbageError
from edged.supervise.replay import Replay
from tests.supervise.harness import submission

REQUEST = submission("r", "the prompt", deadline_in_s=9.0)
ID = REQUEST.request_id
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=12)


def delta(index: int, *token_ids: int, at_s: float = 1.0) -> Delta:
    return Delta(ID, index, token_ids, "", (), at_s)


def test_request_that_no_engine_admitted_is_submitted_as_it_came() -> None:
    submit = Replay(REQUEST).submit()
    assert submit.prompt == TextPrompt("the prompt")
    assert submit.generated_token_ids == ()
    assert submit.past == PastService()
    for name in ("request_id", "client_id", "sampling", "service", "stop", "arrival_s"):
        assert getattr(submit, name) == getattr(REQUEST, name)
    assert submit.deadline_s == REQUEST.deadline_s


def test_replay_has_the_prompt_as_ids_and_the_past() -> None:
    replay = Replay(REQUEST)
    replay.admit((5, 6, 7))
    replay.schedule(2.0)
    replay.preempt()
    replay.take(delta(0, 11, 12, at_s=3.0))
    replay.take(delta(2, 13, at_s=4.0))
    replay.lose_engine()
    submit = replay.submit()
    assert submit.prompt == TokensPrompt((5, 6, 7))
    assert submit.generated_token_ids == (11, 12, 13)
    assert submit.past == PastService(2.0, 3.0, 4.0, 1, 1)
    assert (replay.num_prompt_tokens, replay.num_generated_tokens) == (3, 3)


def test_first_engine_decides_what_the_prompt_is() -> None:
    replay = Replay(REQUEST)
    replay.admit((5,))
    replay.admit((6,))
    assert replay.submit().prompt == TokensPrompt((5,))


def test_text_of_the_prompt_is_not_kept_beside_its_ids() -> None:
    replay = Replay(REQUEST)
    replay.admit((5,))
    assert replay.submission == replace(REQUEST, prompt=TokensPrompt(()))


def test_request_that_was_never_seen_in_a_step_was_scheduled_by_its_first_token() -> None:
    replay = Replay(REQUEST)
    replay.take(delta(0, 1, at_s=3.0))
    replay.schedule(9.0)
    assert replay.past.first_scheduled_s == 3.0


@pytest.mark.parametrize(
    "bad", [delta(3, 1), delta(1, 8, 9), delta(2, -1), delta(2, 2**32), delta(0), delta(3)]
)
def test_gap_partial_overlap_or_nonsense_is_garbage_and_is_not_remembered(bad: Delta) -> None:
    replay = Replay(REQUEST)
    replay.take(delta(0, 4, 5))
    with pytest.raises(EngineGarbageError):
        replay.take(bad)
    assert replay.submit().generated_token_ids == (4, 5)


@given(TOKENS, st.data())
def test_any_delivery_with_duplicates_gives_every_token_once(
    tokens: list[int], data: st.DataObject
) -> None:
    replay = Replay(REQUEST)
    taken: list[int] = []
    while len(taken) < len(tokens):
        has_duplicate: bool = data.draw(st.booleans(), label="has a duplicate")
        if taken and has_duplicate:
            begin = data.draw(st.integers(0, len(taken) - 1))
            stop = data.draw(st.integers(begin + 1, len(taken)))
            assert not replay.take(delta(begin, *tokens[begin:stop]))
        end = data.draw(st.integers(len(taken) + 1, len(tokens)))
        assert replay.take(delta(len(taken), *tokens[len(taken) : end]))
        taken = tokens[:end]
    assert replay.submit().generated_token_ids == tuple(tokens)
