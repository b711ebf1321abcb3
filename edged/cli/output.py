"""What both commands write: data to stdout, everything else to stderr, colour only for an eye."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from edged.cli.exits import CommandError

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROL_IN_JSON = re.compile(r"[\x7f-\x9f]")
"""Those that json leaves as they are."""


class OutputClosedError(Exception):
    """The reader of stdout went away."""


def emit(text: str) -> None:
    """Write data and flush it, so that a reader sees it now.

    Raises:
        OutputClosedError: nobody reads any more.
        CommandError: it cannot be written: the disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error
    except OSError as error:
        raise CommandError(f"the output cannot be written: {error.strerror}") from error


def emit_json(value: Json) -> None:
    """One JSON value on one line."""
    text = json.dumps(value, ensure_ascii=False)
    emit(_CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def emit_generated(text: str) -> None:
    """Write text that a model made. On a terminal its control characters are made harmless."""
    emit(harmless(text) if sys.stdout.isatty() else text)


def harmless(text: str) -> str:
    """`text` without the control characters that could move a terminal's cursor or worse."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def note(text: str) -> None:
    """Tell the user something that is not data; if it cannot be told there, that is no error."""
    with suppress(OSError):
        print(harmless(text), file=sys.stderr, flush=True)


def warn(program: str, sentence: str) -> None:
    note(f"{program}: {sentence}")


def wants_colour(stream: TextIO) -> bool:
    """Colour is for terminals whose user has not set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
