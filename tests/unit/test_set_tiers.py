"""Tiers that change while the scheduler runs: what is new for whom, and what stays."""

from dataclasses import replace

import pytest

from edged.core.queue import WaitingQueue
from edged.core.scheduler import Scheduler
from edged.core.shares import TierShares
from edged.core.types import (
    Admitted,
    FinishEvent,
    FinishReason,
    Rejected,
    RejectReason,
    SloTier,
    TierSpec,
)
from tests.factories import TIERS, request, scheduler

BATCH = SloTier.BATCH


def changed(tier: SloTier, **changes: object) -> dict[SloTier, TierSpec]:
    return {**TIERS, tier: replace(TIERS[tier], **changes)}  # type: ignore[arg-type]  # names are checked by replace


def ended(core: Scheduler, now_s: float) -> list[FinishReason]:
    """How those ended whose time is over."""
    return [event.reason for event in core.tick(now_s) if isinstance(event, FinishEvent)]


def test_lower_limit_refuses_who_comes_next_and_sends_nobody_away() -> None:
    core = scheduler(num_slots=1)
    for number in range(3):
        assert isinstance(core.submit(request(f"r{number}", tier=BATCH), 0.0), Admitted)
    core.set_tiers(changed(BATCH, max_waiting=2))
    refused = core.submit(request("late", tier=BATCH), 0.0)
    assert isinstance(refused, Rejected)
    assert refused.reason is RejectReason.QUEUE_FULL
    assert len(core.sequences()) == 3
    core.set_tiers(TIERS)
    assert isinstance(core.submit(request("later", tier=BATCH), 0.0), Admitted)


def test_shorter_wait_ends_who_has_waited_longer_already() -> None:
    core = scheduler(num_slots=1)
    assert isinstance(core.submit(request("waits", tier=BATCH), 0.0), Admitted)
    assert core.next_wakeup_s() is None
    core.set_tiers(changed(BATCH, max_queue_s=5.0))
    assert ended(core, 4.9) == []
    assert ended(core, 5.0) == [FinishReason.QUEUE_TIMEOUT]


@pytest.mark.parametrize("max_queue_s", [None, 500.0], ids=["none", "longer"])
def test_longer_wait_holds_for_who_waits_already(max_queue_s: float | None) -> None:
    core = scheduler(num_slots=1)
    waiting = request("waits", tier=SloTier.STANDARD, deadline_s=900.0)
    assert isinstance(core.submit(waiting, 0.0), Admitted)
    core.set_tiers(changed(SloTier.STANDARD, max_queue_s=max_queue_s))
    assert ended(core, 130.0) == [], "the old limit does not count any more"
    expected = FinishReason.DEADLINE if max_queue_s is None else FinishReason.QUEUE_TIMEOUT
    assert ended(core, 900.0 if max_queue_s is None else max_queue_s) == [expected]


def test_what_a_tier_has_earned_stays_earned_unless_it_has_no_share_any_more() -> None:
    queue = WaitingQueue(TIERS)
    core = scheduler(num_slots=1)
    core.submit(request("waits", tier=BATCH), 0.0)
    (seq, _) = core.sequences()[0]
    queue.add(seq)
    shares = TierShares(TIERS.values(), quantum_s=0.5)
    shares.account(10.0, {SloTier.INTERACTIVE: 10}, (), queue)
    assert shares.owed == {BATCH}
    shares.set_tiers(replace(spec, min_share=2 * spec.min_share) for spec in TIERS.values())
    assert shares.owed == {BATCH}
    shares.account(0.1, {BATCH: 1}, (), queue)
    assert shares.owed == {BATCH}, "its credit was kept"
    shares.set_tiers(replace(spec, min_share=0.0) for spec in TIERS.values())
    assert shares.owed == frozenset()
    shares.account(1000.0, {SloTier.INTERACTIVE: 10}, (), queue)
    assert shares.owed == frozenset()
