"""Decides what follows a failed attempt: nothing, another daemon, or the same one later.

Theory of operation: a daemon that refused a request has not begun it, and one whose connection was
lost before it said `admitted` drops it when it sees that. So asking again computes nothing twice
that anybody reads. From `admitted` on the same daemon is never asked again; another may be, as long
as no token came.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from edged.client.errors import ClientError
from edged.errors import Reason

PlaceT = TypeVar("PlaceT")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a call that was not admitted is tried again. To fall over to another
    daemon is no retry."""

    max_attempts: int = 4
    """Of each daemon."""
    max_wait_s: float = 30.0
    """After this time, from the first attempt on, no other begins."""
    first_backoff_s: float = 0.25
    """Doubled each time, where the daemon does not say when."""
    max_backoff_s: float = 8.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; expected at least 1")
        for name in ("max_wait_s", "first_backoff_s", "max_backoff_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")


NO_RETRIES = RetryPolicy(max_attempts=1)


_MAX_DOUBLINGS = 64
"""A patient program would run out of numbers."""


class Remedy(Enum):
    NONE = auto()
    """It fails everywhere and always, or is something to be told at once."""
    ELSEWHERE = auto()
    """Another daemon may do it; this one will not soon."""
    LATER = auto()
    """This one may do it soon; another may do it now."""


REMEDIES: Mapping[Reason, Remedy] = dict.fromkeys(Reason, Remedy.NONE) | {
    Reason.UNREACHABLE: Remedy.LATER,
    Reason.DRAINING: Remedy.LATER,
    Reason.MODEL_LOADING: Remedy.LATER,
    Reason.ENGINE_LOST: Remedy.LATER,
    Reason.QUEUE_FULL: Remedy.LATER,
    Reason.CLIENT_SHARE: Remedy.LATER,
    Reason.RATE_LIMITED: Remedy.LATER,
    Reason.CONCURRENCY_LIMITED: Remedy.LATER,
    Reason.UNKNOWN_MODEL: Remedy.ELSEWHERE,
    Reason.UNKNOWN_REQUEST: Remedy.ELSEWHERE,
    Reason.MODEL_FAILED: Remedy.ELSEWHERE,
    Reason.MODEL_UNLOADED: Remedy.ELSEWHERE,
    # Of a method with a limit of its own; the time that the caller gave is over everywhere.
    Reason.DEADLINE_EXCEEDED: Remedy.ELSEWHERE,
    # To be told rather than to wait is what the caller asked for.
    Reason.UNATTAINABLE: Remedy.ELSEWHERE,
    # It has waited as long as its tier allows.
    Reason.QUEUE_TIMEOUT: Remedy.ELSEWHERE,
}
LOST_THERE = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.DRAINING,
        Reason.ENGINE_LOST,
        Reason.MODEL_FAILED,
        Reason.QUEUE_TIMEOUT,
    }
)
"""Ends of an admitted request after which another daemon may be asked, until a token came."""


class Attempts(Generic[PlaceT]):
    """The attempts of one call at several places, each of which is asked `max_attempts` times."""

    def __init__(
        self, places: Iterable[PlaceT], policy: RetryPolicy, started_s: float, draw: random.Random
    ) -> None:
        self._due_s = dict.fromkeys(places, started_s)
        """Where it may still succeed, and from when on it may be asked."""
        self._policy = policy
        self._ends_s = started_s + policy.max_wait_s
        self._draw = draw
        self._num_asked: dict[PlaceT, int] = {}
        self.errors: dict[PlaceT, ClientError] = {}
        """The last of each place that failed."""

    def due(self, now_s: float) -> list[PlaceT]:
        """In the order in which they were given."""
        return [place for place, due_s in self._due_s.items() if due_s <= now_s]

    def add(self, places: Iterable[PlaceT], now_s: float) -> None:
        """To be asked at once."""
        self._due_s |= dict.fromkeys(places, now_s)

    def failed(self, place: PlaceT, error: ClientError, now_s: float) -> None:
        """Raises the error: nothing can follow it."""
        self.errors[place] = error
        num_asked = self._num_asked[place] = self._num_asked.get(place, 0) + 1
        remedy = REMEDIES[error.reason]
        if remedy is Remedy.NONE:
            raise error
        if remedy is Remedy.ELSEWHERE or num_asked >= self._policy.max_attempts:
            del self._due_s[place]
        else:
            self._due_s[place] = now_s + self._own_wait_s(error, num_asked)

    def wait_s(self, now_s: float) -> float | None:
        """How long to wait when every place that was due has failed; None to give up."""
        if not self._due_s:
            return None
        next_s = min(self._due_s.values())
        return None if next_s > self._ends_s else max(0.0, next_s - now_s)

    def _own_wait_s(self, error: ClientError, num_asked: int) -> float:
        """Never less than the daemon says, and a little more: not all shall come back at once."""
        policy = self._policy
        if error.retry_after_s is not None:
            return error.retry_after_s * self._draw.uniform(1.0, 1.25)
        doublings = min(num_asked - 1, _MAX_DOUBLINGS)
        backoff_s = min(policy.first_backoff_s * 2.0**doublings, policy.max_backoff_s)
        return backoff_s * self._draw.uniform(0.5, 1.0)


def most_telling(errors: Sequence[ClientError]) -> ClientError:
    """The error to raise: of the daemon that can be asked again soonest, else of the first. The
    others' are its notes."""
    told = [error for error in errors if error.retry_after_s is not None]
    chosen = min(told, key=lambda error: error.retry_after_s or 0.0) if told else errors[0]
    for error in errors:
        if error is not chosen:
            chosen.add_note(f"{error.daemon}: {error.detail}")
    return chosen
