"""What the book of requests needs around it: limits, the way to an engine, timers, who is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edged.core.types import FinishEvent, SloTier
from edged.engine.wire import Command
from edged.errors import EdgedError
from edged.supervise.entry import Timer
from edged.supervise.replay import Replay


class CommandSink(Protocol):
    """The way to an engine that is ready."""

    @property
    def is_writable(self) -> bool:
        """Whether it takes more without holding more than its limit."""
        ...

    def send(self, command: Command) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after some seconds, as an event loop does."""


OnEnd = Callable[[Replay, FinishEvent | None, EdgedError | None], None]
"""Told once of each request that has ended: the engine's word on it, what its stream ended with."""


@dataclass(frozen=True, slots=True)
class BookLimits:
    max_held: int
    """Requests that no engine was given yet."""
    max_backlog_tokens: int
    max_queue_s: Mapping[SloTier, float | None]
    """Longest wait for a first step, by tier."""
