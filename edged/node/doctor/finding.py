"""What a check found, and how bad it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.node.doctor.subject import Subject


class Level(StrEnum):
    """Best first."""

    OK = "ok"
    NOTE = "note"
    """To be known: nothing is wrong, or nobody can tell."""
    WARNING = "warning"
    """It works, and worse than it could, or not for long."""
    PROBLEM = "problem"
    """The daemon does not start, or cannot do what it is configured for."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """AREA.THING, as "gpu.access": stable, so that scripts may match on it."""
    level: Level
    text: str
    """A sentence for a person."""
    fix: str = ""
    """What to do: a command, or a sentence with one in it; "" if there is nothing to do."""

    @property
    def area(self) -> str:
        return self.check.partition(".")[0]


Check = Callable[["Subject"], Iterator[Finding]]


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def note(check: str, text: str, fix: str = "") -> Finding:
    return Finding(check, Level.NOTE, text, fix)


def warning(check: str, text: str, fix: str = "") -> Finding:
    return Finding(check, Level.WARNING, text, fix)


def problem(check: str, text: str, fix: str = "") -> Finding:
    return Finding(check, Level.PROBLEM, text, fix)
