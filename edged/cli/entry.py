"""Runs a command and turns however it ends into an exit code and at most one message."""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from edged.cli.exits import CommandError, ExitCode, exit_code_of
from edged.cli.output import OutputClosedError, warn
from edged.errors import EdgedError

TRACEBACK_VARIABLE = "EDGED_TRACEBACK"


def run_command(program: str, command: Callable[[], object]) -> int:
    """The exit code of `command`; what it raises is told on stderr as `program: sentence`.

    A reader that closed our output (`| head -1`) has what it wanted: that is a quiet success.
    What cannot be written to stderr (a log on a full disk) changes no exit code.
    A defect is told in one line as well, with a traceback when EDGED_TRACEBACK is set.
    """
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal cannot show must not end the command.
        sys.stdout.reconfigure(errors="replace")
    try:
        command()
        sys.stdout.flush()
        return _flushed(ExitCode.OK)
    except SystemExit as ending:
        return _flushed(ending.code if isinstance(ending.code, int) else ExitCode.OK)
    except (OutputClosedError, BrokenPipeError):
        _discard(sys.stdout)
        return _flushed(ExitCode.OK)
    except KeyboardInterrupt:
        return _flushed(ExitCode.INTERRUPTED)
    except CommandError as error:
        for line in error.sentence.splitlines():
            warn(program, line)
        return _flushed(error.exit_code)
    except EdgedError as error:
        for line in error.detail.splitlines():
            warn(program, line)
        return _flushed(exit_code_of(error))
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        warn(
            program,
            f"internal error: {type(error).__name__}: {error} "
            f"(set {TRACEBACK_VARIABLE}=1 for the traceback)",
        )
        return _flushed(ExitCode.ERROR)


def _open_closed_streams() -> None:
    """Python has no stream at all for a descriptor that was closed before the start (`2>&-`); what
    opens a file next would get its number, and the output."""
    for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd, inheritable=True)
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w"))


def _flushed(code: int) -> int:
    """Flush here, where a failure can be caught: at exit the interpreter would complain, and make
    the exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
    return code


def _discard(stream: TextIO) -> None:
    """Point a stream at the null device, so that what is still buffered goes nowhere, quietly."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
