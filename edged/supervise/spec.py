"""What the daemon is told about one model: its engine's start, and the limits it lives under."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from edged.engine.wire import Start

WORKER = (sys.executable, "-m", "edged.engine.worker")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    name: str
    start: Start
    """The first command to each of its engines."""
    stall_s: float = 30.0
    """Longest time without a finished step while there is work."""
    load_timeout_s: float = 600.0
    max_restarts: int = 5
    """Losses in a row, without a token between them, that are answered with a new engine."""
    max_held: int = 1024
    """Requests of one tier that wait for an engine, besides those that already had one."""
    max_backlog_tokens: int = 8192
    """Tokens that wait for a slow reader."""
    drain_s: float = 30.0
    """Longest time that running requests have when the model is unloaded."""
    stop_s: float = 10.0
    """Longest time that an engine has to end when it is asked to; then it is killed."""
    call_s: float = 40.0
    """Longest wait for the answer to a question, as tokenizing a prompt; longer than `stall_s`."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Those that an engine takes when it is started, as the operator knows them."""
    worker: tuple[str, ...] = WORKER
    """The engine's command; descriptors of the socket and the recorder are put behind it."""
