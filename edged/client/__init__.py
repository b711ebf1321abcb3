"""The client library: find a daemon, trust it for a reason, ask its models.

What it offers is imported when it is first used: `edgectl` imports this package for its addresses,
and is to start at once.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.client.aio import AsyncClient, Timeouts
    from edged.client.asking import Message, Prompt, Targets, Text, Tokens
    from edged.client.blocking import Client, Stream
    from edged.client.errors import ClientError
    from edged.client.events import (
        Admitted,
        Answer,
        Event,
        Finished,
        Preempted,
        Queued,
        Resumed,
        Token,
    )
    from edged.client.lan.nearby import discover
    from edged.client.retry import RetryPolicy
    from edged.client.stream import AsyncStream

__all__ = [
    "Admitted",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ClientError",
    "Event",
    "Finished",
    "Message",
    "Preempted",
    "Prompt",
    "Queued",
    "Resumed",
    "RetryPolicy",
    "Stream",
    "Targets",
    "Text",
    "Timeouts",
    "Token",
    "Tokens",
    "discover",
]

_MODULES = {
    "aio": ("AsyncClient", "Timeouts"),
    "asking": ("Message", "Prompt", "Targets", "Text", "Tokens"),
    "blocking": ("Client", "Stream"),
    "errors": ("ClientError",),
    "events": (
        "Admitted",
        "Answer",
        "Event",
        "Finished",
        "Preempted",
        "Queued",
        "Resumed",
        "Token",
    ),
    "lan.nearby": ("discover",),
    "retry": ("RetryPolicy",),
    "stream": ("AsyncStream",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            # Read by gRPC as it is imported. Without it, it tells stderr of every lost connection.
            os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
            return getattr(import_module(f"edged.client.{module}"), name)
    raise AttributeError(f"module 'edged.client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
