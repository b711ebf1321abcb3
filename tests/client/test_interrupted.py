"""Ctrl-C at the worst moments: the request ends, though somebody still holds the stream."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from edged.client import Client, Stream
from edged.client.loop import LoopThread
from tests.client.scripted import (
    WHOLE,
    Context,
    Scripted,
    admitted,
    is_silent,
    playing,
    says,
    then,
    within_time,
)
from tests.client.test_blocking import aside
from tests.rpc.fakes import GATE_TIMEOUT_S

HandOver = Callable[..., "Future[Any]"]


class Interrupted(Future[Any]):
    """When it has its result, Ctrl-C comes."""

    def __init__(self, inner: "Future[Any]") -> None:
        super().__init__()
        self.inner = inner

    def result(self, timeout: float | None = None) -> Any:
        self.inner.result(GATE_TIMEOUT_S)
        raise KeyboardInterrupt


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    own = LoopThread()
    yield own
    own.close(nothing)


async def nothing() -> None:
    pass


def interrupting(
    monkeypatch: pytest.MonkeyPatch, after: Callable[[], object] = lambda: None
) -> None:
    """Ctrl-C comes when work was handed to the loop, before that has returned."""
    hand_over: HandOver = asyncio.run_coroutine_threadsafe

    def hand_over_and_stop(*args: Any) -> "Future[Any]":
        monkeypatch.undo()
        hand_over(*args)
        after()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", hand_over_and_stop)


@contextmanager
def busy(thread: LoopThread) -> Iterator[None]:
    """Nothing begins meanwhile."""
    may_go_on = threading.Event()
    thread._loop.call_soon_threadsafe(may_go_on.wait, GATE_TIMEOUT_S)
    yield
    may_go_on.set()


def interrupted(read: Callable[[], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        read()


async def test_an_event_that_came_with_ctrl_c_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand_over: HandOver = asyncio.run_coroutine_threadsafe
    async with playing(then(says(admitted()), is_silent())) as daemon:
        with Client(daemon.address) as client:
            stream = client.generate("Hi")
            with monkeypatch.context() as patch:
                come = lambda *args: Interrupted(hand_over(*args))  # noqa: E731
                patch.setattr(asyncio, "run_coroutine_threadsafe", come)
                await aside(lambda: interrupted(lambda: next(stream)))
            await daemon.wait_until_given_up()
            assert await aside(lambda: list(stream)) == []


@pytest.mark.parametrize("read", [Stream.__next__, Stream.answer, Stream.close])
async def test_a_read_that_was_just_asked_for_ends_the_request(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Stream], object]
) -> None:
    async with playing(then(says(admitted()), is_silent())) as daemon:
        with Client(daemon.address) as client:
            stream = client.generate("Hi")
            await aside(lambda: next(stream))
            with busy(client._thread):
                interrupting(monkeypatch)
                await aside(lambda: interrupted(lambda: read(stream)))
            await daemon.wait_until_given_up()
            assert await aside(lambda: list(stream)) == []


def test_work_that_was_just_begun_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, thread: LoopThread
) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    interrupting(monkeypatch, lambda: begun.wait(GATE_TIMEOUT_S))
    with pytest.raises(KeyboardInterrupt):
        thread.run(work)
    assert ended.wait(GATE_TIMEOUT_S)


def test_work_that_was_to_begin_does_not(
    monkeypatch: pytest.MonkeyPatch, thread: LoopThread
) -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)

    with busy(thread):
        interrupting(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            thread.run(work)
    thread.run(nothing)
    assert begun == []


async def test_whoever_may_not_wait_does_not_end_the_wait_of_another() -> None:
    may_go_on = asyncio.Event()

    async def waits(daemon: Scripted, context: Context) -> None:
        await may_go_on.wait()

    async with playing(then(waits, says(*WHOLE))) as daemon:
        with Client(daemon.address) as client:
            stream = client.generate("Hi")
            waiting = asyncio.create_task(aside(stream.answer))
            await within_time(daemon.called)
            with pytest.raises(RuntimeError, match="another task waits"):
                await aside(stream.answer)
            may_go_on.set()
            assert (await waiting).text == "Paris"
