"""Is the clock on the wall right, as far as this machine can tell?

Latencies are measured with another clock; this one dates certificates, tokens and the log.
"""

import ctypes
import time
from collections.abc import Iterator

from edged.node.doctor.finding import Finding, Level, ok, problem
from edged.node.doctor.host import Host
from edged.node.doctor.subject import Subject

_DAY_S = 86400.0
_SYNCHRONIZED = "/run/systemd/timesync/synchronized"
_TIME_ERROR = 5
"""What adjtimex answers while nobody disciplines the clock."""
_TIMEX_BYTES = 512
"""More than struct timex has anywhere."""


def check(subject: Subject) -> Iterator[Finding]:
    host = subject.host
    if host.now_s < host.installed_s - _DAY_S:
        shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(host.now_s))
        yield problem(
            "clock.past",
            f"the clock says {shown}, which is before this edged was installed",
            _set_command(host),
        )
        return
    is_synchronised = _is_synchronised(host)
    if is_synchronised is None:
        yield Finding("clock.unknown", Level.NOTE, "whether the clock is right cannot be seen here")
    elif is_synchronised:
        yield ok("clock.synchronised", "the clock is kept right from the network")
    else:
        level = Level.WARNING if subject.network_listens else Level.NOTE
        yield Finding(
            "clock.unsynchronised",
            level,
            "nobody keeps the clock right; certificates and tokens are dated by it",
            _set_command(host),
        )


def _set_command(host: Host) -> str:
    if host.system == "darwin":
        return "sudo sntp -sS time.apple.com"
    if host.exists("/run/systemd/system") and host.which("timedatectl"):
        return "sudo timedatectl set-ntp true"
    return "install and start a time service, as chrony"


def _is_synchronised(host: Host) -> bool | None:
    """Asks the service first, then the kernel, which knows of any."""
    if host.exists(_SYNCHRONIZED):
        return True
    if host.exists("/run/systemd/system"):
        told = host.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
        if told is not None and told.output in ("yes", "no"):
            return told.output == "yes"
    return _kernel_says() if host.system == "linux" and host.root == host.root.parent else None


def _kernel_says() -> bool | None:
    """adjtimex, asked to change nothing, tells whether the clock is disciplined."""
    try:
        answer = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR
