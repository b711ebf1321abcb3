"""What AdminService may know of the daemon around it, and ask of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum


class DaemonState(StrEnum):
    LOADING = "loading"
    """Listening; no model is ready yet."""
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    """Every model has failed."""


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What came of reading the configuration again; sentences for an operator."""

    changes: tuple[str, ...] = ()
    """What is otherwise from now on."""
    waiting: tuple[str, ...] = ()
    """What is configured otherwise, and holds only after a restart or when a model is loaded."""
    problems: tuple[str, ...] = ()
    """What is wrong with the configuration, which changes nothing then; or beside it."""


@dataclass(frozen=True, slots=True)
class DaemonView:
    """Handed in by the owner of the daemon's life. All functions are called on its event loop."""

    version: str
    policy: str
    started_s: float
    state: Callable[[], DaemonState]
    listeners: Callable[[], tuple[str, ...]]
    """Addresses of every front, as a person reads them."""
    request_drain: Callable[[float | None], None]
    """Begin to drain; returns at once. Longest wait in seconds; None is the configured one."""
    reload: Callable[[], Awaitable[ReloadReport]]
    """Read the configuration again. Raises EdgedError: DRAINING."""
