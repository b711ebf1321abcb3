"""What cannot be promised is refused, if that is wanted, with a reason and a time to try again."""

from dataclasses import replace

import pytest

from edged.core.scheduler import Scheduler
from edged.core.types import (
    Admitted,
    FinishReason,
    OnUnattainable,
    Rejected,
    RejectReason,
    Request,
    RequestId,
    SloTier,
)
from tests.factories import request, scheduler

CHAT, STANDARD, JOB = SloTier


def _refusal(core: Scheduler, wanted: Request, now_s: float = 0.0) -> Rejected:
    """It is refused, and that leaves no trace."""
    before = core.statistics(), len(core.expiries), core.sequences()
    wanted = replace(wanted, on_unattainable=OnUnattainable.REJECT)
    answer = core.submit(wanted, now_s)
    assert isinstance(answer, Rejected)
    assert answer.reason is RejectReason.UNATTAINABLE
    assert (core.statistics(), len(core.expiries), core.sequences()) == before
    return answer


def test_what_even_an_idle_engine_could_not_hold_is_not_to_be_tried_again() -> None:
    core = scheduler(policy="slo", num_cells=4096)
    for hopeless in (
        request("hopeless", prompt=2000, ttft_target_s=0.05),
        request("hopeless", prompt=1, ttft_target_s=0.001),
        request("hopeless", ttlt_target_s=0.5, expected=500, max_tokens=500),
    ):
        answer = _refusal(core, hopeless)
        assert "even an idle engine" in answer.detail
        assert answer.retry_after_s is None


def test_a_refusal_for_work_in_front_says_when_that_is_done() -> None:
    core = scheduler(policy="slo", num_cells=100_000)
    core.submit(request("large", tier=CHAT, prompt=5000, ttft_target_s=9.0), 0.0)
    answer = _refusal(core, request("small", tier=CHAT, prompt=1000, ttft_target_s=9.5))
    assert "first token is due in 9.5 s" in answer.detail
    assert answer.retry_after_s is not None
    assert answer.retry_after_s >= 1.0


def test_a_refusal_for_want_of_a_slot_says_when_one_can_be_counted_on() -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=4096)
    core.submit(request("long", tier=CHAT, prompt=20, max_tokens=1000, expected=1000), 0.0)
    answer = _refusal(core, request("chat", tier=CHAT, prompt=20))
    assert "slots and cells can be counted on in" in answer.detail
    assert answer.retry_after_s is not None
    assert answer.retry_after_s > 5.0


def test_a_refusal_for_want_of_cells_is_one_for_want_of_room() -> None:
    core = scheduler(policy="slo", num_slots=4, num_cells=1000)
    core.submit(request("long", tier=CHAT, prompt=20, max_tokens=900, expected=900), 0.0)
    assert "slots and cells" in _refusal(core, request("chat", prompt=100, max_tokens=100)).detail


def test_no_more_paces_are_promised_than_a_step_can_hold() -> None:
    core = scheduler(policy="slo", num_slots=16, num_cells=100_000)
    step_s = core.cost.base_s + 4 * core.cost.decode_cost_s(100)
    wanted = {"tier": SloTier.STANDARD, "tpot_target_s": step_s / 0.7, "prompt": 20}
    for number in range(4):
        answer = core.submit(request(f"r{number}", max_tokens=80, expected=80, **wanted), 0.0)
        assert isinstance(answer, Admitted)
        assert answer.promised
    answer = _refusal(core, request("r4", max_tokens=80, expected=80, **wanted))
    assert "TPOT" in answer.detail
    assert answer.retry_after_s is not None
    core.cancel(RequestId("r0"), FinishReason.CANCELLED, 0.0)
    admitted = core.submit(request("r4", max_tokens=80, expected=80, **wanted), 0.0)
    assert isinstance(admitted, Admitted)
    assert admitted.promised


def test_a_pace_that_no_idle_engine_holds_is_not_to_be_tried_again() -> None:
    core = scheduler(policy="slo", num_cells=4096)
    for tpot_s in (core.cost.base_s / 2, core.cost.base_s):
        answer = _refusal(core, request("chat", tier=STANDARD, tpot_target_s=tpot_s))
        assert "even an idle engine" in answer.detail
        assert answer.retry_after_s is None


def test_a_target_that_leaves_no_time_for_the_step_an_arrival_comes_upon_is_never_held() -> None:
    core = scheduler(policy="slo", num_cells=4096)
    first_s = core.cost.base_s + core.cost.prefill_cost_s(0, 100)
    answer = _refusal(core, request("chat", prompt=100, ttft_target_s=first_s + core.cost.base_s))
    assert "even an idle engine" in answer.detail
    assert answer.retry_after_s is None


@pytest.mark.parametrize("policy", ["fcfs", "strict", "edf", "hybrid"])
def test_a_policy_without_promises_refuses_whoever_is_content_with_nothing_less(
    policy: str,
) -> None:
    core = scheduler(policy=policy, num_cells=4096)
    answer = _refusal(core, request("chat", ttft_target_s=5.0))
    assert answer.detail == "no targets are promised here: only the scheduling policy slo does"
    assert answer.retry_after_s is None
    bare = replace(request("bare", tier=JOB), on_unattainable=OnUnattainable.REJECT)
    assert isinstance(core.submit(bare, 0.0), Admitted)
