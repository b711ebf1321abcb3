"""Keeps one model's engine process alive: loads it, listens to it, replaces it when it is lost.

Theory of operation: one task runs one engine after the other. A lost engine is replaced, at first
at once, then with a growing delay, until its losses in a row exceed the limit. A crash while
loading is answered with one more attempt, a refusal to load or a load that takes too long with
none. What the requests go through meanwhile is the book's matter.

| from | to |
|---|---|
| UNLOADED, FAILED | LOADING |
| LOADING | READY, FAILED, UNLOADING |
| READY | RESTARTING, FAILED, UNLOADING |
| RESTARTING | READY, FAILED, UNLOADING |
| UNLOADING | UNLOADED, FAILED |

While UNLOADING the engine serves what it was given, and is replaced if it is lost, all the same.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from edged.clock import Clock
from edged.core.types import RequestId, TierSpec
from edged.engine.wire import (
    Inspected,
    LoadFailed,
    Loading,
    Ready,
    RequestAdmitted,
    RequestRefused,
    SetTiers,
    Start,
    Statistics,
    StepEvents,
    Stop,
    Tokenized,
    Warned,
)
from edged.errors import EdgedError, Reason
from edged.log import get_logger
from edged.supervise.book import RequestBook
from edged.supervise.calls import PendingCalls
from edged.supervise.exits import EngineGarbageError, Loss, LossKind, exit_loss, stall_loss
from edged.supervise.ledger import MemoryLedger
from edged.supervise.model import ModelState
from edged.supervise.process import EngineProcess
from edged.supervise.restarts import RestartBudget
from edged.supervise.spec import ModelSpec
from edged.supervise.stall import StallWatch

TRANSITIONS: Mapping[ModelState, frozenset[ModelState]] = {
    ModelState.UNLOADED: frozenset({ModelState.LOADING}),
    ModelState.LOADING: frozenset({ModelState.READY, ModelState.FAILED, ModelState.UNLOADING}),
    ModelState.READY: frozenset({ModelState.RESTARTING, ModelState.FAILED, ModelState.UNLOADING}),
    ModelState.RESTARTING: frozenset({ModelState.READY, ModelState.FAILED, ModelState.UNLOADING}),
    ModelState.FAILED: frozenset({ModelState.LOADING}),
    ModelState.UNLOADING: frozenset({ModelState.UNLOADED, ModelState.FAILED}),
}

MAX_LOAD_CRASHES = 1
"""Crashes while loading that are answered with another attempt."""
EXIT_S = 2.0
"""Longest time from the end of an engine's socket to the end of its process."""
LONGEST_LOOK_S = 1.0
STEADY_S = 60.0
"""An engine that was lost without work, and was ready for so long, was no part of a series."""


class EngineKeeper:
    """Owned by the event loop. Readable, but written by itself alone."""

    def __init__(
        self,
        spec: ModelSpec,
        book: RequestBook,
        ledger: MemoryLedger,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        """What its engines are run with, from the last `start` on; its tiers are today's."""
        self._book = book
        self._ledger = ledger
        self._account = ledger.account(spec.name)
        self._clock = clock
        self._on_change = on_change
        self._log = get_logger("supervise").bind(model=spec.name)
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._budget = RestartBudget(spec.max_restarts)
        self._num_load_crashes = 0
        self._num_progress_at_loss = 0
        self._ready_at_s = 0.0
        self._told_tiers: tuple[TierSpec, ...] = ()
        """What the engine that runs was told."""
        self.tokenizing: PendingCalls[Tokenized] = PendingCalls("tokens", clock)
        self.inspecting: PendingCalls[Inspected] = PendingCalls("list of requests", clock)
        self.engine: EngineProcess | None = None
        self.ready_engine: EngineProcess | None = None
        """The engine, once it answers."""
        self.state = ModelState.UNLOADED
        self.failure: EdgedError | None = None
        self.load_progress = 0.0
        self.ready: Ready | None = None
        self.statistics: Statistics | None = None
        self.num_losses = 0

    # ── Life ─────────────────────────────────────────────────────────────────────────────────────

    def start(self, spec: ModelSpec) -> None:
        """Begin to load; the model is unloaded or has failed. The name stays the same."""
        self.spec = spec
        self._enter(ModelState.LOADING)
        self._is_stopping = False
        self._budget = RestartBudget(self.spec.max_restarts)
        self._num_load_crashes = 0
        self.failure = None
        run = self._run(self._task)
        self._task = asyncio.create_task(run, name=f"keep {self.spec.name}")

    def set_tiers(self, tiers: tuple[TierSpec, ...]) -> None:
        """Others from now on, for the engine that runs too."""
        self.spec = dataclasses.replace(self.spec, start=replace(self.spec.start, tiers=tiers))
        self._tell_tiers()

    def _tell_tiers(self) -> None:
        if self.ready_engine is not None and self._told_tiers != self.spec.start.tiers:
            self._told_tiers = self.spec.start.tiers
            self.ready_engine.send(SetTiers(self._told_tiers))

    def retire(self) -> None:
        """Say that the engine is to be stopped when its work is done."""
        self._enter(ModelState.UNLOADING)

    async def stop(self) -> None:
        """End the engine, killing it if it does not end by itself in time. The book is empty.
        Of a model that has failed, wait until nothing is left of its engine."""
        task = self._task
        if task is None:
            return
        if self.state is not ModelState.FAILED:
            self._is_stopping = True
            if self.ready_engine is not None:
                self.ready_engine.send(Stop())
                await asyncio.wait((task,), timeout=self.spec.stop_s)
            task.cancel()
        await asyncio.wait((task,))
        if self.state is ModelState.UNLOADING:  # and not FAILED, on its way
            self._enter(ModelState.UNLOADED)

    def _enter(self, state: ModelState) -> None:
        assert state in TRANSITIONS[self.state], f"a model goes from {self.state} to {state}"
        self.state = state
        self.load_progress = 1.0 if state is ModelState.READY else 0.0
        self._on_change()

    def _enter_unless_unloading(self, state: ModelState) -> None:
        if self.state is not ModelState.UNLOADING:
            self._enter(state)

    def _fail(self, reason: Reason, detail: str) -> None:
        """Give the model up, and everything that waits for it."""
        self._log.error("model failed", reason=reason.value, detail=detail)
        self.failure = EdgedError(reason, f"model {self.spec.name!r} has failed: {detail}")
        self._enter(ModelState.FAILED)
        self._book.fail_all(self.failure)

    # ── One engine after the other ───────────────────────────────────────────────────────────────

    async def _run(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:  # a failed engine may not have given its memory back yet
            await asyncio.wait((previous,))
        try:
            while (delay_s := await self._run_engine()) is not None:
                self._on_change()
                await asyncio.sleep(delay_s)
        except (
            Exception
        ) as error:  # a defect of the daemon: nobody may wait for this model for ever
            self._log.exception("supervision failed")
            self._fail(Reason.INTERNAL, f"its supervision met {type(error).__name__}")
        finally:
            self._ledger.release(self._account)

    async def _run_engine(self) -> float | None:
        """One engine, from its start to its end; seconds until the next, None for no next."""
        try:
            engine = await EngineProcess.spawn(self.spec.worker, self._log, self._book.pump)
        except OSError as error:
            detail = f"its engine process cannot be started: {error.strerror}"
            self._fail(Reason.MODEL_FAILED, detail)
            return None
        self.engine = engine
        self._log.info("engine started", pid=engine.pid)
        try:
            async with self._ledger.loading(self._account) as reserved_bytes:
                loaded = await self._load(engine, self._start_command(reserved_bytes))
                if isinstance(loaded, Ready):
                    self._ledger.hold(self._account, loaded)
            if loaded is None:
                return None
            if isinstance(loaded, Loss):
                return self._after_load_loss(loaded)
            self._serve_from_now(engine, loaded)
            loss = await self._serve(engine)
            return None if self._is_stopping else self._after_loss(engine, loss)
        finally:
            self.engine = self.ready_engine = None
            self._book.detach()
            self._fail_calls("was stopped")
            await engine.close()
            self._ledger.lose(self._account)

    def _start_command(self, reserved_bytes: Mapping[str, int]) -> Start:
        start = replace(self.spec.start, reserved_bytes=reserved_bytes)
        lost = self._ledger.held(self._account)
        if start.context_tokens is None and lost is not None:
            # The requests it is to go on with fitted into what the engine before it had.
            start = replace(start, context_tokens=lost.kv.num_cells)
        return start

    async def _load(self, engine: EngineProcess, start: Start) -> Ready | Loss | None:
        """None when the model has failed."""
        timeout_s = self.spec.load_timeout_s
        self._told_tiers = start.tiers
        engine.send(start)
        try:
            async with asyncio.timeout(timeout_s):
                while (event := await engine.receive()) is not None:
                    match event:
                        case Loading(progress):
                            self.load_progress = min(max(progress, 0.0), 1.0)
                            self._on_change()
                        case Ready():
                            return event
                        case LoadFailed(reason, detail):
                            self._log.info("engine refused to load", reason=reason.value)
                            self._fail(Reason.MODEL_FAILED, detail)
                            return None
                        case _:
                            raise EngineGarbageError(f"sent {type(event).__name__} while loading")
        except TimeoutError:
            self._fail(Reason.MODEL_FAILED, f"loading took longer than {timeout_s:g} s")
            return None
        except EngineGarbageError as error:
            return Loss(LossKind.GARBAGE, error.detail)
        return await self._exit(engine, is_loading=True)

    def _serve_from_now(self, engine: EngineProcess, ready: Ready) -> None:
        self._log.info("engine ready", pid=engine.pid, device=ready.device)
        for warning in ready.warnings:
            self._log.warning("engine warns", detail=warning)
        self.ready_engine = engine
        self._num_load_crashes = 0
        self._ready_at_s = self._clock.now_s()
        self.ready = ready
        self.statistics = None
        self._enter_unless_unloading(ModelState.READY)
        self._tell_tiers()
        self._book.attach(engine)

    async def _serve(self, engine: EngineProcess) -> Loss:
        """Listen to an engine until it ends; why it ended."""
        watch = asyncio.create_task(self._watch(engine), name=f"watch {self.spec.name}")
        try:
            while (event := await engine.receive()) is not None:
                self._take(event)
        except EngineGarbageError as error:
            return Loss(LossKind.GARBAGE, error.detail)
        finally:
            watch.cancel()
            await asyncio.wait((watch,))
        if not watch.cancelled():
            return watch.result()
        return await self._exit(engine)

    def _take(self, event: object) -> None:
        match event:
            case RequestAdmitted() | RequestRefused() | StepEvents():
                self._book.take(event)
            case Statistics():
                self.statistics = event
                self._ledger.note(self._account, event.swapped_bytes + event.cached_bytes)
                self._on_change()
            case Warned(detail):
                self._log.warning("engine warns", detail=detail)
            case Tokenized(call_id):
                self.tokenizing.answer(call_id, event)
            case Inspected(call_id):
                self.inspecting.answer(call_id, event)
            case _:
                raise EngineGarbageError(f"sent {type(event).__name__} while it was ready")

    async def _watch(self, engine: EngineProcess) -> Loss:
        """Returns when the engine stalls, having killed it."""
        stall_s = self.spec.stall_s
        look_s = min(stall_s / 10, LONGEST_LOOK_S)
        watch = StallWatch(stall_s, 2 * look_s, self._clock.now_s())
        while True:
            await asyncio.sleep(look_s)
            record = engine.recorder.read()
            if record is not None:
                self._book.note_scheduled(record.executing, record.begun_at_s)
            num_ended = None if record is None else record.num_steps_ended
            is_executing = record is not None and record.is_executing
            self._book.work.asked_since_s = self.tokenizing.open_since_s
            now_s, work = self._clock.now_s(), self._book.work
            if watch.look(now_s, num_ended, work, is_executing=is_executing):
                loss = stall_loss(stall_s, is_stopped=engine.is_stopped())
                engine.kill()
                return loss

    async def _exit(self, engine: EngineProcess, *, is_loading: bool = False) -> Loss:
        """What it means that an engine closed its socket."""
        code = await engine.wait(EXIT_S)
        if code is None:
            return Loss(LossKind.GARBAGE, "closed its socket and ran on")
        return exit_loss(code, engine.output, is_loading=is_loading)

    # ── After a loss ─────────────────────────────────────────────────────────────────────────────

    def _after_loss(self, engine: EngineProcess, loss: Loss) -> float | None:
        record = engine.recorder.read()
        now_s = self._clock.now_s()
        was_idle = self._book.work.since_s is None
        num_in_flight = self._book.num_in_flight
        if record is not None:
            self._book.note_scheduled(record.executing, record.begun_at_s)
        executing = frozenset[RequestId]() if record is None else record.executing
        has_questions = self.tokenizing.open_since_s is not None
        suspects = self._book.lose(loss, executing, has_questions=has_questions)
        self.ready_engine = None
        self.num_losses += 1
        self.statistics = None
        self._fail_calls(loss.cause)
        has_progressed = self._book.num_progress > self._num_progress_at_loss or (
            was_idle and now_s - self._ready_at_s >= STEADY_S
        )
        self._num_progress_at_loss = self._book.num_progress
        self._log.warning(
            "engine lost",
            pid=engine.pid,
            kind=loss.kind.value,
            cause=loss.cause,
            in_flight=num_in_flight,
            suspects=sorted(suspects),
        )
        return self._back_off(loss, has_progressed=has_progressed)

    def _after_load_loss(self, loss: Loss) -> float | None:
        self.num_losses += 1
        self._log.warning("engine lost while loading", kind=loss.kind.value, cause=loss.cause)
        self.load_progress = 0.0
        if not loss.is_blamable:
            return self._back_off(loss, has_progressed=False)
        self._num_load_crashes += 1
        if self._num_load_crashes > MAX_LOAD_CRASHES:
            self._fail(Reason.MODEL_FAILED, f"the engine {loss.cause}")
            return None
        return 0.0

    def _back_off(self, loss: Loss, *, has_progressed: bool) -> float | None:
        """Seconds until the next engine; None when the model has failed."""
        delay_s = self._budget.lose(has_progressed=has_progressed)
        if delay_s is None:
            detail = (
                f"its engine was lost {self._budget.num_losses} times in a row without a token; "
                f"the last one {loss.cause}"
            )
            self._fail(Reason.ENGINE_LOST, detail)
            return None
        if self.state is ModelState.READY:
            self._enter(ModelState.RESTARTING)
        return delay_s

    def _fail_calls(self, cause: str) -> None:
        error = EdgedError(Reason.ENGINE_LOST, f"the engine {cause}", retry_after_s=1.0)
        self.tokenizing.fail_all(error)
        self.inspecting.fail_all(error)
