"""Tells when a process was started, to be compared with when files were written."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

WhenStarted = Callable[[int], float | None]


def started_s(pid: int) -> float | None:
    """By the clock as it is set now, since the epoch; None if there is no such process."""
    if sys.platform != "linux":
        import psutil  # noqa: PLC0415  # what removes edged has the standard library alone

        try:
            return psutil.Process(pid).create_time()
        except psutil.Error:
            return None
    # Not by when the host booted: /proc/stat tells that in whole seconds, and in some containers
    # that of the container.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields_after_name = stat.rpartition(")")[2].split()
    ticks = int(fields_after_name[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
