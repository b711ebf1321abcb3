"""An event loop on a thread of its own, for callers that block."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from edged.client.errors import RequestCancelledError
from edged.errors import Reason

ResultT = TypeVar("ResultT")
Work = Coroutine[Any, Any, ResultT]

THREAD_NAME = "edged-client"
CLOSE_TIMEOUT_S = 5.0
"""Longest wait for the thread to end."""


class _Job(Generic[ResultT]):
    """Work that can be given up at any moment: before it has begun, and when it is over."""

    def __init__(self, work: Callable[[], Work[ResultT]]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._is_given_up = False
        self.has_failed = False
        """It has ended with an exception of its own."""

    async def do(self) -> ResultT:
        self._task = asyncio.current_task()
        try:
            if self._is_given_up:
                raise asyncio.CancelledError
            return await self._work()
        except BaseException:
            self.has_failed = True
            raise

    def give_up(self) -> None:
        self._is_given_up = True
        if self._task is not None:
            self._task.cancel()


class LoopThread:
    """Started at once. Does not keep the program from ending."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._thread.start()

    def run(
        self, work: Callable[[], Work[ResultT]], end: Callable[[], None] | None = None
    ) -> ResultT:
        """Wait for `work`. Whatever ends the wait, Ctrl-C above all, cancels it, and does what is
        `end` on the loop: the work may be over already, and what it came to is lost."""
        job = _Job(work)
        try:
            return self._begun(job).result()
        except CancelledError:
            if not self._is_closed:
                raise
            raise RequestCancelledError(Reason.CANCELLED, "the client was closed") from None
        except BaseException:
            if not job.has_failed:
                self._soon(job.give_up)
                self._soon(end)
            raise

    def _begun(self, job: _Job[ResultT]) -> "Future[ResultT]":
        if os.getpid() != self._pid:
            raise RuntimeError("a client does not survive a fork: make another one in the child")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking client was called on its own thread")
        with self._lock:  # what begins after the end would never end
            if self._is_closed:
                raise RequestCancelledError(Reason.CANCELLED, "the client was closed")
            return asyncio.run_coroutine_threadsafe(job.do(), self._loop)

    def _soon(self, action: Callable[[], None] | None) -> None:
        if action is not None and os.getpid() == self._pid:
            with suppress(RuntimeError):  # the loop is closed, and nothing runs any more
                self._loop.call_soon_threadsafe(action)

    def close(self, last: Callable[[], Work[None]]) -> None:
        """Do what is `last`, then end the thread. May be called twice, from any thread, and by the
        garbage collector, which may run on this thread too."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._end, last)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _end(self, last: Callable[[], Work[None]]) -> None:
        async def end() -> None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await last()
            finally:
                self._loop.stop()

        self._closing = self._loop.create_task(end())

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._cancel_what_is_left()
        finally:
            self._loop.close()

    def _cancel_what_is_left(self) -> None:
        """Whoever waits for it is told."""
        if self._closing is not None and self._closing.done():
            with suppress(asyncio.CancelledError):
                self._closing.exception()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S))
