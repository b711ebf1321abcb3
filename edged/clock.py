"""The only reader of the time that decides anything: everything else is handed `now_s`."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since an arbitrary start, the same for all processes of a host; never goes back."""

    def now_s(self) -> float: ...


class MonotonicClock:
    """The host's monotonic clock, which its processes share, so that times may cross a pipe."""

    def now_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told: simulations and tests."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, f"time cannot go back by {-seconds} s"
        self._now_s += seconds

    def advance_to(self, at_s: float) -> None:
        """Move to `at_s`; a moment that has passed already changes nothing."""
        self._now_s = max(self._now_s, at_s)


def wall_s() -> float:
    """Seconds since 1970, for dates that people and certificates have; it may jump."""
    return time.time()
