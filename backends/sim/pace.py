"""Lets the simulated time go by: a manual clock is moved, on any other the caller sleeps."""

import threading
import time
from math import inf

from edged.clock import Clock, ManualClock


class Pace:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_interrupted = threading.Event()
        self._interrupted_from_s = inf

    def spend(self, seconds: float) -> bool:
        """Let a step's seconds go by; False, and sooner, if it was interrupted."""
        if isinstance(self._clock, ManualClock):
            end_s = self._clock.now_s() + seconds
            was_interrupted = self._is_interrupted.is_set() or self._interrupted_from_s < end_s
            if not self._is_interrupted.is_set():
                self._clock.advance_to(min(end_s, self._interrupted_from_s))
        else:
            was_interrupted = self._is_interrupted.wait(seconds)
        self._is_interrupted.clear()
        self._interrupted_from_s = inf
        return not was_interrupted

    def pass_by(self, seconds: float) -> None:
        """Let seconds go by that nothing interrupts."""
        if isinstance(self._clock, ManualClock):
            self._clock.advance(seconds)
        else:
            time.sleep(seconds)

    def interrupt(self) -> None:
        """End the running or the next `spend` now; any thread may."""
        self._is_interrupted.set()

    def interrupt_at(self, at_s: float) -> None:
        """Manual clock: end the next `spend` at a moment, if it lasts that long."""
        self._interrupted_from_s = at_s
