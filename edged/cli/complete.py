"""What the shell offers for words that only a daemon knows; nothing when none answers at once."""

# ruff: noqa: PLC0415  # gRPC is imported only where a daemon is asked

from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from edged.cli.connected import find_target
from edged.cli.exits import CommandError
from edged.errors import EdgedError

if TYPE_CHECKING:
    from edged.client.connect.target import Target

TIMEOUT_S = 0.5
"""A person waits for the Tab key."""


def model_names(context: typer.Context) -> list[str]:
    """Of every configured model."""
    from edged.cli.remote import Connection
    from edged.v1 import admin_pb2

    with suppress(CommandError, EdgedError), Connection(_target(context), TIMEOUT_S) as connection:
        answer = connection.call(connection.admin.ListModels, admin_pb2.ListModelsRequest())
        return [model.name for model in answer.models]
    return []


def request_ids(context: typer.Context) -> list[tuple[str, str]]:
    """Of every unfinished request, each with the client and the tier that it counts for."""
    from edged.cli.as_json import enum_name
    from edged.cli.remote import Connection
    from edged.v1 import admin_pb2, inference_pb2

    with suppress(CommandError, EdgedError), Connection(_target(context), TIMEOUT_S) as connection:
        answer = connection.call(connection.admin.ListRequests, admin_pb2.ListRequestsRequest())
        tiers = inference_pb2.Tier.DESCRIPTOR
        return [
            (one.request_id, f"{one.client} {enum_name(tiers, one.tier)}")
            for one in answer.requests
        ]
    return []


def _target(context: typer.Context) -> "Target":
    """Where the command itself would go, given its --host or the one before it."""
    given: str | None = None
    level: typer.Context | None = context
    while level is not None and given is None:
        given = level.params.get("host")
        level = level.parent  # type: ignore[assignment]  # click's own class is its base
    return find_target(given)
