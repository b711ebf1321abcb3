"""Questions to an engine and their answers, matched by call id; bounded in number and in time."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from edged.clock import Clock
from edged.errors import EdgedError, Reason

MAX_CALLS = 1024
CALL_RETRY_S = 1.0

AnswerT = TypeVar("AnswerT")


class PendingCalls(Generic[AnswerT]):
    """Calls of one kind that have not been answered."""

    def __init__(self, what: str, clock: Clock) -> None:
        """`what` names the answer, for a person: "the engine sent no … within 5 s"."""
        self._what = what
        self._clock = clock
        self._begun_s: dict[int, float] = {}
        self._futures: dict[int, asyncio.Future[AnswerT]] = {}
        self._next_call_id = 0

    @property
    def open_since_s(self) -> float | None:
        """When the oldest that is not answered was asked; None if there is none."""
        return next(iter(self._begun_s.values()), None)

    async def ask(self, send: Callable[[int], None], timeout_s: float) -> AnswerT:
        """Send a call, by its id, and wait for its answer.

        Raises:
            EdgedError: QUEUE_FULL (too many wait, or no answer in time), and what `fail_all` is
                given.
        """
        if len(self._futures) >= MAX_CALLS:
            detail = f"{MAX_CALLS} calls wait for {self._what} already"
            raise EdgedError(Reason.QUEUE_FULL, detail, retry_after_s=CALL_RETRY_S)
        call_id = self._next_call_id
        self._next_call_id += 1
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._futures[call_id] = future
        self._begun_s[call_id] = self._clock.now_s()
        try:
            send(call_id)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            detail = f"the engine sent no {self._what} within {timeout_s:g} s"
            raise EdgedError(Reason.QUEUE_FULL, detail, retry_after_s=CALL_RETRY_S) from error
        finally:
            del self._futures[call_id], self._begun_s[call_id]

    def answer(self, call_id: int, answer: AnswerT) -> None:
        """One that nobody waits for any more is ignored."""
        future = self._futures.get(call_id)
        if future is not None and not future.done():
            future.set_result(answer)

    def fail_all(self, error: EdgedError) -> None:
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
