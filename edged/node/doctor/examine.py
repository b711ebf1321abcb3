"""Runs every check, each for no longer than a limit, and what one finds does not depend on another.

Theory of operation: each check runs in a thread of its own, which dies with the process: one that
hangs in the system (a dead network disk) is left there. What it has found until then counts, and
that it was not finished is a finding; so is a check that raises.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edged.node.doctor import (
    addresses,
    certificate,
    clock,
    configuration,
    daemon,
    disk,
    firewall,
    gpu,
    lan,
    limits,
    memory,
    multicast,
    permissions,
    runtime,
    service,
    unix_socket,
)
from edged.node.doctor.finding import Check, Finding, Level, warning
from edged.node.doctor.subject import Subject

CHECK_LIMIT_S = 2.5
"""For all of them, since they run at once."""

CHECKS: Mapping[str, Sequence[Check]] = {
    "configuration": (configuration.check,),
    "runtime": (runtime.check_python, runtime.check_runtimes, runtime.check_compiler),
    "gpu": (gpu.check,),
    "memory": (memory.check,),
    "disk": (disk.check_models, disk.check_directories),
    "permissions": (permissions.check,),
    "limits": (limits.check,),
    "listen": (addresses.check,),
    "socket": (unix_socket.check,),
    "lan": (lan.check_settings, lan.check_interfaces, multicast.check, firewall.check),
    "certificate": (certificate.check,),
    "clock": (clock.check,),
    "service": (service.check,),
    "daemon": (daemon.check,),
}
"""By area, in the order in which they are told."""


@dataclass
class _Run:
    """One check under way."""

    area: str
    check: Check
    findings: list[Finding] = field(default_factory=list)
    is_done: threading.Event = field(default_factory=threading.Event)

    def run(self, subject: Subject) -> None:
        try:
            for finding in self.check(subject):
                self.findings.append(finding)
        except Exception as error:
            self.findings.append(
                warning(
                    f"{self.area}.crashed",
                    f"this could not be checked: {type(error).__name__}: {error}",
                    "this is a defect of edged: please report it",
                )
            )
        finally:
            self.is_done.set()


def examine(
    subject: Subject,
    checks: Mapping[str, Sequence[Check]] = CHECKS,
    limit_s: float = CHECK_LIMIT_S,
) -> list[Finding]:
    """What all checks found within `limit_s`, in the order of their areas."""
    runs = [_Run(area, check) for area, of_area in checks.items() for check in of_area]
    for run in runs:
        name = f"doctor {run.area}"
        threading.Thread(target=run.run, args=(subject,), name=name, daemon=True).start()
    ends_s = time.monotonic() + limit_s
    found: list[Finding] = []
    for run in runs:
        is_done = run.is_done.wait(max(0.0, ends_s - time.monotonic()))
        found += tuple(run.findings)
        if not is_done:
            found.append(_unfinished(run, limit_s))
    return found


def _unfinished(run: _Run, limit_s: float) -> Finding:
    return warning(
        f"{run.area}.unfinished",
        f"this could not be checked within {limit_s:g} s",
        "run `edgectl doctor` again; what is slow here may be a disk or a service that hangs",
    )


def is_healthy(findings: Sequence[Finding]) -> bool:
    return all(finding.level is not Level.PROBLEM for finding in findings)
