"""What every command of `edgectl` that talks to a daemon begins with: which, and how long it waits.

gRPC is imported when the first of them connects: help, completion and wrong usage answer at once.
"""

# ruff: noqa: PLC0415  # see above

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from edged.cli.address import choose_address

if TYPE_CHECKING:
    from edged.cli.remote import Connection


@dataclass(frozen=True, slots=True)
class Global:
    """The options that stand before the command."""

    host: str | None
    timeout_s: float | None


def connected(
    context: typer.Context, host: str | None, use: Callable[["Connection"], None]
) -> None:
    given = context.find_object(Global)
    assert given is not None, "the callback of the app has run"
    address = choose_address(host or given.host, os.environ)
    from edged.cli.remote import Connection

    with Connection(address, given.timeout_s) as connection:
        use(connection)


def limit_s(context: typer.Context, own: float | None) -> float | None:
    """Own --timeout, else the one before the command."""
    given = context.find_object(Global)
    return own if own is not None or given is None else given.timeout_s
