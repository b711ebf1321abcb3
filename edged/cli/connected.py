"""What every command of `edgectl` that talks to a daemon begins with: which, and how long it waits.

gRPC is imported when the first of them connects: help, completion and wrong usage answer at once.
"""

# ruff: noqa: PLC0415  # see above

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from edged.cli.exits import CommandError, ExitCode
from edged.client.connect.address import HOST_VARIABLE, PEER_NAME, choose_address
from edged.errors import InvalidRequestError

if TYPE_CHECKING:
    from edged.cli.remote import Connection
    from edged.client.connect.target import Target


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
    target = _located(host or given.host) or find_target(host or given.host)
    from edged.cli.remote import Connection

    with Connection(target, given.timeout_s) as connection:
        use(connection)


def _located(host: str | None) -> "Target | None":
    """Of a daemon that was paired with, wherever it is now; None of any other."""
    name = host or os.environ.get(HOST_VARIABLE, "")
    if not PEER_NAME.fullmatch(name):
        return None
    from edged.client.connect.peers import PeerBook
    from edged.client.connect.target import TOKEN_VARIABLE, target_of_peer
    from edged.client.lan.locate import locate
    from edged.places import peers_file

    book = PeerBook(peers_file(os.environ))
    peer = book.named(name)
    if peer is None:
        return None
    return target_of_peer(locate(peer, book), os.environ.get(TOKEN_VARIABLE) or None, book)


def find_target(host: str | None) -> "Target":
    """The daemon that is meant.

    Raises:
        CommandError: `host` or $EDGED_HOST is no address.
        EdgedError: PEER_UNKNOWN, it is on another host and was not paired with.
    """
    from edged.client.connect.target import target_of

    try:
        address = choose_address(host, os.environ)
    except InvalidRequestError as error:
        raise CommandError(error.detail, ExitCode.USAGE) from None
    return target_of(address, os.environ)


def limit_s(context: typer.Context, own: float | None) -> float | None:
    """Own --timeout, else the one before the command."""
    given = context.find_object(Global)
    return own if own is not None or given is None else given.timeout_s
