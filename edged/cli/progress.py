"""Shows on stderr how far a model is loaded."""

import sys
from collections.abc import Iterable, Iterator

from edged.cli.output import note, wants_colour
from edged.v1 import admin_pb2


def follow_loading(name: str, models: Iterable[admin_pb2.Model]) -> admin_pb2.Model | None:
    """Draw the progress of one model through its successive states; answers the last one.
    Off a terminal it is one line instead of a bar."""
    if not sys.stderr.isatty():
        return _follow_quietly(name, models)
    from rich.console import Console  # noqa: PLC0415  # only a model that loads pays for it
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    console = Console(
        stderr=True, force_terminal=True, no_color=not wants_colour(sys.stderr), highlight=False
    )
    columns = (TextColumn("loading {task.description}", markup=False), BarColumn())
    last: admin_pb2.Model | None = None
    with Progress(*columns, TaskProgressColumn(), console=console, transient=True) as progress:
        task = progress.add_task(name, total=1.0)
        for last in models:
            progress.update(task, completed=last.load_progress)
    return last


def while_loading(models: Iterable[admin_pb2.Model]) -> Iterator[admin_pb2.Model]:
    """The states of one model up to and with the first in which it is not loading."""
    for model in models:
        yield model
        if not is_loading(model):
            return


def is_loading(model: admin_pb2.Model) -> bool:
    return model.state == admin_pb2.MODEL_STATE_LOADING


def _follow_quietly(name: str, models: Iterable[admin_pb2.Model]) -> admin_pb2.Model | None:
    last: admin_pb2.Model | None = None
    was_told = False
    for last in models:
        if is_loading(last) and not was_told:
            note(f"loading {name}")
            was_told = True
    return last
