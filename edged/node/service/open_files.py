"""How many files and connections the daemon may have open."""

import resource

ENOUGH = 4096
"""A thousand connections, the engines' sockets, and room."""


def raise_open_files() -> None:
    """Raise the limit as far as this user may.

    Programs have few by default for the sake of those that call select(), which neither the daemon
    nor its engines do; so engines inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (hard, resource.RLIM_INFINITY):
        return
    for wanted in (hard, max(soft, ENOUGH)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS has a lower one than it says
            continue
        return


def few_open_files() -> int | None:
    """The limit, if it is low; else None."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_low = soft != resource.RLIM_INFINITY and soft < ENOUGH
    return soft if is_low else None
