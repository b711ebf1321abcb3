"""Who calls: a value made of a door, a token or a user, and handed to the handlers."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from edged.node.trust.grant import Grant


class Door(StrEnum):
    """The ways into a daemon. Each has its own server, so that a flood at one leaves the others'
    places alone, and that the door of a call is known."""

    UNIX = "unix"
    """The socket: the system says which user calls."""
    LOOPBACK = "loopback"
    """TCP from this host, in plaintext: whoever can run a program here."""
    NETWORK = "network"
    """TCP from other hosts: TLS and tokens."""


@dataclass(frozen=True, slots=True)
class Caller:
    door: Door
    grant: Grant
    key: str
    """Requests of one key are of one caller: it sees and cancels those."""
    counts_as: str | None
    """Its client ids begin with this; None: they are what it says, which has no ":" in it."""
    token_id: str | None = None


_CALLER: ContextVar[Caller] = ContextVar("caller")


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """For the handler of one call, and for what it starts."""
    reset = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(reset)


def current_caller() -> Caller:
    """Who called the method that runs. There is none in a method that is open to all."""
    return _CALLER.get()
