"""The policy slo: promises, who yields to whom, and books that hold nothing of the past."""

import random
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from backends.sim.backend import SimModel
from backends.sim.faults import SeededFaults
from backends.sim.profile import StepProfile
from edged.clock import ManualClock
from edged.core.plan import Chunk, StepPlan, StepResult
from edged.core.policies.slo import BEHIND, BEST_EFFORT, FIRST, LATE, ON_TIME
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    OnUnattainable,
    PastService,
    Rank,
    Request,
    RequestId,
    SeqId,
    SlotId,
    SloTier,
    TokenEvent,
)
from tests.factories import config, engine, request, scheduler, tiers
from tests.sim.harness import Cancellation, Life, simulate, workload
from tests.unit.books import books_of, policy_of, sequence_of

CHAT, JOB = SloTier.INTERACTIVE, SloTier.BATCH
SLOW_DECODES = StepProfile(step_s=0.01, prefill_token_s=0.001, decode_token_s=0.02)
WHOLE_STEPS = SimModel(can_interrupt=False)


def test_a_replay_is_never_refused_as_unattainable() -> None:
    core = scheduler(policy="slo", num_cells=4096)
    for number, generated in enumerate([(), (1, 2)]):
        replay = request(
            f"replay-{number}",
            prompt=2000,
            ttft_target_s=0.05,
            generated=generated,
            past=PastService(first_token_s=0.1 if generated else None, num_engine_losses=1),
            on_unattainable=OnUnattainable.REJECT,
        )
        assert isinstance(core.submit(replay, 50.0), Admitted)
    for _ in range(5):
        core.tick(60.0)


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


def test_promises_come_back_after_a_time_in_which_prefills_were_slow() -> None:
    clock = ManualClock()
    loop = engine(clock, policy="slo")
    pace = policy_of(loop.scheduler)._outlook.pace
    chunk = Chunk(SeqId(0), SlotId(0), 0, tuple(range(64)), None)
    plan = StepPlan(0, (), (), (), (), (chunk,))
    for _ in range(1000):
        began_s = clock.now_s()
        clock.advance(1.0)
        result = StepResult(
            0, {}, {}, frozenset(), frozenset(), began_s, clock.now_s(), compute_s=1.0
        )
        pace.observe(plan, result, has_more=True)

    def is_promised() -> bool:
        wanted = request(
            "chat",
            tier=CHAT,
            prompt=100,
            arrival_s=clock.now_s(),
            on_unattainable=OnUnattainable.REJECT,
        )
        answer = loop.submit(wanted)
        loop.cancel(wanted.request_id, FinishReason.CANCELLED)
        return isinstance(answer, Admitted)

    assert not is_promised()
    clock.advance(600.0)
    assert is_promised()


def test_late_requests_that_ended_are_forgotten_though_an_older_one_waits() -> None:
    core = scheduler(policy="slo", num_slots=1, relegated_share=0.0)
    core.submit(request("oldest", prompt=100, ttft_target_s=0.125), 1.0)
    for number in range(50):
        core.submit(request(f"r{number}", prompt=100, ttft_target_s=0.125), 1.0)
        core.cancel(RequestId(f"r{number}"), FinishReason.CANCELLED, 1.0)
    assert books_of(core)["relegated"] == 1


def test_a_prefill_that_has_begun_and_is_late_goes_before_those_that_have_not() -> None:
    clock = ManualClock(1e6)
    loop = engine(clock, policy="slo", num_slots=2, num_cells=4096, max_step_tokens=16)
    loop.submit(request("begun", prompt=200, arrival_s=clock.now_s(), ttft_target_s=0.1))
    loop.run_once()
    loop.submit(request("later", prompt=200, arrival_s=clock.now_s(), ttft_target_s=0.001))
    clock.advance(1.0)
    loop.run_once()
    ranks = [sequence_of(loop.scheduler, name).rank for name in ("begun", "later")]
    assert [rank.band for rank in ranks] == [LATE, LATE]
    assert ranks[0] < ranks[1]


def _steps_until_late_one_ends(relegated_share: float) -> int | None:
    """While chats on time hold the only slot, and another one waits always."""
    clock = ManualClock()
    loop = engine(clock, policy="slo", num_slots=1, num_cells=4096, relegated_share=relegated_share)
    loop.submit(request("late", tier=CHAT, prompt=400, arrival_s=0.0, ttft_target_s=0.001))
    for number in range(1500):
        name = f"chat-{number}"
        loop.submit(request(name, tier=CHAT, max_tokens=3, arrival_s=clock.now_s()))
        if number == 0:
            continue
        for event in loop.run_once() or ():
            if isinstance(event, FinishEvent) and event.request_id == "late":
                return None if event.reason is FinishReason.QUEUE_TIMEOUT else number
        for seq, place in loop.sequences():
            if place is not None and place > 4 and seq.request.request_id != "late":
                loop.cancel(seq.request.request_id, FinishReason.CANCELLED)
    return None


def test_late_prefills_are_lifted_by_their_share_though_work_on_time_never_ends() -> None:
    assert _steps_until_late_one_ends(0.0) is None
    few, many = _steps_until_late_one_ends(0.2), _steps_until_late_one_ends(0.02)
    assert few is not None
    assert many is not None
    assert 5 * few < many < 20 * few


@pytest.mark.parametrize("min_share", [0.0, 0.1])
def test_best_effort_work_starves_only_without_a_share(min_share: float) -> None:
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


@pytest.mark.parametrize("seed", range(12))
def test_nothing_stays_in_the_books_of_what_has_ended(seed: int) -> None:
    """Cancelled, expired, preempted, lost, replayed, relegated, lifted, refused."""
    draw = random.Random(seed)
    requests = []
    for one in workload(seed, num_requests=60, load=4.0):
        is_replay = draw.random() < 0.15
        past = PastService(0.0, draw.choice((None, 0.1)), None, 1, num_engine_losses=1)
        service = replace(
            one.service, ttlt_target_s=draw.choice((None, None, draw.uniform(0.05, 5.0)))
        )
        requests.append(
            replace(
                one,
                service=service,
                generated_token_ids=tuple(range(draw.randint(0, 3))) if is_replay else (),
                past=past if is_replay else PastService(),
                expected_tokens=draw.choice((None, 1, 10, 100_000)),
                on_unattainable=draw.choice(list(OnUnattainable)),
            )
        )
    cancellations = [
        Cancellation(one.arrival_s + draw.uniform(0, 2), one.request_id)
        for one in draw.sample(requests, 15)
    ]
    setting = config(
        policy="slo",
        max_step_tokens=32,
        relegated_share=draw.choice((0.0, 0.05)),
        tiers=tiers(max_queue_s=draw.choice((None, 1.0))),
    )
    run = simulate(
        requests,
        num_slots=2,
        max_step_tokens=32,
        faults=SeededFaults(seed, step_rate=0.05, lost_rate=0.3, save_rate=0.1, restore_rate=0.1),
        cancellations=cancellations,
        scheduler_config=setting,
    )
    core = run.loop.scheduler
    assert not any(books_of(core).values()), books_of(core)


@pytest.mark.parametrize(
    "odd",
    [
        request("odd", ttft_target_s=inf, ttlt_target_s=inf, tpot_target_s=inf),
        request("odd", deadline_s=inf),
        request("odd", ttft_target_s=0.0, tpot_target_s=0.0, ttlt_target_s=0.0),
        request("odd", arrival_s=-1e6),
        request("odd", tier=JOB, deadline_s=100.0, ttlt_target_s=50.0),
        request("odd", tier=JOB, ttlt_target_s=1.0, expected=10**9),
        request("odd", expected=0),
        request("odd", prompt=1, max_tokens=1),
    ],
)
def test_odd_targets_are_served_to_their_end(odd: Request) -> None:
    loop = engine(ManualClock(), policy="slo", tiers=tiers(max_queue_s=None))
    for wanted in (odd, request("other", tier=CHAT)):
        assert isinstance(loop.submit(wanted), Admitted)
    events: list[EngineEvent] = []
    while (more := loop.run_once()) is not None:
        loop.check()
        events += more
    ends = [event.reason for event in events if isinstance(event, FinishEvent)]
    assert ends == [FinishReason.LENGTH] * 2
    assert not any(books_of(loop.scheduler).values())


def test_a_promise_that_is_broken_is_broken_by_as_little_as_can_be() -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=4096)
    core.submit(request("chat", tier=CHAT, prompt=100), 0.0)
    assert sequence_of(core, "chat").promised
    core.tick(5.0)
    core.submit(request("later", tier=CHAT, prompt=10, arrival_s=5.0), 5.0)
    first, second = (sequence_of(core, name).rank for name in ("chat", "later"))
    assert first.band == ON_TIME
    assert first < second


def test_who_is_late_takes_no_time_from_others_any_more() -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=4096)
    core.submit(request("chat", tier=CHAT, prompt=100, ttft_target_s=0.125), 0.0)
    assert not sequence_of(core, "chat").promised, "it fits, but barely"
    assert books_of(core)["forecast"] == 1
    core.tick(1.0)
    assert sequence_of(core, "chat").rank.band == LATE
    assert books_of(core)["forecast"] == books_of(core)["promised"] == 0


@pytest.mark.parametrize("who_had_much", ["first", "second"])
def test_whoever_had_much_of_late_gives_way_to_who_had_little(who_had_much: str) -> None:
    core = scheduler(policy="slo", num_cells=100_000)
    for _ in range(60):  # so much that nobody is promised
        core.submit(request("past", tier=CHAT, prompt=600, client=who_had_much), 0.0)
        core.cancel(RequestId("past"), FinishReason.CANCELLED, 0.0)
    for client in ("first", "second"):
        core.submit(request(client, tier=CHAT, prompt=500, client=client), 0.0)
    relegated = [
        client for client in ("first", "second") if sequence_of(core, client).rank.row == BEHIND
    ]
    assert relegated == [who_had_much]
