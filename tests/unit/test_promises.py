"""What is promised is held whoever comes later; what cannot be is refused with a reason."""

import random
from dataclasses import replace

import pytest

from backends.sim.backend import SimModel
from backends.sim.profile import StepProfile
from edged.clock import ManualClock
from edged.core.policies.slo import BEHIND, ON_TIME
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    MissCause,
    PastService,
    Rank,
    RequestId,
    SloTier,
    TokenEvent,
)
from edged.engine.loop import EngineLoop
from tests.factories import engine, request, scheduler, tiers

CHAT, STANDARD, JOB = SloTier
WHOLE_STEPS = SimModel(can_interrupt=False)
SLOW_DECODES = StepProfile(
    step_s=0.01, prefill_token_s=0.001, decode_token_s=0.02, swap_byte_s=2e-10
)


class _Engine:
    """An engine on a manual clock, that has seen some answers, and what came of each request."""

    def __init__(self, *, num_slots: int, num_cells: int = 8192) -> None:
        self.clock = ManualClock()
        self.loop = engine(
            self.clock,
            policy="slo",
            num_slots=num_slots,
            num_cells=num_cells,
            profile=SLOW_DECODES,
        )
        self.first_s: dict[str, float] = {}
        self.ends: dict[str, FinishEvent] = {}
        for number in range(3):
            self.submit(f"before-{number}", tier=CHAT, max_tokens=60, tpot_target_s=None)
        self.run()

    def submit(self, name: str, **fields: object) -> bool | None:
        """Whether it is promised its targets. It is as long as is expected, unless that is said."""
        fields.setdefault("expected", fields.get("max_tokens"))
        wanted = request(name, arrival_s=self.clock.now_s(), **fields)  # type: ignore[arg-type]  # names are checked by request
        answer = self.loop.submit(wanted)
        assert isinstance(answer, Admitted)
        return answer.promised

    def run(self, for_s: float = 1e9) -> None:
        until_s = self.clock.now_s() + for_s
        while self.clock.now_s() < until_s:
            events = self.loop.run_once()
            if events is None:
                return
            for event in events:
                self._note(event)

    def _note(self, event: EngineEvent) -> None:
        if isinstance(event, TokenEvent) and event.token_index == 0:
            self.first_s[event.request_id] = self.clock.now_s()
        if isinstance(event, FinishEvent):
            self.ends[event.request_id] = event

    def held(self, name: str) -> bool:
        outcome = self.ends[name].outcome
        assert outcome is not None
        return outcome.held

    def cause(self, name: str) -> MissCause | None:
        outcome = self.ends[name].outcome
        assert outcome is not None
        return outcome.miss_cause


@pytest.mark.parametrize(("relegated_share", "min_share"), [(0.01, 0.0), (0.2, 0.0), (0.01, 0.2)])
@pytest.mark.parametrize("seed", range(5))
def test_a_promise_is_kept_whoever_comes_later(
    seed: int, relegated_share: float, min_share: float
) -> None:
    """Answers are short and slots enough, so that what is predicted is what happens. Turns of
    those who were relegated break no promise either, nor does what a tier is owed."""
    draw = random.Random(seed)
    kinds = (CHAT, SloTier.STANDARD, JOB) if min_share else (CHAT, SloTier.STANDARD)
    specs = {**tiers(max_waiting=1000, max_waiting_per_client=1000)}
    specs[JOB] = replace(specs[JOB], min_share=min_share)
    clock = ManualClock()
    loop = engine(
        clock,
        policy="slo",
        num_slots=32,
        num_cells=32_768,
        model=WHOLE_STEPS,
        relegated_share=relegated_share,
        tiers=specs,
    )
    finished: list[FinishEvent] = []
    next_s, number = clock.now_s(), 0
    while number < 300:
        while next_s <= clock.now_s():
            number += 1
            before = _ranks_of_promised(loop)
            loop.submit(
                request(
                    f"r{number}",
                    tier=draw.choice(kinds),
                    prompt=draw.choice((20, 100, 1000)),
                    max_tokens=draw.randint(1, 4),
                    arrival_s=clock.now_s(),
                    client=f"client-{draw.randint(0, 2)}",
                )
            )
            assert before.items() <= _ranks_of_promised(loop).items()
            next_s += draw.expovariate(30.0)
        events = loop.run_once()
        if events is None:
            clock.advance_to(next_s)
        finished += [event for event in events or () if isinstance(event, FinishEvent)]
    met = [one.timings.met_ttft for one in finished if one.outcome and one.outcome.promised]
    assert len(met) > 100
    assert all(met)
    assert relegated_share < 0.1 or loop.statistics().num_turns > 0
    assert any(seq.was_relegated for seq, _ in loop.sequences())


def _ranks_of_promised(loop: EngineLoop) -> dict[RequestId, Rank]:
    return {seq.request.request_id: seq.rank for seq, _ in loop.sequences() if seq.promised}


def test_a_promised_pace_is_held_against_answers_that_were_promised_none() -> None:
    """Later ones, on time as well, whose decodes alone would make the steps three times as long."""
    engine = _Engine(num_slots=16)
    answer = {"tier": STANDARD, "prompt": 16, "max_tokens": 100, "tpot_target_s": 0.1}
    names = [f"first-{number}" for number in range(5)]
    promised = [name for name in names if engine.submit(name, **answer)]
    assert 1 <= len(promised) < 5
    engine.run(2.0)
    for number in range(10):
        assert not engine.submit(f"later-{number}", **answer)
    engine.run()
    assert all(engine.held(name) for name in promised)
    assert len(engine.ends) == 3 + 5 + 10
    assert all(end.reason is FinishReason.LENGTH for end in engine.ends.values())


BY_PACE = {"max_tokens": 200, "tpot_target_s": 0.1}
BY_END = {"max_tokens": 200, "tpot_target_s": None, "ttft_target_s": None, "ttlt_target_s": 18.0}


@pytest.mark.parametrize("answer", [BY_PACE, BY_END])
def test_a_prompt_is_promised_its_target_by_what_running_answers_leave_of_a_step(
    answer: dict[str, float | None],
) -> None:
    """They bear steps of 0.09 s and take 0.05 s of each."""
    engine = _Engine(num_slots=8)
    one = {"tier": STANDARD, "ttft_target_s": 0.7, "tpot_target_s": None}
    assert engine.submit("alone", prompt=350, **one)
    engine.run()
    for number in range(2):
        assert engine.submit(f"answer-{number}", tier=STANDARD, prompt=16, **answer)
    engine.run(2.0)
    assert not engine.submit("long", prompt=350, **one)
    engine.run(2.0)
    assert engine.submit("short", prompt=100, **one)
    engine.run()
    assert engine.held("alone")
    assert engine.held("short")


def test_answers_without_a_promised_pace_go_on_as_the_others_bear() -> None:
    """They are parked in part, not altogether."""
    engine = _Engine(num_slots=16)
    answer = {"tier": STANDARD, "prompt": 16, "max_tokens": 100}
    assert engine.submit("first", tpot_target_s=0.1, **answer)
    for number in range(6):
        engine.submit(f"later-{number}", tpot_target_s=0.01, **answer)
    engine.run(3.0)
    begun = {name for name in engine.first_s if name.startswith("later")}
    assert begun
    assert "first" not in engine.ends
    engine.run()
    assert engine.held("first")


def test_a_slot_is_promised_once() -> None:
    """The one that comes second is due sooner, and its answer is long."""
    engine = _Engine(num_slots=1)
    assert engine.submit("first", tier=STANDARD, max_tokens=100)
    assert not engine.submit("second", tier=CHAT, max_tokens=300)
    engine.run()
    assert engine.held("first")
    assert engine.cause("second") is MissCause.OVERLOAD


def test_a_slot_that_an_answer_gives_up_for_one_is_not_taken_by_another() -> None:
    engine = _Engine(num_slots=1)
    assert engine.submit("job", tier=JOB, max_tokens=500, ttlt_target_s=200.0)
    engine.run(1.0)
    assert engine.submit("standard", tier=STANDARD, max_tokens=100), "the job may pause"
    engine.run(1.0)
    assert not engine.submit("chat", tier=CHAT, max_tokens=300)
    engine.run()
    assert engine.held("standard")
    assert engine.held("job")


def test_an_answer_that_was_promised_no_more_than_its_first_token_may_wait_after_it() -> None:
    engine = _Engine(num_slots=1)
    assert engine.submit("standard", tier=STANDARD, max_tokens=500, tpot_target_s=None)
    engine.run(1.0)
    assert engine.submit("chat", tier=CHAT, max_tokens=300)
    engine.run()
    assert engine.held("standard")
    assert engine.held("chat")


def test_cells_are_promised_once() -> None:
    engine = _Engine(num_slots=4, num_cells=512)
    promised = [engine.submit(f"r{number}", tier=CHAT, max_tokens=200) for number in range(4)]
    assert promised == [True, True, False, False]
    engine.run()
    assert all(engine.held(f"r{number}") for number in range(2))
    assert not any(engine.ends[f"r{number}"].timings.num_preemptions for number in range(2))


def test_slots_come_free_in_time_for_many_that_are_due_much_later() -> None:
    engine = _Engine(num_slots=4)
    promised = [
        engine.submit(f"job-{number}", tier=JOB, max_tokens=100, ttlt_target_s=36_000.0)
        for number in range(12)
    ]
    assert all(promised)
    engine.run()
    assert all(engine.held(f"job-{number}") for number in range(12))


def test_a_target_shorter_than_the_steps_to_it_is_not_promised() -> None:
    engine = _Engine(num_slots=4)
    engine.submit("running", tier=JOB, max_tokens=500)
    engine.run(0.5)
    assert not engine.submit("chat", tier=CHAT, prompt=10, max_tokens=4, ttft_target_s=0.04)
    assert engine.submit("other", tier=CHAT, prompt=10, max_tokens=4)


def test_a_pace_alone_is_promised_from_the_first_token_on() -> None:
    engine = _Engine(num_slots=4)
    targets = {"ttft_target_s": None, "tpot_target_s": 0.1}
    assert engine.submit("reader", tier=JOB, max_tokens=50, **targets)
    assert not engine.submit(
        "hasty", tier=JOB, max_tokens=50, ttft_target_s=None, tpot_target_s=1e-3
    )
    engine.run(0.5)
    ranks = {seq.request.request_id: seq.rank for seq, _ in engine.loop.sequences()}
    assert ranks[RequestId("reader")][:2] == (ON_TIME, 0)
    assert ranks[RequestId("hasty")][:2] == (ON_TIME, BEHIND)
    engine.run()
    assert engine.held("reader")


def test_a_promised_replay_that_lacks_only_its_end_counts_as_promised() -> None:
    core = scheduler(policy="slo")
    past = PastService(first_token_s=9.0, last_token_s=9.1, num_engine_losses=1, promised=True)
    answer = core.submit(request("r", generated=(1, 2), max_tokens=2, past=past), 10.0)
    assert isinstance(answer, Admitted)
    assert answer.promised
    core.tick(10.0)
    counts = core.statistics().tiers[STANDARD]
    assert (counts.num_promised, counts.num_broken) == (1, 1)


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_what_was_promised_is_promised_still_after_a_lost_engine(num_tokens: int) -> None:
    core = scheduler(policy="slo", num_slots=1, num_cells=8192)
    core.submit(request("holds", tier=CHAT, max_tokens=None), 0.0)
    past = PastService(
        first_token_s=0.1 if num_tokens else None, num_engine_losses=1, promised=True
    )
    for number in range(6):
        replay = request(
            f"r{number}", prompt=1200, generated=tuple(range(num_tokens)), past=past, max_tokens=9
        )
        answer = core.submit(replay, 0.0)
        assert isinstance(answer, Admitted)
        assert answer.promised
    for number in range(20):
        core.submit(request(f"new-{number}", prompt=400, client=f"c{number}"), 0.0)
    ranks = {seq.request.request_id: seq.rank for seq, _ in core.sequences()}
    assert all(ranks[RequestId(f"r{number}")][:2] == (ON_TIME, 0) for number in range(6))
    ended = core.cancel(RequestId("r0"), FinishReason.DEADLINE, 9.0)
    assert ended is not None
    assert ended.outcome is not None
    assert (ended.outcome.promised, ended.outcome.miss_cause) == (True, MissCause.ENGINE_LOST)


def test_a_replay_that_was_promised_nothing_is_promised_nothing() -> None:
    core = scheduler(policy="slo")
    answer = core.submit(request(past=PastService(num_engine_losses=1, promised=False)), 0.0)
    assert isinstance(answer, Admitted)
    assert answer.promised is False


def test_an_empty_answer_that_comes_late_has_missed_its_target() -> None:
    loop: EngineLoop = engine(ManualClock(), policy="slo")
    core = loop.scheduler
    core._eog_token_ids = frozenset(range(256))
    loop.submit(request("late", tier=CHAT, arrival_s=-5.0))
    events = loop.run_once()
    assert events is not None
    (ended,) = (event for event in events if isinstance(event, FinishEvent))
    assert (ended.num_generated_tokens, ended.timings.met_ttft) == (0, False)
    assert ended.outcome is not None
    assert not ended.outcome.held
