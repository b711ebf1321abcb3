"""What became of targets, and the first cause that applies where one was missed."""

from dataclasses import replace

import pytest

from edged.core.metrics import timings
from edged.core.outcome import outcome
from edged.core.sequence import Sequence
from edged.core.types import (
    FinishReason,
    MissCause,
    Outcome,
    PastService,
    SeqId,
    ServiceLevel,
    SloTier,
)
from tests.factories import request

STOP, DEADLINE = FinishReason.STOP, FinishReason.DEADLINE
TARGETS = ServiceLevel(SloTier.STANDARD, ttft_target_s=5.0, tpot_target_s=0.4)
NO_TARGETS = ServiceLevel(SloTier.BATCH)
LATE_START = ServiceLevel(SloTier.STANDARD, ttft_target_s=0.4)
LATE_END = ServiceLevel(SloTier.STANDARD, ttlt_target_s=0.9)
TOO_SLOW = ServiceLevel(SloTier.STANDARD, tpot_target_s=0.1)


def _seq(
    *,
    ttft_s: float | None = 0.5,
    num_tokens: int = 3,
    promised: bool | None = True,
    was_relegated: bool = False,
    fitted: bool = True,
    expected_tokens: float | None = None,
    engine_losses: int = 0,
    service: ServiceLevel = TARGETS,
) -> Sequence:
    wanted = request(
        generated=tuple(range(num_tokens)),
        past=PastService(0.0, ttft_s, ttft_s, num_engine_losses=engine_losses),
    )
    wanted = replace(wanted, service=service)
    seq = Sequence(SeqId(0), wanted, max_tokens=99, stop_token_ids=frozenset())
    seq.promised, seq.was_relegated, seq.fitted = promised, was_relegated, fitted
    seq.expected_tokens = expected_tokens
    return seq


def _outcome(seq: Sequence, reason: FinishReason = STOP, now_s: float = 1.0) -> Outcome | None:
    return outcome(seq, reason, timings(seq, now_s))


def _cause(seq: Sequence, reason: FinishReason = STOP, now_s: float = 1.0) -> MissCause | None:
    came_of_it = _outcome(seq, reason, now_s)
    assert came_of_it is not None
    assert not came_of_it.held
    return came_of_it.miss_cause


@pytest.mark.parametrize("promised", [True, False, None])
def test_targets_that_were_met_were_held_promised_or_not(promised: bool | None) -> None:
    assert _outcome(_seq(promised=promised)) == Outcome(promised, True, None)


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.ERROR])
def test_nothing_is_said_of_what_was_cancelled_or_failed(reason: FinishReason) -> None:
    assert _outcome(_seq(ttft_s=100.0), reason) is None


def test_nothing_is_said_of_a_request_without_targets() -> None:
    assert _outcome(_seq(service=NO_TARGETS)) is None


@pytest.mark.parametrize("reason", [DEADLINE, FinishReason.QUEUE_TIMEOUT])
def test_who_ran_out_of_time_missed_its_targets_though_none_was_measured(
    reason: FinishReason,
) -> None:
    assert _cause(_seq(ttft_s=None, num_tokens=0), reason) is MissCause.ESTIMATE


@pytest.mark.parametrize("service", [LATE_START, LATE_END, TOO_SLOW])
def test_each_target_counts(service: ServiceLevel) -> None:
    seq = _seq(service=service)
    seq.last_token_s = 0.9
    assert _cause(seq) is MissCause.ESTIMATE


def test_an_answer_that_came_after_its_deadline_was_not_in_time() -> None:
    seq = _seq(service=NO_TARGETS)
    seq.request = replace(seq.request, deadline_s=2.0)
    assert _outcome(seq, now_s=2.0) == Outcome(True, True, None)
    assert _cause(seq, now_s=2.1) is MissCause.ESTIMATE


def test_a_lost_engine_is_the_cause_whatever_else_went_wrong() -> None:
    seq = _seq(ttft_s=9.0, engine_losses=1, promised=False, was_relegated=True)
    assert _cause(seq) is MissCause.ENGINE_LOST


def test_who_was_not_promised_came_to_an_overload_or_gave_way_later() -> None:
    assert _cause(_seq(ttft_s=9.0, promised=False)) is MissCause.OVERLOAD
    assert _cause(_seq(ttft_s=9.0, promised=None)) is MissCause.OVERLOAD
    gave_way = {"ttft_s": 9.0, "promised": False, "was_relegated": True}
    assert _cause(_seq(**gave_way)) is MissCause.RELEGATED
    assert _cause(_seq(**gave_way, fitted=False)) is MissCause.OVERLOAD


def test_targets_that_no_engine_could_hold_were_missed_for_that() -> None:
    seq = _seq(ttft_s=9.0, promised=False, was_relegated=True)
    seq.is_attainable = False
    assert _cause(seq) is MissCause.TARGETS


def test_a_promise_is_broken_by_a_wrong_estimate_alone() -> None:
    assert _cause(_seq(ttft_s=9.0, was_relegated=True)) is MissCause.ESTIMATE


def test_an_answer_longer_than_expected_is_the_cause_where_its_first_token_came_in_time() -> None:
    for service, expected_tokens, cause in (
        (LATE_END, 2.0, MissCause.ANSWER_LENGTH),
        (LATE_END, 3.0, MissCause.ESTIMATE),
        (LATE_START, 2.0, MissCause.ESTIMATE),
    ):
        assert _cause(_seq(expected_tokens=expected_tokens, service=service)) is cause
