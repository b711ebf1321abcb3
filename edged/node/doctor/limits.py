"""Does the system let a process have what a daemon needs?"""

from collections.abc import Iterator

from edged.node.doctor.finding import Finding, ok, warning
from edged.node.doctor.host import Limit
from edged.node.doctor.memory import shown_bytes
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import Unit

LEAST_FILES = 1024
"""A client is a connection, which is a file; an engine is some more. The daemon takes as many as it
may, whatever it is given at first."""


def check(subject: Subject) -> Iterator[Finding]:
    unit, limits = subject.unit, subject.host.limits
    if unit is None:
        files, space = limits.get("files"), limits.get("address space")
    else:
        files, space = _of_unit(unit, "LimitNOFILE"), _of_unit(unit, "LimitAS")
    found = [*_files(files), *_space(space)]
    yield from found
    if not found:
        yield ok("limits.files", "files and memory are not limited too far")


def _of_unit(unit: Unit, name: str) -> Limit:
    return Limit(unit.number(f"{name}Soft"), unit.number(name))


def _files(limit: Limit | None) -> Iterator[Finding]:
    if limit is None or limit.hard is None or limit.hard >= LEAST_FILES:
        return
    yield warning(
        "limits.files",
        f"a process may have {limit.hard} files open at most, and each client is one; expected at "
        f"least {LEAST_FILES}",
        f"LimitNOFILE={LEAST_FILES} in a unit; for a shell, `* hard nofile {LEAST_FILES}` in "
        "/etc/security/limits.conf, then log in again",
    )


def _space(limit: Limit | None) -> Iterator[Finding]:
    if limit is not None and limit.soft is not None:
        yield warning(
            "limits.space",
            f"a process may map {shown_bytes(limit.soft)}, and a model is mapped into memory whole",
            "ulimit -v unlimited before the start; LimitAS=infinity in a unit",
        )
