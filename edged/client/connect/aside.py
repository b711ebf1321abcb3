"""Does what blocks on a thread that nobody waits for: neither the program when it ends, nor an
event loop, as it does for those of its own executor."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

ResultT = TypeVar("ResultT")


def begun(work: Callable[[], ResultT]) -> "Future[ResultT]":
    """Cannot be cancelled; whoever waits for it may leave.

    Raises:
        RuntimeError: there can be no more threads.
    """
    future: Future[ResultT] = Future()
    future.set_running_or_notify_cancel()

    def do() -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=do, name="edged-aside", daemon=True).start()
    return future
