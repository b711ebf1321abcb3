"""Sees to it that the daemon may open as many files as its limits of connections need."""

import resource

MAX_DESCRIPTORS = 65536
MACOS_MAX_DESCRIPTORS = 10240
"""More is refused there, whatever the hard limit says."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit, which is 1024 on most systems, as far as the hard one allows, at most
    to `MAX_DESCRIPTORS`; what holds then.

    A connection over the unix socket takes three descriptors, one over TCP takes one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (MAX_DESCRIPTORS, MACOS_MAX_DESCRIPTORS):
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return soft
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue
        return wanted
    return soft
