"""What the scheduler keeps of requests that have ended: nothing that grows."""

from edged.core.moments import MAX_STALE
from edged.core.plan import StepResult
from edged.core.types import (
    Admitted,
    FinishEvent,
    FinishReason,
    RequestId,
    SampledToken,
    SeqId,
    SloTier,
)
from tests.factories import request, scheduler


def test_expiries_of_requests_that_ended_are_forgotten() -> None:
    core = scheduler()
    a_day_s = 24 * 3600.0
    for number in range(3 * MAX_STALE):
        name = f"r{number}"
        wanted = request(name, tier=SloTier.STANDARD, deadline_s=a_day_s)
        assert isinstance(core.submit(wanted, 0.0), Admitted)
        core.cancel(RequestId(name), FinishReason.CANCELLED, 0.0)
        assert len(core.expiries) <= MAX_STALE + 4


def test_expiries_of_live_requests_are_kept() -> None:
    core = scheduler()
    assert isinstance(core.submit(request("live", deadline_s=5.0), 0.0), Admitted)
    for number in range(2 * MAX_STALE):
        name = f"r{number}"
        core.submit(request(name, deadline_s=9.0), 0.0)
        core.cancel(RequestId(name), FinishReason.CANCELLED, 0.0)
    (ended,) = core.tick(5.0)
    assert (ended.request_id, ended.reason) == ("live", FinishReason.DEADLINE)  # type: ignore[union-attr]  # a finish


def test_a_request_that_got_its_slot_in_time_ends_at_its_deadline_all_the_same() -> None:
    core = scheduler(num_cells=4096)
    wanted = request("r", tier=SloTier.STANDARD, deadline_s=500.0, max_tokens=None)
    assert isinstance(core.submit(wanted, 0.0), Admitted)
    core._sequences[wanted.request_id].first_scheduled_s = 100.0
    assert core.tick(499.0) == []
    (ended,) = core.tick(500.0)
    assert ended.reason is FinishReason.DEADLINE  # type: ignore[union-attr]  # a finish


def test_a_request_that_waits_too_long_for_its_first_step_is_ended() -> None:
    core = scheduler(num_slots=1)
    assert isinstance(core.submit(request("waits", tier=SloTier.STANDARD), 0.0), Admitted)
    at_s = core.next_wakeup_s()
    assert at_s is not None
    assert not any(isinstance(event, FinishEvent) for event in core.tick(at_s - 0.001))
    (ended,) = core.tick(at_s)
    assert ended.reason is FinishReason.QUEUE_TIMEOUT  # type: ignore[union-attr]  # a finish
    assert "waited longer than the standard tier allows" in ended.detail  # type: ignore[union-attr]


def test_a_step_that_is_fitted_to_cost_nothing_can_be_planned() -> None:
    """Two tiers are owed a share, nothing runs, and the slot goes to the first of them."""
    core = scheduler(policy="slo", num_slots=1)
    without_targets = {"ttft_target_s": None, "tpot_target_s": None}
    for tier in SloTier:
        core.submit(request(tier, tier=tier, prompt=4, max_tokens=200, **without_targets), 0.0)
    now_s = 0.0
    for _ in range(150):
        plan = core.plan(now_s)
        assert plan is not None
        sampled = {chunk.seq_id: SampledToken(1) for chunk in plan.chunks if chunk.sampling}
        nothing = frozenset[SeqId]()
        result = StepResult(plan.step, sampled, {}, nothing, nothing, now_s, now_s + 0.1, 0.1)
        now_s += 0.1
        core.commit(plan, result, now_s)
    assert core.owed == {SloTier.STANDARD, SloTier.BATCH}
    core.cost._weights[:] = [0.0] * len(core.cost._weights)
    core.cancel(RequestId("interactive"), FinishReason.CANCELLED, now_s)
    assert core.plan(now_s) is not None
