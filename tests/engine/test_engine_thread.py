"""The engine thread and its reports: bounded, in order, and quiet when nothing changes."""

import threading

from edged.clock import MonotonicClock
from edged.core.cost import StepCosts
from edged.core.metrics import SchedulerStatistics
from edged.core.types import FinishEvent, TokenEvent
from edged.engine.engine_thread import MAX_UNREAD_REPORTS, EngineThread
from edged.engine.mailbox import (
    Answered,
    Closed,
    CloseEngine,
    EngineReport,
    Loaded,
    Progress,
    SubmitRequest,
)
from edged.engine.statistics import INTERVAL_S, StatisticsMeter
from tests.engine.process import FAST, PATIENCE_S, start_command
from tests.factories import request


class Reports:
    """What an engine thread said; tests wait for a report instead of for time to pass."""

    def __init__(self) -> None:
        self.seen: list[EngineReport] = []
        self._came = threading.Condition()

    def __call__(self, report: EngineReport) -> None:
        with self._came:
            self.seen.append(report)
            self._came.notify_all()

    def wait_for(self, kind: type[EngineReport]) -> None:
        with self._came:
            assert self._came.wait_for(lambda: kind in map(type, self.seen), PATIENCE_S)

    def wait_for_count(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.seen) >= count, PATIENCE_S)


def test_an_admission_is_reported_before_its_tokens_and_a_close_last() -> None:
    reports = Reports()
    thread = EngineThread(start_command(options=FAST), reports, MonotonicClock(), None)
    thread.launch()
    reports.wait_for(Loaded)
    thread.post(SubmitRequest(request(max_tokens=3, arrival_s=MonotonicClock().now_s())))
    while not any(isinstance(event, FinishEvent) for event in _events(reports)):
        reports.wait_for_count(len(reports.seen) + 1)
    thread.post(CloseEngine())
    reports.wait_for(Closed)
    kinds = [type(event) for event in _events(reports)]
    assert kinds == [Answered, TokenEvent, TokenEvent, TokenEvent, FinishEvent]
    assert isinstance(reports.seen[-1], Closed)


def test_the_engine_waits_when_nobody_takes_its_reports() -> None:
    reports = Reports()
    options = {"step_s": "0", "prefill_token_s": "0", "decode_token_s": "0"}
    start = start_command(options=options, context_tokens=2 * MAX_UNREAD_REPORTS)
    thread = EngineThread(start, reports, MonotonicClock(), None)
    thread.launch()
    thread.post(SubmitRequest(request(max_tokens=None, arrival_s=MonotonicClock().now_s())))
    reports.wait_for_count(MAX_UNREAD_REPORTS)
    thread.taken()
    reports.wait_for_count(MAX_UNREAD_REPORTS + 1)
    assert len(reports.seen) == MAX_UNREAD_REPORTS + 1
    assert not any(isinstance(event, FinishEvent) for event in _events(reports))
    thread.post(CloseEngine())
    for _ in range(MAX_UNREAD_REPORTS):
        thread.taken()
    reports.wait_for(Closed)


def _events(reports: Reports) -> list[object]:
    return [
        event for report in reports.seen if isinstance(report, Progress) for event in report.events
    ]


def counters(num_generated_tokens: int) -> SchedulerStatistics:
    num_steps = num_generated_tokens
    counts = (num_steps, *7 * (0,), num_generated_tokens, *7 * (0,))
    return SchedulerStatistics(*counts, 0.0, StepCosts(0, 0, 0, 0, 0, 0), {})


def test_the_rate_of_tokens_is_that_of_the_last_seconds() -> None:
    meter = StatisticsMeter()
    rates = []
    for sample in range(40):
        report = meter.sample(counters(10 * min(sample, 20)), sample * INTERVAL_S)
        rates += [] if report is None else [report.decode_tokens_per_s]
    assert rates[0] == 0
    assert max(rates) == rates[20] == 10 / INTERVAL_S
    assert rates[-1] == 0
    assert meter.is_settled


def test_a_sample_that_changes_nothing_is_not_sent() -> None:
    meter = StatisticsMeter()
    sent_and_settled = [
        (meter.sample(counters(num_tokens), at_s) is not None, meter.is_settled)
        for num_tokens, at_s in [(0, 10.0), (0, 10.5), (1, 11.0)]
    ]
    assert sent_and_settled == [(True, False), (False, True), (True, False)]
    assert meter.due_s == 11.0 + INTERVAL_S
