"""The installed programs: a Ctrl-C ends them quietly though they are still importing."""

# ruff: noqa: PLC0415  # the imports are what may be interrupted

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def edged() -> int:
    """`edged`; its exit code."""
    with _sigint_ends_it():
        from edged.cli.edged import main
    return main()


def edgectl() -> int:
    """`edgectl`; its exit code."""
    with _sigint_ends_it():
        from edged.cli.edgectl import main
    return main()


@contextmanager
def _sigint_ends_it() -> Iterator[None]:
    """Meanwhile SIGINT ends the process instead of raising, unless it is ignored."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, handler)
