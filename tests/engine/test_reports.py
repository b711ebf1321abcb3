"""What an engine process tells of itself: its requests, its statistics, its flight recorder."""

import os
import time

from edged.core.types import RequestId, SloTier
from edged.engine.recorder import RecordReader, create_page
from edged.engine.wire import Inspect, Inspected, Statistics
from tests.engine.process import FAST, SLOW_PREFILL, R, engine_process, start_command, submit


def test_inspect_tells_the_state_of_every_request() -> None:
    with engine_process(start_command(options=SLOW_PREFILL, max_sequences=1)) as engine:
        engine.ready()
        engine.admitted(submit("first", prompt="x" * 1000, max_tokens=50))
        engine.admitted(submit("second", tier=SloTier.BATCH))
        for call_id in (1, 2, 3):
            engine.send(Inspect(call_id))
        answers: list[Inspected] = []
        while len(answers) < 3:
            event = engine.receive()
            answers += [event] if isinstance(event, Inspected) else []
    assert [answer.call_id for answer in answers] == [1, 2, 3]
    first, second = answers[0].requests
    assert (first.request_id, first.num_prompt_tokens, first.max_tokens) == ("first", 1001, 50)
    assert (second.request_id, second.state, second.position) == ("second", "waiting", 0)
    assert second.tier is SloTier.BATCH
    assert second.age_s >= 0


def test_statistics_come_when_they_change_and_settle_when_idle() -> None:
    with engine_process() as engine:
        engine.ready()
        started_s = time.monotonic()
        engine.admitted(submit(max_tokens=1200))
        engine.answer(R)
        elapsed_s = time.monotonic() - started_s
        num_while_busy = len(engine.statistics)
        assert 1 <= num_while_busy <= elapsed_s / 0.5 + 2
        assert any(each.decode_tokens_per_s > 0 for each in engine.statistics)
        while True:
            event = engine.receive_any()
            assert isinstance(event, Statistics)
            if event.decode_tokens_per_s == 0:
                break
    assert event.num_slots_used == event.num_cells_used == 0
    standard = next(tier for tier in event.tiers if tier.tier is SloTier.STANDARD)
    assert (standard.num_finished, standard.num_generated_tokens) == (1, 1200)


def test_the_flight_recorder_names_the_requests_of_the_step_that_hangs() -> None:
    fd = create_page()
    reader = RecordReader(fd)
    options = {**FAST, "hang_on_token": str(ord("~"))}
    with engine_process(start_command(options=options), recorder_fd=fd) as engine:
        os.close(fd)
        engine.ready()
        engine.admitted(submit("good", max_tokens=5))
        engine.answer(RequestId("good"))
        before = reader.read()
        engine.admitted(submit("bad", prompt="~"))
        while not ((record := reader.read()) and record.executing):
            engine.process.poll()
    reader.close()
    assert before is not None
    assert before.executing == frozenset()
    assert before.num_steps_begun >= 5
    assert record.executing == {RequestId("bad")}
