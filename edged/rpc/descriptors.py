"""Decides how many files and sockets the daemon may have open: enough for its connections.

Theory of operation: a process begins with a limit that it may raise by itself up to a harder one:
often 1024 up to half a million, on macOS 256 up to no limit. A thousand idle connections must not
be what keeps a daemon from starting an engine.
"""

import resource

from edged.log import get_logger

WANTED_DESCRIPTORS = 16_384
"""Room for every connection that the front takes, and for engines."""

_log = get_logger("rpc")


def allow_descriptors(wanted: int) -> int:
    """Raise the limit to `wanted`, or as far as the system allows; what it is now. It is never
    lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    goal = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
    except (OSError, ValueError) as error:  # macOS has a further limit that it does not tell
        _log.warning("the limit of open files stays", limit=soft, wanted=goal, error=str(error))
        return soft
    return goal
