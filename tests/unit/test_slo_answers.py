"""Answers under the policy slo: which pause, which yield, and which are worth preempting."""

import pytest

from edged.clock import ManualClock
from edged.core.plan import StepResult
from edged.core.policies.slo import BEHIND, FIRST, LATE, ON_TIME
from edged.core.types import FinishEvent, FinishReason, PastService, Rank, SampledToken, SloTier
from tests.factories import engine, request, scheduler
from tests.unit.books import books_of, policy_of, sequence_of

CHAT, JOB = SloTier.INTERACTIVE, SloTier.BATCH


def test_an_answer_whose_end_has_passed_gives_way_until_its_turn() -> None:
    """It was promised nothing, and got longer than its client had said."""
    clock = ManualClock(100.0)
    loop = engine(clock, policy="slo", num_slots=2, num_cells=4096, relegated_share=0.01)
    job = request(
        "job",
        tier=JOB,
        prompt=40,
        max_tokens=2000,
        generated=(1, 2),
        past=PastService(0.0, 0.1, 0.2, num_engine_losses=1, promised=False),
        expected=10,
        arrival_s=clock.now_s(),
        ttlt_target_s=1.0,
    )
    loop.submit(job)
    seq = sequence_of(loop.scheduler, "job")
    seen: list[tuple[tuple[int, ...], float | None]] = []
    while clock.now_s() < 110.0:
        loop.run_once()
        stands = seq.rank[:2], policy_of(loop.scheduler)._relegated.turn_s(seq.seq_id)
        if seen[-1:] != [stands]:
            seen.append(stands)
    (on_time, late, called) = seen
    assert on_time == ((ON_TIME, BEHIND), None)
    assert late[0] == (LATE, FIRST)
    assert called == ((ON_TIME, BEHIND), late[1])


def test_a_late_answer_that_was_preempted_has_its_turn_too() -> None:
    """While chats on time fill the only slot: it goes on after as long as was said."""
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=1, num_cells=4096, relegated_share=0.05)
    loop.submit(request("late", prompt=40, max_tokens=50, ttft_target_s=0.001))
    for _ in range(5):
        loop.run_once()
    assert sequence_of(loop.scheduler, "late").rank.band == LATE
    for number in range(2000):
        name = f"chat-{number}"
        loop.submit(request(name, tier=CHAT, max_tokens=3, arrival_s=clock.now_s()))
        ended = [one for one in loop.run_once() or () if isinstance(one, FinishEvent)]
        if any(one.request_id == "late" for one in ended):
            break
        for seq, place in loop.sequences():
            if place is not None and place > 4 and seq.request.request_id != "late":
                loop.cancel(seq.request.request_id, FinishReason.CANCELLED)
    else:
        pytest.fail("it never ended")
    assert loop.statistics().num_turns == 1
    assert loop.statistics().num_swaps + loop.statistics().num_recomputes >= 1


@pytest.mark.parametrize(("must_go_on_s", "takes_it"), [(5.02, True), (9.0, False)])
def test_who_paused_takes_a_slot_when_it_must_go_on(must_go_on_s: float, takes_it: bool) -> None:
    core = scheduler(policy="slo", num_slots=1)
    for name in ("paused", "running"):
        core.submit(request(name, tier=JOB, ttlt_target_s=50.0), 0.0)
    paused, running = sequence_of(core, "paused"), sequence_of(core, "running")
    for seq, order in ((paused, must_go_on_s), (running, 30.0)):
        seq.rank, seq.first_token_s = Rank(ON_TIME, FIRST, order), 1.0
        seq.num_computed_tokens = len(seq.token_ids) - 1
    assert policy_of(core).may_preempt(paused, running, 5.0) == takes_it
    assert not policy_of(core).may_preempt(running, paused, 5.0)


@pytest.mark.parametrize(("due_in_s", "takes_it"), [(0.02, True), (0.8, False)])
def test_an_answer_is_let_end_unless_a_promise_cannot_wait(due_in_s: float, takes_it: bool) -> None:
    core = scheduler(policy="slo", num_slots=1)
    core.submit(request("ends", tier=JOB, max_tokens=10, expected=10), 0.0)
    ends = sequence_of(core, "ends")
    ends.token_ids += [7] * 9
    ends.num_computed_tokens = len(ends.token_ids) - 1
    ends.first_token_s = 1.0
    arrival_s = 1.0 + due_in_s - 2.0
    core.submit(request("chat", tier=CHAT, arrival_s=arrival_s, ttft_target_s=2.0), 1.0)
    chat = sequence_of(core, "chat")
    assert policy_of(core).may_preempt(chat, ends, 1.0) == takes_it


def test_an_answer_that_is_late_while_it_pauses_claims_no_slot_any_more() -> None:
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=1, num_cells=4096)
    loop.submit(request("job", tier=JOB, max_tokens=500, expected=5, ttlt_target_s=1.0))
    for _ in range(3):
        loop.run_once()
    sequence_of(loop.scheduler, "job").promised = False
    loop.submit(request("chat", tier=CHAT, max_tokens=200, ttft_target_s=0.5))
    bands = {}
    while clock.now_s() < 2.0:
        loop.run_once()
        bands[sequence_of(loop.scheduler, "job").rank.band] = books_of(loop.scheduler)["paused"]
    assert bands == {ON_TIME: 1, LATE: 0}


@pytest.mark.parametrize(("expected", "is_evicted"), [(40, False), (2000, True)])
@pytest.mark.parametrize("can_swap", [True, False])
def test_an_answer_is_not_preempted_where_waiting_for_its_end_costs_less(
    expected: int, can_swap: bool, is_evicted: bool
) -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=4096, can_swap=can_swap)
    core.cost.observe_transfer(1024 * 1000, 2.0)  # a slow disk
    job = request("job", tier=JOB, prompt=500, max_tokens=3000, expected=expected)
    core.submit(job, 0.0)
    seq = sequence_of(core, "job")
    while seq.first_token_s is None:
        plan = core.plan(0.0)
        assert plan is not None
        sampled = {chunk.seq_id: SampledToken(1) for chunk in plan.chunks if chunk.sampling}
        result = StepResult(plan.step, sampled, {}, frozenset(), frozenset(), 0.0, 0.3, 0.3)
        core.commit(plan, result, 0.3)
    core.cost._weights = [0.005, 0.05, 0.005, 0.0, 0.0]
    core.submit(request("chat", tier=CHAT, prompt=8, max_tokens=4, arrival_s=0.3), 0.3)
    plan = core.plan(0.3)
    assert plan is not None
    assert bool(plan.evict) == is_evicted


def test_a_prefill_that_is_nearly_through_is_not_worth_its_own_cost_again() -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=8192, can_swap=False)
    core.submit(request("job", tier=JOB, prompt=4000, max_tokens=1, expected=1), 0.0)
    victim, policy = sequence_of(core, "job"), policy_of(core)
    for num_computed, worth in ((100, True), (3900, False)):
        victim.num_computed_tokens = num_computed
        cost_s = core.cost.recompute_s(num_computed, 512)
        assert policy.is_worth(victim, cost_s, 0.0) == worth
