"""How often, how long, and in which order daemons are asked again."""

import random

import pytest

from edged.client.errors import CLASSES, ClientError
from edged.client.retry import LOST_THERE, REMEDIES, Attempts, Remedy, RetryPolicy, most_telling
from edged.errors import Reason

POLICY = RetryPolicy(max_attempts=3, max_wait_s=30.0, first_backoff_s=1.0, max_backoff_s=4.0)


def error(reason: Reason, retry_after_s: float | None = None, daemon: str = "") -> ClientError:
    made = CLASSES[reason](reason, "a sentence", retry_after_s=retry_after_s)
    made.daemon = daemon
    return made


def attempts(*places: str, policy: RetryPolicy = POLICY, started_s: float = 100.0) -> Attempts[str]:
    return Attempts(places, policy, started_s, random.Random(1))


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Reason)


def test_whoever_takes_over_could_have_been_asked_first() -> None:
    assert all(REMEDIES[reason] is not Remedy.NONE for reason in LOST_THERE)


def test_all_are_due_in_their_order() -> None:
    assert attempts("a", "b").due(100.0) == ["a", "b"]


def test_what_nothing_can_follow_is_raised() -> None:
    with pytest.raises(ClientError) as raised:
        attempts("a", "b").failed("a", error(Reason.TOKEN_INVALID), 100.0)
    assert raised.value.reason is Reason.TOKEN_INVALID


def test_a_daemon_that_cannot_do_it_is_not_asked_again() -> None:
    tried = attempts("a")
    tried.failed("a", error(Reason.UNKNOWN_MODEL), 100.0)
    assert tried.due(1000.0) == []
    assert tried.wait_s(100.0) is None


def test_the_time_that_a_daemon_names_is_never_cut_short() -> None:
    for seed in range(100):
        tried = Attempts(["a"], POLICY, 100.0, random.Random(seed))
        tried.failed("a", error(Reason.QUEUE_FULL, 8.0), 101.0)
        wait_s = tried.wait_s(101.0)
        assert wait_s is not None
        assert 8.0 <= wait_s <= 10.0
        assert tried.due(101.0 + wait_s) == ["a"]


def test_of_two_times_the_shorter_is_waited_for_and_the_longer_kept() -> None:
    tried = attempts("a", "b")
    tried.failed("a", error(Reason.QUEUE_FULL, 20.0), 100.0)
    tried.failed("b", error(Reason.QUEUE_FULL, 2.0), 100.0)
    wait_s = tried.wait_s(100.0)
    assert wait_s is not None
    assert 2.0 <= wait_s <= 2.5
    assert tried.due(100.0 + wait_s) == ["b"]


def test_without_a_time_the_wait_doubles_up_to_its_limit() -> None:
    patient = RetryPolicy(max_attempts=2000, max_wait_s=1e9, first_backoff_s=1.0, max_backoff_s=4.0)
    tried, now_s, waits = attempts("a", policy=patient), 100.0, []
    for _ in range(1999):
        tried.failed("a", error(Reason.DRAINING), now_s)
        wait_s = tried.wait_s(now_s)
        assert wait_s is not None
        waits.append(wait_s)
        now_s += wait_s
    bounds = [1.0, 2.0, *[4.0] * 1997]
    assert all(
        bound / 2 <= wait_s <= bound + 1e-6 for wait_s, bound in zip(waits, bounds, strict=True)
    )


def test_a_daemon_is_asked_as_often_as_allowed_and_no_more() -> None:
    tried, now_s = attempts("a"), 100.0
    for _ in range(POLICY.max_attempts - 1):
        tried.failed("a", error(Reason.DRAINING), now_s)
        now_s += tried.wait_s(now_s) or 0.0
        assert tried.due(now_s) == ["a"]
    tried.failed("a", error(Reason.DRAINING), now_s)
    assert tried.wait_s(now_s) is None


def test_no_attempt_begins_after_the_longest_wait() -> None:
    tried = attempts("a")
    tried.failed("a", error(Reason.QUEUE_FULL, 1.0), 129.5)
    assert tried.wait_s(129.5) is None


def test_daemons_that_are_added_are_due_at_once() -> None:
    tried = attempts("a")
    tried.failed("a", error(Reason.DRAINING), 100.0)
    tried.add(["b"], 100.0)
    assert tried.due(100.0) == ["b"]


def test_the_error_of_who_can_be_asked_soonest_tells_most() -> None:
    errors = [
        error(Reason.UNREACHABLE, daemon="a"),
        error(Reason.QUEUE_FULL, 9.0, daemon="b"),
        error(Reason.QUEUE_FULL, 2.0, daemon="c"),
    ]
    told = most_telling(errors)
    assert told is errors[2]
    assert told.__notes__ == ["a: a sentence", "b: a sentence"]


def test_else_the_first_error_tells_most() -> None:
    errors = [error(Reason.UNREACHABLE, daemon="a"), error(Reason.UNKNOWN_MODEL, daemon="b")]
    assert most_telling(errors) is errors[0]


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"max_wait_s": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # one of them
