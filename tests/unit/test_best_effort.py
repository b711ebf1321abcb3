"""Work without targets, under the policy slo: behind what is on time, and never for ever."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from backends.sim.backend import SimModel
from backends.sim.profile import StepProfile
from edged.clock import ManualClock
from edged.core.policies.slo import BEST_EFFORT, FIRST, ON_TIME
from edged.core.types import (
    Admitted,
    FinishReason,
    OnUnattainable,
    PastService,
    Rank,
    RequestId,
    SloTier,
    TokenEvent,
)
from tests.factories import config, engine, request, scheduler, tiers
from tests.sim.harness import Life, simulate
from tests.unit.books import books_of, policy_of, sequence_of

CHAT, STANDARD, JOB = SloTier
SLOW_DECODES = StepProfile(step_s=0.01, prefill_token_s=0.001, decode_token_s=0.02)
WHOLE_STEPS = SimModel(can_interrupt=False)


def test_without_targets_nothing_is_promised_and_nothing_refused() -> None:
    core = scheduler(policy="slo")
    wanted = request("job", tier=JOB, on_unattainable=OnUnattainable.REJECT)
    answer = core.submit(wanted, 0.0)
    assert isinstance(answer, Admitted)
    assert answer.promised is None
    assert sequence_of(core, "job").rank == Rank(BEST_EFFORT, FIRST, 0.0)


def test_a_replayed_answer_without_targets_gets_ahead_of_nobody_on_time() -> None:
    """It had been preempted before its engine was lost."""
    core = scheduler(policy="slo")
    past = PastService(0.0, 0.1, 0.2, num_preemptions=1, num_engine_losses=1)
    core.submit(request("job", tier=JOB, generated=(1, 2), past=past), 5.0)
    assert sequence_of(core, "job").rank == Rank(BEST_EFFORT, FIRST, 0.0)
    core.submit(request("chat", tier=CHAT, generated=(1, 2), past=past), 5.0)
    assert sequence_of(core, "chat").rank == Rank(ON_TIME, FIRST, 1.0)


def test_a_client_that_comes_later_waits_for_its_turn_not_for_all_others() -> None:
    """However much was served in time meanwhile."""
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=1, num_cells=4096)
    for number in range(20):
        loop.submit(request(f"first-{number}", tier=JOB, prompt=50, client="first"))
    for number in range(20):
        loop.submit(request(f"chat-{number}", tier=CHAT, prompt=100, arrival_s=clock.now_s()))
        loop.run_once()
        loop.run_once()
        loop.cancel(RequestId(f"chat-{number}"), FinishReason.CANCELLED)
    answer = loop.submit(request("second", tier=JOB, prompt=50, client="second"))
    assert isinstance(answer, Admitted)
    assert answer.position <= 2


@pytest.mark.parametrize("min_share", [0.0, 0.1])
def test_the_share_of_a_tier_is_served_however_full_the_engine_is(min_share: float) -> None:
    chats = [
        request(f"chat-{number}", tier=CHAT, prompt=20, max_tokens=20, arrival_s=number / 50)
        for number in range(400)
    ]
    jobs = [request(f"job-{number}", tier=JOB, prompt=100, max_tokens=50) for number in range(40)]
    open_tiers = tiers(max_queue_s=None, max_waiting=10_000, max_waiting_per_client=10_000)
    shared = {
        tier: replace(spec, min_share=min_share if tier is JOB else 0.0)
        for tier, spec in open_tiers.items()
    }
    setting = config(policy="slo", tiers=shared, max_step_tokens=128, share_quantum_s=0.1)
    run = simulate([*jobs, *chats], num_slots=2, scheduler_config=setting)
    times_s = sorted(at_s for life in run.lives.values() for at_s in _job_times(life))
    end_s = max(life.token_times_s[-1] for key, life in run.lives.items() if "chat" in key)
    before = [at_s for at_s in times_s if at_s < end_s]
    longest_s = max(b - a for a, b in pairwise([0.0, *before, end_s]))
    # I9: 1 s for the share, and the wait for room behind answers of at most half a second.
    assert (longest_s <= 2.0) == (min_share > 0)


@pytest.mark.parametrize("min_share", [0.0, 0.1])
def test_how_long_best_effort_work_waits_is_told_by_what_others_waited_only_with_a_share(
    min_share: float,
) -> None:
    core = scheduler(policy="slo", tiers=tiers(min_share=min_share))
    core.submit(request("job", tier=JOB), 0.0)
    assert policy_of(core).is_in_line(sequence_of(core, "job")) == (min_share > 0)


def _first_token_behind_equals(tier: SloTier, relegated_share: float) -> tuple[float | None, float]:
    """Moments of the first token of one without targets, though work of its own tier that is on
    time takes all slots and the tier's share, and of what it was told at most."""
    clock = ManualClock()
    shared = {
        one: replace(spec, min_share=0.1 if one is JOB else 0.0, max_queue_s=None)
        for one, spec in tiers().items()
    }
    loop = engine(
        clock,
        policy="slo",
        num_slots=1,
        num_cells=4096,
        relegated_share=relegated_share,
        tiers=shared,
    )
    bare = request("bare", tier=tier, prompt=400, ttft_target_s=None, tpot_target_s=None)
    turn_s = inf
    for number in range(3000):
        name = f"due-{number}"
        wanted = request(name, tier=tier, max_tokens=3, arrival_s=clock.now_s(), ttft_target_s=2.0)
        loop.submit(wanted)
        if number == 3:
            loop.submit(replace(bare, arrival_s=clock.now_s()))
            turn_s = (
                policy_of(loop.scheduler).turn_s(sequence_of(loop.scheduler, "bare"), clock.now_s())
                or inf
            )
        for event in loop.run_once() or ():
            if isinstance(event, TokenEvent) and event.request_id == "bare":
                return clock.now_s(), turn_s
        for seq, place in loop.sequences():
            if place is not None and place > 4 and seq.request.request_id != "bare":
                loop.cancel(seq.request.request_id, FinishReason.CANCELLED)
    return None, turn_s


@pytest.mark.parametrize("tier", [CHAT, JOB])
def test_it_has_its_turn_though_work_of_its_own_tier_is_always_on_time(tier: SloTier) -> None:
    first_s, turn_s = _first_token_behind_equals(tier, 0.05)
    assert first_s is not None
    assert first_s <= turn_s + 0.3, "its prefill, and the answer that is in its slot"
    assert _first_token_behind_equals(tier, 0.0) == (None, inf)


def test_nothing_is_saved_for_those_who_are_served_anyway() -> None:
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=2, num_cells=8192, relegated_share=0.5)
    for number in range(20):
        loop.submit(request(f"job-{number}", tier=JOB, prompt=400, max_tokens=50))
    while loop.run_once() is not None:
        pass
    assert loop.statistics().num_turns == 0
    assert loop.statistics().num_swaps + loop.statistics().num_recomputes == 0
    assert set(books_of(loop.scheduler).values()) == {0}


def test_a_share_is_served_beside_answers_that_bear_no_longer_steps() -> None:
    """I9: a chat that was promised its pace, and another answer that may pause for it. Owed tiers
    go between the two, one answer at least."""
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=4, num_cells=16384, profile=SLOW_DECODES)
    paced = {"ttft_target_s": 5.0, "tpot_target_s": 0.06}
    ending = {"ttft_target_s": 5.0, "tpot_target_s": None, "ttlt_target_s": 200.0}
    times_s: list[float] = []
    for name, tier, max_tokens, targets in (
        ("job", JOB, 3000, {}),
        ("chat", CHAT, 1500, paced),
        ("ending", SloTier.STANDARD, 100, ending),
    ):
        wanted = request(
            name,
            tier=tier,
            max_tokens=max_tokens,
            expected=max_tokens,
            arrival_s=clock.now_s(),
            **targets,
        )
        loop.submit(wanted)
        for _ in range(5):
            loop.run_once()
    promised = {seq.request.request_id: seq.promised for seq, _ in loop.sequences()}
    assert promised == {"chat": True, "ending": True, "job": None}
    while clock.now_s() < 45.0:
        tokens = [event for event in loop.run_once() or () if isinstance(event, TokenEvent)]
        if any(event.request_id == "job" for event in tokens):
            times_s.append(clock.now_s())
    # 0.5 s of credit at 0.05 of the time, and a step.
    assert max(later - sooner for sooner, later in pairwise(times_s)) < 10.5


def _job_times(life: Life) -> list[float]:
    return life.token_times_s if life.request.service.tier is JOB else []
