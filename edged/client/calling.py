"""Asks one daemon after the other, now and later, until one does it or nothing more can be done."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar, overload

from edged.client.connect.link import Link
from edged.client.errors import (
    ClientError,
    ConnectionLostError,
    DeadlineExceededError,
    RequestCancelledError,
    UnreachableError,
)
from edged.client.retry import NO_RETRIES, Attempts, RetryPolicy, most_telling
from edged.client.route import Route
from edged.clock import Clock
from edged.errors import Reason

AnswerT = TypeVar("AnswerT")

Pause = Callable[[float], Awaitable[None]]
Ask = Callable[[Link, float | None], Awaitable[AnswerT]]
"""Asks one daemon within so many seconds, if there is a limit. Raises ClientError."""


class Caller:
    def __init__(
        self,
        route: Route,
        policy: RetryPolicy | None,
        clock: Clock,
        *,
        pause: Pause = asyncio.sleep,
        draw: random.Random | None = None,
    ) -> None:
        self._route = route
        self._policy = policy or NO_RETRIES
        self._clock = clock
        self._pause = pause
        self._draw = draw or random.Random()
        self._running: set[asyncio.Timeout] = set()
        """Around each call; `close` ends them."""
        self._is_closed = False

    def close(self) -> None:
        """Calls that run, or wait to be tried again, end with RequestCancelledError."""
        self._is_closed = True
        for scope in self._running:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def anywhere(
        self,
        ask: Ask[AnswerT],
        *,
        ends_s: float | None = None,
        without: Collection[Link] = (),
        is_repeatable: bool = True,
    ) -> tuple[Link, AnswerT]:
        """The first answer, and who gave it. `without` are not to be asked. What is not repeatable
        ends with the first daemon that may have done it.

        Raises:
            ClientError: nobody did it; the error that tells most, with those of the others as its
                notes. A wait that would pass `ends_s` is not begun, and a look around ends then.
        """
        if self._is_closed:
            raise RequestCancelledError(Reason.CANCELLED, "the client was closed")
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._running.add(scope)
                return await self._anywhere(ask, ends_s, without, is_repeatable=is_repeatable)
        except TimeoutError:
            raise RequestCancelledError(Reason.CANCELLED, "the client was closed") from None
        finally:
            self._running.discard(scope)

    async def has_others_than(self, lost: Collection[Link], ends_s: float | None) -> bool:
        given = self._route.order()
        return any(link not in lost for link in (*given, *await self._others(ends_s)))

    async def _anywhere(
        self,
        ask: Ask[AnswerT],
        ends_s: float | None,
        without: Collection[Link],
        *,
        is_repeatable: bool,
    ) -> tuple[Link, AnswerT]:
        places = [link for link in self._route.order() if link not in without]
        attempts = Attempts(places, self._policy, self._clock.now_s(), self._draw)
        is_widened = False
        while True:
            due = attempts.due(self._clock.now_s())
            num_after = len(due) + (not is_widened and self._route.may_have_others)
            for link in due:
                num_after -= 1
                try:
                    await self._connect(link, ends_s, num_after)
                    return link, await ask(link, self._remaining_s(ends_s, link))
                except ClientError as error:
                    self._route.note(link, error)
                    may_be_done = isinstance(error, ConnectionLostError | DeadlineExceededError)
                    if may_be_done and not is_repeatable:
                        raise
                    if ends_s is not None and error.reason is Reason.DEADLINE_EXCEEDED:
                        raise  # nobody has more time
                    attempts.failed(link, error, self._clock.now_s())
            if not is_widened:
                is_widened = True
                others = [link for link in await self._others(ends_s) if link not in without]
                attempts.add(others, self._clock.now_s())
                if others:
                    continue
            now_s = self._clock.now_s()
            wait_s = attempts.wait_s(now_s)
            if not attempts.errors:
                raise UnreachableError(Reason.UNREACHABLE, "nobody is left who could be asked")
            if wait_s is None or (ends_s is not None and now_s + wait_s >= ends_s):
                raise most_telling(list(attempts.errors.values()))
            await self._pause(wait_s)

    async def _connect(self, link: Link, ends_s: float | None, num_after: int) -> None:
        """A daemon that is not there leaves those after it their parts of the time. The last one
        is connected to when it is asked, in all the time that is left."""
        if ends_s is not None and num_after:
            await link.connect(self._remaining_s(ends_s, link) / (num_after + 1))

    async def _others(self, ends_s: float | None) -> tuple[Link, ...]:
        """Nobody, if looking for them takes the time that is left."""
        left_s = None if ends_s is None else max(0.0, ends_s - self._clock.now_s())
        try:
            async with asyncio.timeout(left_s):
                return await self._route.others()
        except TimeoutError:
            return ()

    @overload
    def _remaining_s(self, ends_s: float, link: Link) -> float: ...

    @overload
    def _remaining_s(self, ends_s: float | None, link: Link) -> float | None: ...

    def _remaining_s(self, ends_s: float | None, link: Link) -> float | None:
        if ends_s is None:
            return None
        remaining_s = ends_s - self._clock.now_s()
        if remaining_s <= 0:
            error = DeadlineExceededError(
                Reason.DEADLINE_EXCEEDED, "the time that the caller gave has passed"
            )
            error.daemon = link.shown
            raise error
        return remaining_s
