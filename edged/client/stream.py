"""One answer as it comes, for callers on an event loop.

Theory of operation: nothing is asked before the first event is, and no task runs between two of
them, so whoever drops the stream has ended it: the call is cancelled with it, and the daemon frees
what it holds before its next step.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError

from edged.client.calling import Caller
from edged.client.connect.link import Link, Reading
from edged.client.convert_events import to_event
from edged.client.errors import ClientError, ProtocolError, RequestCancelledError
from edged.client.events import Admitted, Answer, Event, Finished, PositionLogprobs, Token
from edged.client.retry import LOST_THERE
from edged.clock import Clock
from edged.errors import Reason
from edged.v1 import inference_pb2 as pb

GENERATE = "/edged.v1.InferenceService/Generate"


@dataclass(frozen=True, slots=True)
class Call:
    """What a stream is to ask."""

    request: bytes
    deadline_s: float | None
    """Longest time from the first event's asking to the last event."""
    idle_timeout_s: float


class AsyncStream:
    """Iterate over it. `async with`, `aclose` and dropping it end it early."""

    def __init__(self, caller: Caller, call: Call, clock: Clock) -> None:
        self._caller = caller
        self._call = call
        self._clock = clock
        self._ends_s: float | None = None
        self._reading: Reading | None = None
        self._link: Link | None = None
        self._lost: list[Link] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Timeout | None = None
        """Around whoever waits for the next event; `cancel` ends that wait."""
        self._is_ended = False
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []
        self._admitted: Admitted | None = None
        self._finished: Finished | None = None

    @property
    def text(self) -> str:
        """Of the answer so far."""
        return "".join(self._texts)

    @property
    def request_id(self) -> str | None:
        """None until it is admitted."""
        return None if self._admitted is None else self._admitted.request_id

    @property
    def daemon(self) -> str | None:
        """Which daemon answers; None until it is admitted."""
        return None if self._admitted is None else self._admitted.daemon

    @property
    def finished(self) -> Finished | None:
        """The last event, once it came."""
        return self._finished

    async def answer(self) -> Answer:
        """The rest of the answer, and with what came before the whole of it. Raises ClientError."""
        async for _ in self:
            pass
        if self._admitted is None or self._finished is None:
            raise RuntimeError("the stream was closed before its answer came to an end")
        ids, logprobs = tuple(self._token_ids), tuple(self._logprobs)
        return Answer(self.text, ids, logprobs, self._admitted, self._finished)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Raises ClientError; after that, as after the end, there are no more events."""
        if self._waiting is not None:
            raise RuntimeError("another task waits for the next event of this stream")
        if self._is_ended:
            raise StopAsyncIteration
        try:
            return await self._next_unless_closed()
        except BaseException:
            self.cancel()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it: the daemon is told at once. May be called twice, and while another task waits for
        the next event: that is told RequestCancelledError."""
        self.cancel()

    def cancel(self) -> None:
        """As `aclose`, on the event loop of the stream."""
        self._is_ended = True
        if self._waiting is not None:
            if not self._waiting.expired():
                self._waiting.reschedule(asyncio.get_running_loop().time())
        elif self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def __del__(self) -> None:
        """It may be collected on any thread, and gRPC may be told on its own alone."""
        if self._reading is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and its connections with it
                self._loop.call_soon_threadsafe(self._reading.cancel)

    # ── The next event ───────────────────────────────────────────────────────────────────────────

    async def _next_unless_closed(self) -> Event:
        try:
            async with asyncio.timeout(None) as self._waiting:
                if self._finished is None:
                    return await self._next()
                await self._see_the_end()
        except TimeoutError:
            if self._finished is None:
                raise RequestCancelledError(Reason.CANCELLED, "the stream was closed") from None
        finally:
            self._waiting = None
        raise StopAsyncIteration

    async def _next(self) -> Event:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if self._call.deadline_s is not None:
                self._ends_s = self._clock.now_s() + self._call.deadline_s
        if self._reading is None:
            return await self._begin()
        try:
            return self._took(await _next_event(self._reading))
        except ClientError as error:
            return await self._begin_elsewhere(error)

    async def _begin(self) -> Admitted:
        self._link, (self._reading, admitted) = await self._caller.anywhere(
            self._admission, ends_s=self._ends_s, without=self._lost
        )
        self._admitted = admitted
        return admitted

    async def _admission(self, link: Link, limit_s: float | None) -> tuple[Reading, Admitted]:
        """Ask one daemon, and wait until it has accepted the request."""
        call = self._call
        reading = await link.stream(
            GENERATE, call.request, limit_s=limit_s, idle_timeout_s=call.idle_timeout_s
        )
        try:
            event = await _next_event(reading)
            if not isinstance(event, Admitted):
                raise _breaks_rules(reading, f"began its answer with {type(event).__name__}")
        except BaseException:
            reading.cancel()
            raise
        return reading, event

    async def _begin_elsewhere(self, error: ClientError) -> Admitted:
        """Raises `error`, which has ended an admitted request, if nobody else takes its place."""
        assert self._reading is not None, "it was admitted"
        assert self._link is not None, "somebody admitted it"
        error.request_id = self.request_id or ""
        error.text_so_far = self.text
        self._reading.cancel()
        self._reading = None
        self._lost.append(self._link)
        may_go = error.reason in LOST_THERE and not self._token_ids and not self._texts
        if not may_go or not await self._caller.has_others_than(self._lost, self._ends_s):
            raise error from None
        try:
            return await self._begin()
        except ClientError as other:
            error.add_note(f"{other.daemon}: {other.detail}")
            raise error from None

    def _took(self, event: Event) -> Event:
        if isinstance(event, Token):
            self._texts.append(event.text)
            self._token_ids += event.token_ids
            self._logprobs += event.logprobs
        elif isinstance(event, Finished):
            self._finished = event
        return event

    async def _see_the_end(self) -> None:
        """Let the call end by itself, which is more polite than to cancel what is complete."""
        assert self._reading is not None, "its last event has just come"
        with suppress(ClientError):
            await self._reading.next()


async def _next_event(reading: Reading) -> Event:
    """Raises ClientError."""
    while (message := await reading.next()) is not None:
        try:
            response = pb.GenerateResponse.FromString(message)
        except DecodeError:
            raise _breaks_rules(reading, "sent what is no event of an answer") from None
        event = to_event(response, reading.shown)
        if event is not None:
            return event
    raise _breaks_rules(reading, "ended its answer without saying why")


def _breaks_rules(reading: Reading, how: str) -> ProtocolError:
    error = ProtocolError(Reason.INTERNAL, f"what listens at {reading.shown} {how}")
    error.daemon = reading.shown
    return error
