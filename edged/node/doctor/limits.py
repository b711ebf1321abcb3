"""Does the system let a process have what a daemon needs?"""

from collections.abc import Iterator

from edged.node.doctor.finding import Finding, ok, warning
from edged.node.doctor.host import Limit
from edged.node.doctor.memory import shown_bytes
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import Unit

LEAST_FILES = 1024
"""A client is a connection, which is a file; an engine is some more."""


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
    if limit is None or limit.soft is None or limit.soft >= LEAST_FILES:
        return
    wanted = LEAST_FILES if limit.hard is None else min(LEAST_FILES, limit.hard)
    more = (
        ""
        if wanted == LEAST_FILES
        else f"; no more without root, who may raise it to {LEAST_FILES}"
    )
    yield warning(
        "limits.files",
        f"a process may have {limit.soft} files open, and each client is one; expected at least "
        f"{LEAST_FILES}",
        f"ulimit -n {wanted} before the start{more}; LimitNOFILE={LEAST_FILES} in a unit",
    )


def _space(limit: Limit | None) -> Iterator[Finding]:
    if limit is not None and limit.soft is not None:
        yield warning(
            "limits.space",
            f"a process may map {shown_bytes(limit.soft)}, and a model is mapped into memory whole",
            "ulimit -v unlimited before the start; LimitAS=infinity in a unit",
        )
