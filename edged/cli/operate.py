"""The commands that look at a daemon and operate it."""

import sys
from collections.abc import Iterable, Iterator
from typing import Protocol

from edged.cli import show, show_kv
from edged.cli.as_json import as_json
from edged.cli.exits import CommandError
from edged.cli.output import emit, emit_json, harmless, wants_colour
from edged.cli.progress import follow_loading
from edged.cli.remote import Connection
from edged.v1 import admin_pb2

_CLEAR_SCREEN = "\x1b[H\x1b[2J"


class PrintStatus(Protocol):
    """Prints a status, or a part of it."""

    def __call__(self, status: admin_pb2.Status, *, json: bool) -> None: ...


def print_status(connection: Connection, show_it: PrintStatus, *, json: bool) -> None:
    answer = connection.call(connection.admin.GetStatus, admin_pb2.GetStatusRequest())
    show_it(answer.status, json=json)


def watch_status(
    connection: Connection, show_it: PrintStatus, *, json: bool, interval_s: float
) -> None:
    """Print the status whenever it changed, until the daemon ends or the user does."""
    request = admin_pb2.WatchStatusRequest(interval_s=interval_s)
    stream = connection.admin.WatchStatus(
        request, timeout=connection.timeout_s, metadata=connection.metadata
    )
    redraws = not json and sys.stdout.isatty()
    for number, answer in enumerate(connection.each(stream, connection.timeout_s)):
        if redraws:
            emit(_CLEAR_SCREEN)
        elif number and not json:
            emit("\n")
        show_it(answer.status, json=json)


def print_kv(status: admin_pb2.Status, *, json: bool) -> None:
    """The memory of all models."""
    if json:
        emit_json({"models": [as_json(model) for model in status.models]})
    else:
        emit(show_kv.kv(status.models, colour=wants_colour(sys.stdout)))


def print_whole(status: admin_pb2.Status, *, json: bool) -> None:
    if json:
        emit_json(as_json(status))
    else:
        emit(show.status(status, colour=wants_colour(sys.stdout)))


def print_requests(connection: Connection, *, json: bool) -> None:
    answer = connection.call(connection.admin.ListRequests, admin_pb2.ListRequestsRequest())
    if json:
        emit_json(as_json(answer))
    else:
        emit(show.requests(answer.requests, colour=wants_colour(sys.stdout)))


def print_tiers(connection: Connection, *, json: bool) -> None:
    answer = connection.call(connection.admin.ListTiers, admin_pb2.ListTiersRequest())
    if json:
        emit_json(as_json(answer))
    else:
        emit(show.tiers(answer.tiers, colour=wants_colour(sys.stdout)))


def print_models(connection: Connection, *, json: bool) -> None:
    answer = connection.call(connection.admin.ListModels, admin_pb2.ListModelsRequest())
    if json:
        emit_json(as_json(answer))
    else:
        emit(show.models(answer.models, colour=wants_colour(sys.stdout)))


def load_model(connection: Connection, name: str, *, json: bool) -> None:
    """Load a model and wait until it is ready.

    Raises:
        CommandError: it failed; the sentence is the model's own.
    """
    request = admin_pb2.LoadModelRequest(model=name)
    stream = connection.admin.LoadModel(
        request, timeout=connection.timeout_s, metadata=connection.metadata
    )
    answers = connection.each(stream, connection.timeout_s)
    models = (answer.model for answer in answers)
    last = follow_loading(name, _told(models) if json else models)
    if last is None or last.state != admin_pb2.MODEL_STATE_READY:
        failure = "" if last is None else last.failure
        raise CommandError(failure or f"model {name!r} was not loaded")
    if not json:
        emit(f"{harmless(name)} is ready\n")


def _told(models: Iterable[admin_pb2.Model]) -> Iterator[admin_pb2.Model]:
    for model in models:
        emit_json(as_json(model))
        yield model


def unload_model(connection: Connection, name: str, *, json: bool) -> None:
    """Unload a model; waits for its running requests, as long as the daemon lets them run."""
    request = admin_pb2.UnloadModelRequest(model=name)
    answer = connection.call(connection.admin.UnloadModel, request, usual_limit_s=None)
    if json:
        emit_json(as_json(answer.model))
    else:
        emit(f"{harmless(name)} is unloaded\n")


def cancel(connection: Connection, request_id: str, *, json: bool) -> None:
    request = admin_pb2.CancelRequest(request_id=request_id)
    answer = connection.call(connection.admin.Cancel, request)
    if json:
        emit_json(as_json(answer))
    else:
        emit(f"{harmless(answer.request_id)} is cancelled\n")


def reload(connection: Connection, *, json: bool) -> None:
    """Let the daemon read its configuration again.

    Raises:
        CommandError: it met problems; one line for each.
    """
    answer = connection.call(connection.admin.Reload, admin_pb2.ReloadRequest())
    if json:
        emit_json(as_json(answer))
    else:
        emit("".join(f"{harmless(line)}\n" for line in answer.changes or ("nothing has changed",)))
        for line in answer.waiting:
            emit(f"waits: {harmless(line)}\n")
    if answer.problems:
        raise CommandError("\n".join(map(harmless, answer.problems)))


def drain(connection: Connection, drain_s: float | None, *, json: bool) -> None:
    request = admin_pb2.DrainRequest(drain_s=drain_s)
    answer = connection.call(connection.admin.Drain, request)
    if json:
        emit_json(as_json(answer))
    else:
        emit(f"draining: {answer.num_requests} request(s) to finish\n")


def print_version(connection: Connection, client_version: str, *, json: bool) -> None:
    """Print both versions; the client's also when no daemon answers, which is still an error."""
    if not json:
        emit(f"edgectl {client_version}\n")
    try:
        answer = connection.call(connection.admin.GetStatus, admin_pb2.GetStatusRequest())
    except CommandError:
        if json:
            emit_json({"client": client_version, "server": None})
        raise
    if json:
        emit_json({"client": client_version, "server": answer.status.version})
    else:
        emit(f"edged {harmless(answer.status.version)} at {connection.address}\n")
