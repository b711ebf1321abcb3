"""Asks a person yes or no. Where nobody can be asked, that is known before."""

import sys
import termios

from edged.cli.output import note

_MAX_ANSWER_BYTES = 1024


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def is_agreed(question: str) -> bool:
    """Whether the answer is yes; the end of input is no. What is no answer is asked again.

    What was typed before the question was shown answers nothing.
    """
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    while True:
        note(f"{question} [y/N]")
        answer = sys.stdin.buffer.readline(_MAX_ANSWER_BYTES).strip().lower()
        if answer in (b"y", b"yes"):
            return True
        if answer in (b"", b"n", b"no"):
            return False
