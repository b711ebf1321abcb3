"""Runs a program on a terminal of its own, as a person sits at it."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable

from tests.cli.program import Program

WAIT_S = 20.0
"""Longest silence of a program; reached only by a test that fails."""

# A terminal sends Ctrl-C to the session that it belongs to, and it belongs to the first session
# that opens it.
_TAKE_TERMINAL = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, program: Program, arguments: tuple[str, ...], environ: dict[str, str]):
        self._ours, theirs = pty.openpty()
        self._running = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, program.path, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"TERM": "xterm-256color", **program.environ, **environ},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, text: str, times: int = 1) -> None:
        """Until `text` was shown so often."""
        while self.shown.count(text) < times:
            assert self._read(), f"{text!r} was not shown; shown was {self.shown!r}"

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt_until_it_leaves(self) -> None:
        """A Ctrl-C that arrives just before the line editor waits is seen with the next key, so
        one that nothing came of is typed again, as a person would."""
        for _ in range(10):
            self.type("\x03")
            ready, _, _ = select.select([self._ours], [], [], 2)
            if ready:
                return
        raise AssertionError(f"it did not leave; shown was {self.shown!r}")

    def exit_code(self) -> int:
        while self._read():
            pass
        return self._running.wait(WAIT_S)

    def close(self) -> None:
        if self._running.poll() is None:
            self._running.kill()
            self._running.wait(WAIT_S)
        os.close(self._ours)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], WAIT_S)
        assert ready, f"nothing was shown for {WAIT_S} s after {self.shown!r}"
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux's way to say that the last writer has closed the terminal
            return False
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)


Opened = Callable[..., Terminal]
