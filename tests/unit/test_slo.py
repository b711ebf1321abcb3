"""The policy slo: promises, who yields to whom, and books that hold nothing of the past."""

from edged.clock import ManualClock
from edged.core.plan import Chunk, StepPlan, StepResult
from edged.core.policies.slo import BEST_EFFORT, LATE, ON_TIME, Slo
from edged.core.scheduler import Scheduler
from edged.core.sequence import Sequence
from edged.core.types import (
    Admitted,
    FinishReason,
    OnUnattainable,
    PastService,
    Rank,
    Rejected,
    RejectReason,
    RequestId,
    SeqId,
    SlotId,
    SloTier,
)
from tests.factories import engine, request, scheduler

CHAT, JOB = SloTier.INTERACTIVE, SloTier.BATCH


def _policy(core: Scheduler) -> Slo:
    policy = core._policy
    assert isinstance(policy, Slo)
    return policy


def _seq(core: Scheduler, name: str) -> Sequence:
    return core._sequences[RequestId(name)]


def _books(core: Scheduler) -> dict[str, int]:
    """What the policy remembers of single requests."""
    policy = _policy(core)
    forecast = policy._forecast
    return {
        "entries": len(policy._entries),
        "stamps": len(policy._stamps),
        "expected": len(policy._expected),
        "relegated": len(policy._relegated),
        "lifted": len(policy._lifted),
        "late": len(policy._late),
        "forecast": len(forecast),
        "aside": len(forecast._aside),
        "promised": len(forecast._promised),
    }


def test_a_refusal_says_when_to_come_back_and_leaves_no_trace() -> None:
    core = scheduler(policy="slo", num_cells=4096)
    assert isinstance(core.submit(request("first", tier=CHAT, prompt=100), 0.0), Admitted)
    before = _books(core), core.statistics(), core.num_expiries
    hopeless = request(
        "hopeless", prompt=2000, ttft_target_s=0.05, on_unattainable=OnUnattainable.REJECT
    )
    answer = core.submit(hopeless, 0.0)
    assert isinstance(answer, Rejected)
    assert answer.reason is RejectReason.UNATTAINABLE
    assert answer.retry_after_s is not None
    assert answer.retry_after_s > 0
    assert (_books(core), core.statistics(), core.num_expiries) == before
    assert [seq.request.request_id for seq, _ in core.sequences()] == ["first"]


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
    assert _seq(core, "job").rank == Rank(BEST_EFFORT, 0.0)


def test_a_replayed_answer_without_targets_gets_ahead_of_nobody_on_time() -> None:
    """It had been preempted before its engine was lost."""
    core = scheduler(policy="slo")
    past = PastService(0.0, 0.1, 0.2, num_preemptions=1, num_engine_losses=1)
    core.submit(request("job", tier=JOB, generated=(1, 2), past=past), 5.0)
    assert _seq(core, "job").rank == Rank(BEST_EFFORT, 0.0)
    core.submit(request("chat", tier=CHAT, generated=(1, 2), past=past), 5.0)
    assert _seq(core, "chat").rank == Rank(ON_TIME, 1.0)


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
    pace = _policy(loop.scheduler)._pace
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
    core.submit(request("oldest", prompt=100, ttft_target_s=0.001), 1.0)
    for number in range(50):
        core.submit(request(f"r{number}", prompt=100, ttft_target_s=0.001), 1.0)
        core.cancel(RequestId(f"r{number}"), FinishReason.CANCELLED, 1.0)
    assert _books(core)["late"] == 1


def test_a_prefill_that_has_begun_and_is_late_goes_before_those_that_have_not() -> None:
    clock = ManualClock(1e6)
    loop = engine(clock, policy="slo", num_slots=2, num_cells=4096, max_step_tokens=16)
    loop.submit(request("begun", prompt=200, arrival_s=clock.now_s(), ttft_target_s=0.1))
    loop.run_once()
    loop.submit(request("later", prompt=200, arrival_s=clock.now_s(), ttft_target_s=0.001))
    clock.advance(1.0)
    loop.run_once()
    ranks = [_seq(loop.scheduler, name).rank for name in ("begun", "later")]
    assert [rank.band for rank in ranks] == [LATE, LATE]
    assert ranks[0] < ranks[1]
