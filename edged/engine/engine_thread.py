"""The thread that owns the backend and the scheduler: commands between steps, reports after them.

Theory of operation: commands come through a mailbox, which the thread empties before each step and
waits on when there is nothing to compute. Reports leave through one callback, which hands them to
the I/O thread. How many commands can wait is bounded by who posts them (`edged.engine.desk`);
reports that the I/O thread has not taken are bounded here: past `MAX_UNREAD_REPORTS` the engine
waits, and the daemon sees an engine that makes no progress.

An exception that no contract names, a broken invariant among them, ends the process: the state is
not to be trusted any more, and the daemon replays the requests on a new engine.
"""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, assert_never

from edged.backend import Backend, BackendInfo, find_backend
from edged.clock import Clock
from edged.core.plan import StepPlan
from edged.core.types import Admitted, EngineEvent, FinishEvent, Request, RequestId, SeqId
from edged.engine.disk_tier import DiskReport, DiskTier, TurnedOff
from edged.engine.interrupt import StepInterrupter
from edged.engine.loop import EngineLoop
from edged.engine.mailbox import (
    Answered,
    CancelRequest,
    ChangeTiers,
    Closed,
    CloseEngine,
    DiskReported,
    EngineCommand,
    EngineReport,
    InspectRequests,
    Loaded,
    Progress,
    RequestStates,
    SubmitRequest,
)
from edged.engine.statistics import StatisticsMeter
from edged.engine.text import PromptEncoder
from edged.engine.translate import (
    backend_config,
    kv_key,
    ready,
    request_states,
    scheduler_config,
    snapshot_bytes,
)
from edged.engine.wire import LoadFailed, Loading, Start, Warned
from edged.errors import EdgedError, Reason

EXIT_INTERNAL = 70
"""Exit code after an exception nobody expected (EX_SOFTWARE of sysexits.h)."""
MAX_UNREAD_REPORTS = 4096
PROGRESS_INTERVAL_S = 0.1
"""Least time between two reports of loading progress."""
OPEN_DISK_S = 1.0
"""Longest wait for what a disk holds, before the first request is served."""
PUT_AWAY_S = 5.0
"""Longest that the end is put off to write KV to disk."""
MAX_IDLE_S = 3600.0
"""Longest wait for a command; a lock cannot be told to wait for years."""


class StepRecorder(Protocol):
    """Remembers, outside this process, whose tokens are being computed."""

    def begin_step(self, request_ids: Sequence[RequestId]) -> None: ...

    def end_step(self) -> None: ...


class EngineThread:
    def __init__(
        self,
        start: Start,
        send: Callable[[EngineReport], None],
        clock: Clock,
        recorder: StepRecorder | None,
    ) -> None:
        """`send` is called on the engine thread and must not block; the receiver calls `taken`
        once for each report."""
        self._start = start
        self._send = send
        self._clock = clock
        self._recorder = recorder
        self._mailbox: SimpleQueue[EngineCommand] = SimpleQueue()
        self._unread = threading.Semaphore(MAX_UNREAD_REPORTS)
        self._meter = StatisticsMeter()
        self._interrupter: StepInterrupter | None = None
        """Set before the model is reported loaded; None if its steps cannot be cut short."""
        self._request_ids: dict[SeqId, RequestId] = {}
        self._seq_ids: dict[RequestId, SeqId] = {}

    def launch(self) -> None:
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def post(self, command: EngineCommand) -> None:
        """Any thread may; obeyed before the next step, in order. An urgent request cuts the step
        short that is running."""
        self._mailbox.put(command)
        if self._interrupter is not None and isinstance(command, SubmitRequest):
            self._interrupter.arrive(command.request.service)

    def taken(self) -> None:
        """One report was taken from the I/O thread's queue."""
        self._unread.release()

    # ── On the engine thread ─────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            backend = self._load()
            if backend is not None:
                self._serve(backend)
        except BaseException:  # whatever it was, a process without its engine is of no use
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(EXIT_INTERNAL)

    def _report(self, report: EngineReport) -> None:
        self._unread.acquire()
        self._send(report)

    def _load(self) -> Backend | None:
        progress = _ProgressReporter(self._report, self._clock)
        try:
            create = find_backend(self._start.backend)
            return create(backend_config(self._start), progress)
        except EdgedError as error:
            self._report(LoadFailed(error.reason, error.detail))
        except MemoryError:
            detail = "the model does not fit into memory"
            self._report(LoadFailed(Reason.OUT_OF_MEMORY, detail))
        except OSError as error:
            detail = f"the model cannot be read: {error.strerror or type(error).__name__}"
            self._report(LoadFailed(Reason.BAD_MODEL_FILE, detail))
        return None

    def _serve(self, backend: Backend) -> None:
        engine = EngineLoop(
            backend,
            scheduler_config(self._start, snapshot_bytes(self._start, backend.info)),
            self._clock,
            on_step=self._begin_step,
            on_computed=self._end_compute,
            disk=self._open_disk(backend.info),
        )
        engine.calibrate()
        if backend.info.can_interrupt:
            cost = engine.scheduler.cost
            self._interrupter = StepInterrupter(backend.interrupt, cost, self._clock)
        encoder = PromptEncoder(backend.tokenizer, backend.info)
        self._report(Loaded(ready(backend, self._start), backend.tokenizer, encoder))
        wait_s: float | None = 0.0
        while self._obey(engine, wait_s):
            events = engine.run_once()
            if self._recorder is not None:
                self._recorder.end_step()
            now_s = self._clock.now_s()
            if events:
                self._forget_finished(events)
                self._report(Progress(events, now_s))
            if events is not None:
                self._meter.is_settled = False
            self._measure(engine, now_s)
            wait_s = 0.0 if events is not None else self._idle_s(engine, now_s)
        self._put_away(engine)
        # Not closed: another thread may be tokenizing with it, and the process ends now anyway.
        self._report(Closed())

    def _open_disk(self, info: BackendInfo) -> DiskTier | None:
        start = self._start
        if not (start.disk_bytes and start.keeps_kv and info.can_swap):
            return None
        root = Path(start.disk_directory)
        disk = DiskTier(
            root,
            find_key=lambda: kv_key(start, info, root),
            report=lambda report: self.post(DiskReported(report)),
        )
        disk.open(OPEN_DISK_S)
        return disk

    def _put_away(self, engine: EngineLoop) -> None:
        """Save what is kept for the next engine of this model, as far as there is time."""
        until_s = self._clock.now_s() + PUT_AWAY_S
        with contextlib.suppress(Empty):
            while engine.put_away():
                left_s = max(0.0, until_s - self._clock.now_s())
                command = self._mailbox.get(timeout=left_s)
                if isinstance(command, DiskReported):
                    self._take_disk(engine, command.report)

    def _take_disk(self, engine: EngineLoop, report: DiskReport) -> None:
        engine.take(report)
        self._meter.is_settled = False
        if isinstance(report, TurnedOff):
            self._report(Warned(report.detail))

    def _begin_step(self, plan: StepPlan) -> None:
        if self._recorder is not None:
            touched = [chunk.seq_id for chunk in plan.chunks]
            touched += [evict.seq_id for evict in plan.evict]
            self._recorder.begin_step([self._request_ids[seq_id] for seq_id in touched])
        if self._interrupter is not None and plan.yields_to:
            self._interrupter.begin(plan)
            if not self._mailbox.empty():
                self._interrupter.plan_again()

    def _end_compute(self) -> None:
        if self._interrupter is not None:
            self._interrupter.end()

    def _obey(self, engine: EngineLoop, wait_s: float | None) -> bool:
        """Take every command there is, waiting for a first one; False when it is to close."""
        events: list[Answered | EngineEvent] = []
        is_open = True
        try:
            command = self._mailbox.get(block=wait_s != 0.0, timeout=wait_s)
            while True:
                match command:
                    case SubmitRequest(request):
                        events.append(self._submit(engine, request))
                    case CancelRequest(request_id, reason, detail):
                        finish = engine.cancel(request_id, reason, detail)
                        events.extend(() if finish is None else (finish,))
                    case InspectRequests():
                        self._report(RequestStates(request_states(engine, self._clock.now_s())))
                    case ChangeTiers(tiers):
                        engine.set_tiers(tiers)
                    case DiskReported(report):
                        self._take_disk(engine, report)
                    case CloseEngine():
                        is_open = False
                        break
                    case _:
                        assert_never(command)
                command = self._mailbox.get_nowait()
        except Empty:
            pass
        if events:
            self._meter.is_settled = False
            self._forget_finished(events)
            self._report(Progress(events, self._clock.now_s()))
        return is_open

    def _submit(self, engine: EngineLoop, request: Request) -> Answered:
        outcome = engine.submit(request)
        if isinstance(outcome, Admitted):
            self._request_ids[outcome.seq_id] = request.request_id
            self._seq_ids[request.request_id] = outcome.seq_id
        return Answered(request.request_id, outcome)

    def _forget_finished(self, events: Sequence[Answered | EngineEvent]) -> None:
        for event in events:
            if isinstance(event, FinishEvent):
                del self._request_ids[self._seq_ids.pop(event.request_id)]

    def _measure(self, engine: EngineLoop, now_s: float) -> None:
        if now_s >= self._meter.due_s:
            statistics = self._meter.sample(engine.statistics(), now_s)
            if statistics is not None:
                self._report(statistics)

    def _idle_s(self, engine: EngineLoop, now_s: float) -> float | None:
        """How long there is nothing to do but to wait for a command; None is for ever."""
        due_s = None if self._meter.is_settled else self._meter.due_s
        times_s = [at_s for at_s in (engine.next_wakeup_s(), due_s) if at_s is not None]
        return min(max(0.0, min(times_s) - now_s), MAX_IDLE_S) if times_s else None


class _ProgressReporter:
    """Loading progress, not more often than the daemon can use it."""

    def __init__(self, report: Callable[[Loading], None], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._due_s = 0.0

    def __call__(self, progress: float) -> None:
        now_s = self._clock.now_s()
        if now_s >= self._due_s:
            self._due_s = now_s + PROGRESS_INTERVAL_S
            self._report(Loading(progress))
