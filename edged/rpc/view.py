"""What AdminService may know of the daemon around it, and ask of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from edged.rpc.access.caller import Caller, Door

UNIX_PREFIX = "unix:"


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
    """What is wrong with the configuration, the tokens or the certificate; then nothing changes."""


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
    name: Callable[[], str] = str
    """What it is called on the local network, or would be."""
    is_advertised: Callable[[], bool] = lambda: False
    """Whether it tells the local network where it is."""
    warnings: Callable[[], tuple[str, ...]] = tuple
    """What an operator is to know of it, though it serves: sentences."""

    def listeners_for(self, caller: Caller) -> tuple[str, ...]:
        """Paths of this host are nobody's business on another."""
        if caller.door is not Door.NETWORK or caller.grant.is_admin:
            return self.listeners()
        return tuple(one for one in self.listeners() if not one.startswith(UNIX_PREFIX))
