"""Decides when a stream has been silent for too long. gRPC waits for its next message for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import grpc

from edged.clock import Clock, MonotonicClock

SECOND_LOOK_S = 1.0
"""Time for what has arrived to be read. A process that was stopped, as by Ctrl-Z, or a host that
has slept, has waited for all that time too."""


class Patience:
    """Cancels a call when somebody has waited for its next message for `idle_s`, if that is given.

    A thread watches meanwhile; however many messages come, it wakes about once in that time.
    """

    def __init__(self, call: grpc.Call, idle_s: float | None, clock: Clock | None = None) -> None:
        self._call = call
        self._idle_s = idle_s
        self._clock = clock or MonotonicClock()
        self._waiting_since_s: float | None = None
        self._left = threading.Event()
        self.lost_s: float | None = None
        """After so long it has cancelled the call."""

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """As long as the call is read."""
        if self._idle_s is not None:
            threading.Thread(
                target=self._watch, args=[self._idle_s], name="patience", daemon=True
            ).start()
        try:
            yield self
        finally:
            self._left.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For one message. What its reader does with it, and for how long, is no silence."""
        self._waiting_since_s = self._clock.now_s()
        try:
            yield
        finally:
            self._waiting_since_s = None

    def _watch(self, idle_s: float) -> None:
        left_s, suspected_s = idle_s, None
        while not self._left.wait(left_s):
            now_s, since_s = self._clock.now_s(), self._waiting_since_s
            left_s = idle_s if since_s is None else since_s + idle_s - now_s
            if left_s > 0:
                continue
            if since_s == suspected_s:
                self.lost_s = idle_s
                self._call.cancel()
                return
            left_s, suspected_s = min(SECOND_LOOK_S, idle_s), since_s
