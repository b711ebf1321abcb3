"""Ctrl-C during a stream: what gRPC is doing then is done to its end."""

import os
import signal
from collections.abc import Iterator

import pytest

from edged.cli.remote import Connection
from edged.client.connect.target import Plaintext, Target

NOWHERE = Target("127.0.0.1:1", "127.0.0.1:1", Plaintext())


class Stream:
    """Like a call's: the user presses Ctrl-C in the middle of its bookkeeping."""

    def __init__(self, *, is_pressed: bool) -> None:
        self.is_pressed = is_pressed
        self.is_whole = True
        self.is_cancelled = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.is_whole = False
        if self.is_pressed:
            os.kill(os.getpid(), signal.SIGINT)
            # It is seen at one of the next instructions.
            assert any(self.is_cancelled for _ in range(100_000))
        self.is_whole = True
        return "hello"

    def cancel(self) -> bool:
        self.is_cancelled = True
        return True


@pytest.fixture
def connection() -> Iterator[Connection]:
    """None is made; a Ctrl-C raises, also where the tests' own shell ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Connection(NOWHERE, None) as connection:
        yield connection
    signal.signal(signal.SIGINT, handler)


def test_an_interrupt_cancels_and_comes_after(connection: Connection) -> None:
    stream = Stream(is_pressed=True)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        next(connection.each(stream))
    assert stream.is_cancelled
    assert stream.is_whole, "it was cut short in the middle"
    assert signal.getsignal(signal.SIGINT) is handler


def test_between_two_messages_it_is_an_ordinary_one(connection: Connection) -> None:
    stream = Stream(is_pressed=False)
    handler = signal.getsignal(signal.SIGINT)
    assert next(connection.each(stream)) == "hello"
    assert signal.getsignal(signal.SIGINT) is handler
    assert not stream.is_cancelled
