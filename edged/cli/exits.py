"""The exit codes of both commands, and the one exception that carries one."""

from enum import IntEnum

from edged.errors import EdgedError, Reason


class ExitCode(IntEnum):
    """Scripts may rely on these: never renumber one."""

    OK = 0
    ERROR = 1
    USAGE = 2
    UNREACHABLE = 3
    OVERLOADED = 4
    DENIED = 5
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 ok; 1 error; 2 wrong usage; 3 no daemon answers; "
    "4 overloaded, try again later; 5 not trusted or not allowed; 130 interrupted."
)


class CommandError(Exception):
    """Ends the command with one sentence on stderr; never a traceback."""

    def __init__(self, sentence: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code


_DENIED = frozenset({Reason.PEER_UNKNOWN, Reason.PEER_CHANGED})


def exit_code_of(error: EdgedError) -> ExitCode:
    """Of an error that was made here; those of a daemon have a gRPC code."""
    if error.reason in _DENIED:
        return ExitCode.DENIED
    return ExitCode.UNREACHABLE if error.reason is Reason.UNREACHABLE else ExitCode.ERROR
