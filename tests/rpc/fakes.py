"""An in-memory `Models` that keeps the contract of `edged.supervise.model`, played by hand."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc

from edged.core.memory import MemoryReport, MemoryUse, Pool
from edged.core.types import (
    FinishEvent,
    FinishReason,
    KvGeometry,
    RequestId,
    RequestTimings,
)
from edged.engine.wire import Prompt, Ready
from edged.errors import EdgedError, Reason
from edged.supervise.model import ModelState, ModelStatus, RequestRow, Submission
from edged.supervise.stream import (
    StreamAdmitted,
    StreamDelta,
    StreamEvent,
    StreamFinished,
)

GATE_TIMEOUT_S = 20.0
"""Longest wait for something that must happen; a test that reaches it has failed."""


class PlayedStream:
    """One answer, put by the test. Bounded and never blocking, like the real one."""

    def __init__(self, submission: Submission, max_backlog_tokens: int = 8192) -> None:
        self.submission = submission
        self.cancelled = asyncio.Event()
        self.cancel_details: list[str] = []
        self.num_taken = 0
        self.call: grpc.aio.UnaryStreamCall | None = None
        """The client's, for tests that keep it here: gRPC ends one that nobody keeps."""
        self._taken = asyncio.Condition()
        self._max_backlog_tokens = max_backlog_tokens
        self._waiting: deque[StreamEvent] = deque()
        self._error: EdgedError | None = None
        self._is_ended = False
        self._woken = asyncio.Event()

    def put(self, *events: StreamEvent) -> None:
        """Events from the engine; those after the end are dropped."""
        for event in events:
            if self._is_ended:
                return
            self._add(event)
            self._is_ended = isinstance(event, StreamFinished)
        self._woken.set()

    def fail(self, error: EdgedError) -> None:
        if not self._is_ended:
            self._error = error
            self._is_ended = True
            self._woken.set()

    def cancel(self, detail: str) -> None:
        if not self._is_ended:
            self.cancel_details.append(detail)
            self.cancelled.set()
            self.fail(EdgedError(Reason.CANCELLED, detail))

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        while True:
            while self._waiting:
                event = self._waiting.popleft()
                self.num_taken += 1
                async with self._taken:
                    self._taken.notify_all()
                yield event
                if isinstance(event, StreamFinished):
                    return
            if self._error is not None:
                raise self._error
            self._woken.clear()
            await self._woken.wait()

    async def wait_until_taken(self, num_events: int) -> None:
        async with asyncio.timeout(GATE_TIMEOUT_S), self._taken:
            await self._taken.wait_for(lambda: self.num_taken >= num_events)

    async def wait_until_cancelled(self) -> None:
        async with asyncio.timeout(GATE_TIMEOUT_S):
            await self.cancelled.wait()

    @property
    def num_backlog_events(self) -> int:
        return len(self._waiting)

    @property
    def num_backlog_tokens(self) -> int:
        """What is not a delta counts as one token."""
        return sum(
            max(1, len(one.token_ids)) if isinstance(one, StreamDelta) else 1
            for one in self._waiting
        )

    def _add(self, event: StreamEvent) -> None:
        last = self._waiting[-1] if self._waiting else None
        if isinstance(event, StreamDelta) and isinstance(last, StreamDelta):
            self._waiting[-1] = StreamDelta(
                last.index,
                last.token_ids + event.token_ids,
                last.text + event.text,
                last.logprobs + event.logprobs,
            )
        else:
            self._waiting.append(event)
        if self.num_backlog_tokens > self._max_backlog_tokens:
            self._waiting.clear()
            self.fail(EdgedError(Reason.SLOW_READER, "too many tokens wait to be read"))


class PlayedModels:
    """Configured models without engines. What they answer is set on the attributes."""

    def __init__(self, *statuses: ModelStatus) -> None:
        self.statuses = {status.name: status for status in statuses}
        self.submitted: asyncio.Queue[PlayedStream] = asyncio.Queue()
        self.asked_models: list[str] = []
        self.max_backlog_tokens = 8192
        self.refusal: Exception | None = None
        """Raised by every method that may raise."""
        self.rows: tuple[RequestRow, ...] = ()
        self.request_ids: tuple[RequestId, ...] = ()
        self.prompts: list[Prompt] = []
        self.token_ids: tuple[int, ...] = (1, 2, 3)
        self.loads: asyncio.Queue[str] = asyncio.Queue()
        self.unloads: asyncio.Queue[str] = asyncio.Queue()
        self.may_unload = asyncio.Event()
        self.may_tokenize = asyncio.Event()
        self.may_tokenize.set()
        self.num_in_flight = 0
        self._changed = asyncio.Event()

    async def next_stream(self) -> PlayedStream:
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return await self.submitted.get()

    def set_status(self, name: str, **changes: object) -> None:
        self.statuses[name] = replace(self.statuses[name], **changes)
        self.announce_change()

    def announce_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def submit(self, model: str, submission: Submission) -> PlayedStream:
        self._refuse()
        self._known(model)
        self.asked_models.append(model)
        stream = PlayedStream(submission, self.max_backlog_tokens)
        self.submitted.put_nowait(stream)
        return stream

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        self._refuse()
        self._known(model)
        self.prompts.append(prompt)
        await self.may_tokenize.wait()
        return self.token_ids

    def status(self) -> tuple[ModelStatus, ...]:
        return tuple(self.statuses.values())

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    async def list_requests(self) -> tuple[RequestRow, ...]:
        return self.rows

    def cancel(self, request_id_prefix: str) -> RequestId:
        found = [one for one in self.request_ids if one.startswith(request_id_prefix)]
        if len(found) != 1:
            raise EdgedError(
                Reason.UNKNOWN_REQUEST, f"{len(found)} requests begin with {request_id_prefix}"
            )
        return found[0]

    async def load(self, model: str) -> None:
        self._refuse()
        self._known(model)
        if self.status()[0].state is not ModelState.RESTARTING:
            self.set_status(model, state=ModelState.LOADING, load_progress=0.0)
        self.loads.put_nowait(model)

    async def unload(self, model: str) -> None:
        self._refuse()
        self._known(model)
        self.set_status(model, state=ModelState.UNLOADING)
        self.unloads.put_nowait(model)
        await self.may_unload.wait()
        self.set_status(model, state=ModelState.UNLOADED, engine_pid=None)

    async def drain(self, drain_s: float) -> None:
        raise AssertionError("the front asks the daemon to drain, never the models")

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _known(self, model: str) -> None:
        if model and model not in self.statuses:
            raise EdgedError(Reason.UNKNOWN_MODEL, f"there is no model {model!r}")


def ready() -> Ready:
    return Ready(
        backend="sim",
        model_description="tiny",
        model_bytes=1000,
        device="cpu",
        kv=KvGeometry(
            num_slots=4,
            num_cells=2048,
            max_cells_per_slot=512,
            bytes_per_cell=64,
            snapshot_bytes_per_cell=64,
            snapshot_bytes_fixed=0,
            effective_type_k="q8_0",
            effective_type_v="q8_0",
        ),
        max_step_tokens=512,
        can_interrupt=True,
        memory=MemoryReport(
            uses=(MemoryUse("host", 1000, 131072, 500, mapped_bytes=900),),
            pools=(Pool("host", 10**9, 2 * 10**6, 10**6, 1000, 500, 2),),
            kv_limit_bytes=131072,
            is_kv_limit_given=True,
            host_left_bytes=10**8,
        ),
        snapshot_bytes=2**30,
        disk_bytes=2**31,
    )


def model_status(
    name: str = "tiny", *, is_default: bool = True, state: ModelState = ModelState.READY
) -> ModelStatus:
    return ModelStatus(
        name=name,
        is_default=is_default,
        state=state,
        load_progress=1.0,
        failure="",
        engine_pid=4321,
        num_engine_losses=0,
        ready=ready(),
        statistics=None,
        num_in_flight=0,
    )


def admitted(stream: PlayedStream) -> StreamAdmitted:
    return StreamAdmitted(
        request_id=stream.submission.request_id,
        position=2,
        predicted_ttft_s=0.25,
        num_prompt_tokens=7,
    )


def delta(index: int, text: str = "x", num_tokens: int = 1) -> StreamDelta:
    return StreamDelta(
        index=index, token_ids=tuple(range(index, index + num_tokens)), text=text, logprobs=()
    )


def finished(
    stream: PlayedStream,
    reason: FinishReason = FinishReason.STOP,
    *,
    num_tokens: int = 0,
    stop_string: str = "",
) -> StreamFinished:
    timings = RequestTimings(
        queue_s=0.5,
        ttft_s=0.75,
        tpot_s=0.125,
        total_s=2.0,
        num_preemptions=3,
        num_engine_losses=1,
        met_ttft=True,
        met_tpot=None,
    )
    event = FinishEvent(stream.submission.request_id, reason, 7, num_tokens, timings)
    return StreamFinished(event, stop_string)
