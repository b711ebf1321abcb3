"""One configured model as the daemon's front sees it: requests, questions, load and unload.

Theory of operation: the book has the requests, the keeper has the engine; here is what a front may
ask of the two together. A model that is unloaded refuses new work, lets what it has finish, cancels
what is left, and only then stops its engine.
"""

import asyncio
from collections.abc import Callable, Sequence

from edged.clock import Clock
from edged.core.types import FinishEvent, RequestId
from edged.engine.wire import Inspect, Prompt, RequestState, Tokenize
from edged.errors import EdgedError, Reason
from edged.log import get_logger
from edged.supervise import ends
from edged.supervise.book import RequestBook
from edged.supervise.journal import write_end
from edged.supervise.keeper import EngineKeeper
from edged.supervise.ledger import MemoryLedger
from edged.supervise.model import (
    ModelProgress,
    ModelState,
    ModelStatus,
    RequestRow,
    RequestView,
    Submission,
)
from edged.supervise.ports import BookLimits
from edged.supervise.replay import Replay
from edged.supervise.spec import ModelSpec
from edged.supervise.stream import RequestStream

INSPECT_S = 2.0
"""Longest wait for the engine's list of requests; the daemon's own knowledge stands in for it."""
CANCEL_S = 2.0
"""Longest wait for an engine to let go of cancelled requests before they end without it."""
LOADING_RETRY_S = 1.0


class ModelHandle:
    def __init__(
        self,
        spec: ModelSpec,
        ledger: MemoryLedger,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        """Must be made on a running event loop; starts nothing."""
        self._spec = spec
        """What it is run with when it is loaded next; the keeper has what it runs with now."""
        self._clock = clock
        log = get_logger("requests")

        def on_end(replay: Replay, event: FinishEvent | None, error: EdgedError | None) -> None:
            write_end(log, spec.name, replay, event=event, error=error, now_s=clock.now_s())

        self._book = RequestBook(
            _limits(spec), clock, asyncio.get_running_loop().call_later, on_end
        )
        self._keeper = EngineKeeper(spec, self._book, ledger, clock, on_change)
        self._retiring: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def drain_s(self) -> float:
        """Longest time that running requests have when the model is unloaded."""
        return self._spec.drain_s

    @property
    def num_in_flight(self) -> int:
        return self._book.num_in_flight

    async def wait_until_idle(self) -> None:
        await self._book.wait_until_idle()

    def request_ids(self) -> list[RequestId]:
        return self._book.request_ids()

    def knows(self, request_id: RequestId) -> bool:
        return self._book.knows(request_id)

    # ── Requests ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, submission: Submission) -> RequestStream:
        """As `model.Models.submit`."""
        self._check_takes_work()
        return self._book.submit(submission)

    def cancel(self, request_id: RequestId, detail: str) -> None:
        self._book.cancel(request_id, detail)

    async def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """As `model.Models.tokenize`."""
        self._check_takes_work()
        engine = self._keeper.ready_engine
        if engine is None or not engine.is_writable or self._book.is_trying:
            why = "trying a request alone" if self._book.is_trying else self._keeper.state
            detail = f"model {self.name!r} is {why}; it answers when it is ready for all"
            raise EdgedError(Reason.MODEL_LOADING, detail, retry_after_s=LOADING_RETRY_S)
        self._book.work.tokenize(prompt, self._clock.now_s())
        answer = await self._keeper.tokenizing.ask(
            lambda call_id: engine.send(Tokenize(call_id, prompt)), self._keeper.spec.call_s
        )
        if answer.refusal is not None:
            raise ends.refused(answer.refusal)
        return answer.token_ids

    async def list_requests(self) -> list[RequestRow]:
        """What the engine has, in its order, then what only the daemon knows of."""
        states = {state.request_id: state for state in await self._inspect()}
        views = {view.submission.request_id: view for view in self._book.views()}
        rows: list[RequestState | RequestView] = [
            *(state for known, state in states.items() if known in views),
            *(view for known, view in views.items() if known not in states),
        ]
        return [RequestRow(self.name, row) for row in rows]

    async def _inspect(self) -> Sequence[RequestState]:
        """The engine's list; empty when it has no requests or does not answer in time."""
        engine = self._keeper.ready_engine
        if engine is None or not engine.is_writable or self._book.work.since_s is None:
            return ()
        try:
            answer = await self._keeper.inspecting.ask(
                lambda call_id: engine.send(Inspect(call_id)), INSPECT_S
            )
        except EdgedError:
            return ()
        return answer.requests

    # ── Life ─────────────────────────────────────────────────────────────────────────────────────

    def status(self, *, is_default: bool) -> ModelStatus:
        keeper = self._keeper
        return ModelStatus(
            name=self.name,
            is_default=is_default,
            state=keeper.state,
            load_progress=keeper.load_progress,
            failure="" if keeper.failure is None else keeper.failure.detail,
            engine_pid=None if keeper.engine is None else keeper.engine.pid,
            num_engine_losses=keeper.num_losses,
            ready=keeper.ready,
            statistics=keeper.statistics,
            num_in_flight=self.num_in_flight,
            waiting_settings=self._waiting_settings(),
        )

    def take(self, spec: ModelSpec) -> None:
        """It is configured otherwise. Tiers and what concerns the daemon alone hold from now on,
        the rest when it is loaded next."""
        assert spec.name == self.name, f"{spec.name!r} is not {self.name!r}"
        self._spec = spec
        self._keeper.set_tiers(spec.start.tiers)
        self._book.set_limits(_limits(spec))

    def _waiting_settings(self) -> tuple[str, ...]:
        if self._keeper.state in (ModelState.UNLOADED, ModelState.FAILED):
            return ()
        now, then = self._keeper.spec.settings, self._spec.settings
        return tuple(name for name in then if then[name] != now.get(name))

    def progress(self) -> ModelProgress:
        """Read from the engine's page itself, not from what the watch over it has seen."""
        keeper = self._keeper
        engine = keeper.engine
        record = None if engine is None else engine.recorder.read()
        return ModelProgress(
            name=self.name,
            state=keeper.state,
            num_in_flight=self.num_in_flight,
            engine_pid=None if engine is None else engine.pid,
            has_ready_engine=keeper.ready_engine is not None,
            num_steps_ended=None if record is None else record.num_steps_ended,
            is_executing=record is not None and record.is_executing,
            tokenizing_until_s=self._book.work.tokenizing_until_s,
            stall_s=self._keeper.spec.stall_s,
            load_timeout_s=self._keeper.spec.load_timeout_s,
        )

    def load(self) -> None:
        """Start to load; a model that is loading or ready is left alone.

        Raises:
            EdgedError: MODEL_UNLOADED while it is being unloaded.
        """
        state = self._keeper.state
        if state is ModelState.UNLOADING:
            detail = f"model {self.name!r} is being unloaded; load it again when that is done"
            raise EdgedError(Reason.MODEL_UNLOADED, detail, retry_after_s=LOADING_RETRY_S)
        if state in (ModelState.UNLOADED, ModelState.FAILED):
            self._keeper.start(self._spec)

    async def retire(self, drain_s: float, detail: str) -> None:
        """Refuse new work, wait `drain_s` for what there is, cancel the rest with `detail`, and
        stop the engine. Goes on though the caller is cancelled. A second call waits for the same
        end, at most its own `drain_s` for the work."""
        if self._keeper.state in (ModelState.UNLOADED, ModelState.FAILED):
            await self._keeper.stop()
            return
        if self._retiring is None or self._retiring.done():
            self._keeper.retire()
            self._retiring = asyncio.create_task(self._retire(drain_s, detail))
        else:
            await self._finish_work(drain_s, detail)
        await asyncio.shield(self._retiring)

    async def _retire(self, drain_s: float, detail: str) -> None:
        await self._finish_work(drain_s, detail)
        await self._keeper.stop()

    async def _finish_work(self, drain_s: float, detail: str) -> None:
        """Returns when there is no request any more."""
        if await self._is_idle_within(drain_s):
            return
        self._book.cancel_all(detail)
        if not await self._is_idle_within(CANCEL_S):
            self._book.fail_all(EdgedError(Reason.CANCELLED, detail))

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._book.wait_until_idle()
        except TimeoutError:
            return False
        return True

    def _check_takes_work(self) -> None:
        match self._keeper.state:
            case ModelState.FAILED:
                assert self._keeper.failure is not None, "a failed model says why"
                raise EdgedError(self._keeper.failure.reason, self._keeper.failure.detail)
            case ModelState.UNLOADED:
                detail = f"model {self.name!r} is not loaded"
                raise EdgedError(Reason.MODEL_UNLOADED, detail)
            case ModelState.UNLOADING:
                detail = f"model {self.name!r} is being unloaded"
                raise EdgedError(Reason.MODEL_UNLOADED, detail)
            case ModelState.LOADING | ModelState.READY | ModelState.RESTARTING:
                return


def _limits(spec: ModelSpec) -> BookLimits:
    return BookLimits(
        max_held=spec.max_held,
        max_backlog_tokens=spec.max_backlog_tokens,
        max_queue_s={tier.tier: tier.max_queue_s for tier in spec.start.tiers},
    )
