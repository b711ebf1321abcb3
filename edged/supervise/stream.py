"""One request's events on their way from the engine to whoever asked: bounded, never blocking.

Theory of operation: the daemon's event loop puts, one reader takes. A reader that falls behind
costs nothing but memory: waiting deltas are merged into one, and past `max_backlog_tokens` the
stream fails with SLOW_READER and the request is cancelled. So a slow reader never delays a step.
Events that are no deltas count as one token each, so a backlog without tokens is bounded too.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from edged.core.types import FinishEvent, RequestId
from edged.engine.wire import DeltaLogprob
from edged.errors import EdgedError, Reason


class PauseCause(StrEnum):
    PARK = "park"
    SWAP = "swap"
    RECOMPUTE = "recompute"
    ENGINE_LOST = "engine_lost"


@dataclass(frozen=True, slots=True)
class StreamAdmitted:
    request_id: RequestId
    position: int
    predicted_ttft_s: float
    num_prompt_tokens: int
    promised: bool | None = None


@dataclass(frozen=True, slots=True)
class StreamQueued:
    position: int
    eta_s: float
    eta_bound_s: float
    """inf where nothing can be said."""


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """Tokens `[index, index + len(token_ids))` and the text they completed."""

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[DeltaLogprob, ...]


@dataclass(frozen=True, slots=True)
class StreamPaused:
    cause: PauseCause


@dataclass(frozen=True, slots=True)
class StreamResumed:
    paused_s: float


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """Ended with STOP or LENGTH; every other end is raised as an `EdgedError`."""

    event: FinishEvent
    stop_string: str


StreamEvent = (
    StreamAdmitted | StreamQueued | StreamDelta | StreamPaused | StreamResumed | StreamFinished
)


@dataclass(slots=True)
class _Backlog:
    """Deltas that wait to be read as one."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprobs: list[DeltaLogprob] = field(default_factory=list)
    num_counted_tokens: int = 0
    """Its part of the stream's limit; a delta of text alone counts as one token."""

    def add(self, delta: StreamDelta) -> None:
        assert delta.index == self.index + len(self.token_ids), (
            f"I4: tokens from {delta.index} on follow {self.index + len(self.token_ids)} tokens"
        )
        self.token_ids += delta.token_ids
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.num_counted_tokens += max(1, len(delta.token_ids))

    def delta(self) -> StreamDelta:
        text = "".join(self.texts)
        return StreamDelta(self.index, tuple(self.token_ids), text, tuple(self.logprobs))


class RequestStream:
    """The writer's side is the daemon's (`put`, `fail`), the reader's is `model.Stream`."""

    def __init__(self, max_backlog_tokens: int, on_cancel: Callable[[str], None]) -> None:
        self._max_backlog_tokens = max_backlog_tokens
        self._on_cancel = on_cancel
        self._waiting: deque[StreamEvent | _Backlog] = deque()
        self._num_waiting_tokens = 0
        self._error: EdgedError | None = None
        self._is_ended = False
        self._changed = asyncio.Event()

    # ── The writer's side ────────────────────────────────────────────────────────────────────────

    def put(self, event: StreamEvent) -> bool:
        """Add an event; nothing once the stream has ended.

        False: the reader is too slow. What waited is dropped and the stream fails: the caller
        cancels the request.
        """
        if self._is_ended:
            return True
        last = self._waiting[-1] if self._waiting else None
        if isinstance(event, StreamQueued) and isinstance(last, StreamQueued):
            self._waiting[-1] = event  # only the latest counts
        elif not isinstance(event, StreamDelta):
            self._waiting.append(event)
            self._num_waiting_tokens += 1
        else:
            if not isinstance(last, _Backlog):
                last = _Backlog(event.index)
                self._waiting.append(last)
            last.add(event)
            self._num_waiting_tokens += max(1, len(event.token_ids))
        if isinstance(event, StreamFinished):
            self._is_ended = True
        elif self._num_waiting_tokens > self._max_backlog_tokens:
            self._overflow()
            return False
        self._changed.set()
        return True

    def fail(self, error: EdgedError) -> None:
        """End the stream: the reader gets what waits, and then the error."""
        if not self._is_ended:
            self._is_ended = True
            self._error = error
            self._changed.set()

    def _overflow(self) -> None:
        self._waiting.clear()
        detail = (
            f"the answer was read too slowly: more than {self._max_backlog_tokens} tokens waited"
        )
        self.fail(EdgedError(Reason.SLOW_READER, detail))

    # ── The reader's side ────────────────────────────────────────────────────────────────────────

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event = self._waiting.popleft()
        if isinstance(event, _Backlog):
            self._num_waiting_tokens -= event.num_counted_tokens
            return event.delta()
        self._num_waiting_tokens -= 1
        return event

    def cancel(self, detail: str) -> None:
        """End the request on its engine before the next step; once it has ended, nothing."""
        if not self._is_ended:
            self._on_cancel(detail)
