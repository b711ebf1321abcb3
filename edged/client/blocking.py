"""The client for programs that block: an `AsyncClient` on a thread of its own."""

import os
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from edged.client.aio import DEFAULT_RETRY, DEFAULT_TIMEOUTS, AsyncClient, Timeouts
from edged.client.asking import Options, Prompt
from edged.client.events import Answer, Event, Finished
from edged.client.lan.nearby import discover
from edged.client.loop import LoopThread
from edged.client.retry import RetryPolicy
from edged.client.route import Where
from edged.client.stream import AsyncStream
from edged.client.values import Identity, Model, Request, Status, Tier, TokenCount

if TYPE_CHECKING:
    from edged.client.lan.browse import Discovery


class Stream:
    """One answer as it comes: iterate over it. `with`, `close` and dropping it end it early, and
    so does Ctrl-C. One thread at a time may wait for the next event."""

    def __init__(self, client: "Client", stream: AsyncStream, thread: LoopThread) -> None:
        self._client = client
        """Whoever has the stream alone keeps its connection."""
        self._stream = stream
        self._thread = thread

    @property
    def text(self) -> str:
        """Of the answer so far."""
        return self._stream.text

    @property
    def request_id(self) -> str | None:
        """None until it is admitted."""
        return self._stream.request_id

    @property
    def daemon(self) -> str | None:
        """Which daemon answers; None until it is admitted."""
        return self._stream.daemon

    @property
    def finished(self) -> Finished | None:
        """The last event, once it came."""
        return self._stream.finished

    def answer(self) -> Answer:
        """The rest of the answer, and with what came before the whole of it. Raises ClientError."""
        return self._thread.run(self._stream.answer, self._stream.cancel)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Raises ClientError; after that, as after the end, there are no more events."""
        event = self._thread.run(self._next, self._stream.cancel)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it: the daemon is told at once. May be called twice, after the client's, and while
        another thread waits for the next event: that is told RequestCancelledError."""
        if not self._client.is_closed:
            self._thread.run(self._stream.aclose, self._stream.cancel)

    async def _next(self) -> Event | None:
        return await anext(self._stream, None)


class Client:
    """`AsyncClient` for programs that block; its documentation holds. Several threads may share
    one, and run a stream each. It has a thread, which `close` ends, as do leaving `with`, dropping
    the client and the end of the program."""

    def __init__(
        self,
        where: Where = None,
        *,
        token: str | None = None,
        client: str = "",
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        retry: RetryPolicy | None = DEFAULT_RETRY,
        fall_over: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises ClientError: what was given is no address, or has to be paired with first."""
        self._async = AsyncClient(
            where,
            token=token,
            client=client,
            timeouts=timeouts,
            retry=retry,
            fall_over=fall_over,
            environ=environ,
        )
        self._thread = LoopThread()
        self._close = weakref.finalize(self, self._thread.close, self._async.aclose)

    @property
    def is_closed(self) -> bool:
        return not self._close.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; what runs ends with RequestCancelledError."""
        self._close()

    @staticmethod
    def discover(
        timeout_s: float | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> "Discovery":
        """The daemons that answer on the local network, those that were paired with first."""
        return discover(timeout_s, environ=environ)

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Stream:
        """One answer, event by event: iterate over it. The daemon is asked when the first event is.

        Raises:
            BadRequestError: the prompt or an option is of the wrong kind. All else comes from the
                iteration.
        """
        return Stream(self, self._async.generate(prompt, **options), self._thread)

    def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Answer:
        """One whole answer. Raises ClientError, with the text as far as it came."""
        return self._thread.run(lambda: self._async.complete(prompt, **options))

    def tokenize(self, prompt: Prompt, *, model: str | None = None) -> tuple[int, ...]:
        """The token ids of a prompt, as `generate` would see them."""
        return self._thread.run(lambda: self._async.tokenize(prompt, model=model))

    def count_tokens(self, prompt: Prompt, *, model: str | None = None) -> TokenCount:
        """How many tokens a prompt has, and how many a request may have."""
        return self._thread.run(lambda: self._async.count_tokens(prompt, model=model))

    # ── The daemon: of several, the first that answers ───────────────────────────────────────────

    def status(self) -> Status:
        """What the daemon is doing."""
        return self._thread.run(self._async.status)

    def models(self) -> tuple[Model, ...]:
        """Its configured models."""
        return self._thread.run(self._async.models)

    def tiers(self) -> tuple[Tier, ...]:
        """Its tiers, most urgent first."""
        return self._thread.run(self._async.tiers)

    def requests(self) -> tuple[Request, ...]:
        """Every request that is not finished, most urgent first."""
        return self._thread.run(self._async.requests)

    def cancel(self, request_id: str) -> str:
        """End a request, of whatever program, by its id or the beginning of it; its whole id.
        Every daemon is asked until one knows it; never again, where one may have done it: another
        request may have the same beginning."""
        return self._thread.run(lambda: self._async.cancel(request_id))

    def identity(self) -> Identity:
        """Who the daemon is, and what this client may do."""
        return self._thread.run(self._async.identity)
