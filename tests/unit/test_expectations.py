"""Those who wait are told when: at halves of what is left, seldom, and a few at a time."""

from math import inf

import pytest

from edged.core.expectations import LEAST_NOTICE_S, MOST_NOTICES
from edged.core.scheduler import Scheduler
from edged.core.types import Admitted, FinishReason, QueueEvent, RequestId, SloTier
from tests.factories import request, scheduler, tiers

JOB = SloTier.BATCH


def _told(core: Scheduler, now_s: float) -> list[QueueEvent]:
    return [event for event in core.tick(now_s) if isinstance(event, QueueEvent)]


def _submit(core: Scheduler, name: str, *, prompt: int = 8) -> Admitted:
    answer = core.submit(request(name, tier=JOB, prompt=prompt), 0.0)
    assert isinstance(answer, Admitted)
    return answer


@pytest.mark.parametrize("policy", ["slo", "strict"])
def test_notices_come_when_half_of_what_was_expected_has_passed(policy: str) -> None:
    core = scheduler(policy=policy, num_cells=100_000)
    eta_s = _submit(core, "waits", prompt=50_000).predicted_ttft_s
    assert eta_s > 20.0
    now_s = 0.0
    for _ in range(4):
        next_s = now_s + eta_s / 2
        assert not _told(core, next_s - 0.01)
        (event,) = _told(core, next_s + 0.001)
        assert (event.request_id, event.position) == ("waits", 0)
        now_s, eta_s = next_s + 0.001, event.eta_s


def test_notices_are_no_closer_than_the_least_time() -> None:
    core = scheduler()
    assert _submit(core, "waits").predicted_ttft_s < LEAST_NOTICE_S
    for number in range(1, 9):
        assert not _told(core, number * LEAST_NOTICE_S - 0.001)
        assert len(_told(core, number * LEAST_NOTICE_S)) == 1


def test_a_long_wait_makes_few_notices_however_short_it_was_expected_to_be() -> None:
    core = scheduler(tiers=tiers(max_queue_s=None))
    _submit(core, "waits")
    assert 30 < sum(len(_told(core, 0.5 * number)) for number in range(7200)) < 60


def test_who_was_promised_nothing_is_told_its_turn_at_the_latest() -> None:
    """Were it relegated now: on time still, then late."""
    core = scheduler(policy="slo", num_slots=1, num_cells=100_000, relegated_share=0.01)
    core.submit(request("holds", tier=SloTier.INTERACTIVE, prompt=9000, max_tokens=None), 0.0)
    core.submit(request("waits", tier=SloTier.INTERACTIVE, prompt=500), 0.0)
    work_s = core.cost.prefill_cost_s(0, 500)
    told = [event for step in range(40) for event in _told(core, 0.1 * step)]
    bounds_s = [event.eta_bound_s for event in told if event.request_id == "waits"]
    assert len(bounds_s) >= 2
    assert all(100 * work_s <= bound_s < inf for bound_s in bounds_s)


def test_who_left_the_queue_is_told_no_more() -> None:
    core = scheduler(num_slots=1)
    for name in ("first", "second"):
        _submit(core, name)
    core.cancel(RequestId("first"), FinishReason.CANCELLED, 0.0)
    assert [event.request_id for event in _told(core, 1e4)] == ["second"]


def test_a_crowd_is_told_a_few_at_a_time_and_each_in_the_end() -> None:
    core = scheduler(num_slots=1)
    for number in range(5 * MOST_NOTICES):
        _submit(core, f"r{number}")
    told: list[RequestId] = []
    for _ in range(5):
        events = _told(core, 1e4)
        assert len(events) == MOST_NOTICES
        told += [event.request_id for event in events]
    assert len(set(told)) == 5 * MOST_NOTICES
    assert not _told(core, 1e4)
