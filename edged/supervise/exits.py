"""What the end of an engine process means: a sentence, and whether a request can have caused it."""

import re
import signal
from dataclasses import dataclass
from enum import StrEnum

from edged.errors import EdgedError, Reason

MAX_CAUSE_CHARACTERS = 240

FAULT_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""Signals that code brings upon its own process; every other one was sent from outside."""

_TELLING = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^.*GGML_(?:ASSERT|ABORT).*$",
        r"^.*\b(?:CUDA|HIP|Metal|Vulkan|SYCL) error.*$",
        r"^.*(?:what\(\):|[Aa]ssertion .*failed).*$",
        r"^[\w.]*(?:Error|Exception)\b.*$",
        r"^Fatal Python error.*$",
    )
)
"""Lines that say why a process ended, the most telling first."""

_DIRECTORIES = re.compile(r"(?:/[^\s/:'\"]+)+/")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\uffff]+")


class LossKind(StrEnum):
    CRASHED = "crashed"
    """A fault signal, or an exit nobody asked for."""
    KILLED = "killed"
    """By a signal that somebody else sent."""
    GARBAGE = "garbage"
    """Sent what no healthy engine sends; the daemon ended it."""
    STALLED = "stalled"
    """Ran, and finished no step; the daemon ended it."""
    STOPPED = "stopped"
    """Finished no step because it was stopped (SIGSTOP, a debugger); the daemon ended it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The end of an engine process that was not asked to end."""

    kind: LossKind
    cause: str
    """For a person, to follow "the engine …"."""

    @property
    def is_blamable(self) -> bool:
        """Whether something that the engine computed can have caused it."""
        return self.kind not in (LossKind.KILLED, LossKind.STOPPED)


class EngineGarbageError(EdgedError):
    """The engine sent what no healthy engine sends: it is to be ended, and replaced."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.ENGINE_LOST, detail)


def exit_loss(exit_code: int, output: str, *, is_loading: bool = False) -> Loss:
    """What an exit means that the daemon did not ask for.

    `exit_code` is negative for a signal, as `subprocess` has it; `output` is the end of what the
    process wrote to its standard error.
    """
    when = " while loading" if is_loading else ""
    if exit_code >= 0:
        line = telling_line(output) or last_line(output)
        return Loss(LossKind.CRASHED, f"exited{when} with code {exit_code}{_after_colon(line)}")
    name = signal_name(-exit_code)
    if -exit_code in FAULT_SIGNALS:
        line = telling_line(output)
        return Loss(LossKind.CRASHED, f"crashed{when} ({name}){_after_colon(line)}")
    hint = ", perhaps because memory ran out" if -exit_code == signal.SIGKILL else ""
    return Loss(LossKind.KILLED, f"was killed{when} from outside ({name}){hint}")


def stall_loss(stall_s: float, *, is_stopped: bool) -> Loss:
    if is_stopped:
        return Loss(LossKind.STOPPED, f"was stopped by a signal for longer than {stall_s:g} s")
    return Loss(LossKind.STALLED, f"finished no step in {stall_s:g} s while there was work")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def telling_line(output: str) -> str:
    """The line of a crashed process's output that says why, without directories; "" for none."""
    for pattern in _TELLING:
        lines = pattern.findall(output)
        if lines:
            return _printable(lines[-1])
    return ""


def last_line(output: str) -> str:
    """The last line that is not blank; "" for none."""
    lines = [line for line in output.splitlines() if line.strip()]
    return _printable(lines[-1]) if lines else ""


def _printable(line: str) -> str:
    cleaned = _UNPRINTABLE.sub(" ", _DIRECTORIES.sub("", line)).strip()
    if len(cleaned) <= MAX_CAUSE_CHARACTERS:
        return cleaned
    return cleaned[: MAX_CAUSE_CHARACTERS - 1] + "…"


def _after_colon(line: str) -> str:
    return f": {line}" if line else ""
