"""The policy slo: promises, who yields to whom, and books that hold nothing of the past."""

import random
from dataclasses import replace
from math import inf

import pytest

from backends.sim.backend import SimModel
from backends.sim.faults import SeededFaults
from backends.sim.profile import StepProfile
from edged.clock import ManualClock
from edged.core.plan import Chunk, StepPlan, StepResult
from edged.core.policies.slo import BEHIND, LATE, ON_TIME
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    OnUnattainable,
    PastService,
    Request,
    RequestId,
    SeqId,
    SlotId,
    SloTier,
)
from tests.factories import config, engine, request, scheduler, tiers
from tests.sim.harness import Cancellation, simulate, workload
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
