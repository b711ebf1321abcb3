"""In which environment of Python does the daemon run?

Theory of operation: who asks may use another edgectl than the one beside the service's program. So
that program's packages are looked for where its environment has them. An environment is known by
what lies in it; a program outside of any is the system's Python's, which all have alike.
"""

import re
from dataclasses import replace
from pathlib import Path

from edged.node.doctor.host import Host
from edged.node.doctor.subject import Subject

_VENV = "pyvenv.cfg"
_MARKS = (_VENV, "conda-meta")
_HAS_OTHERS = re.compile(r"^include-system-site-packages\s*=\s*true\s*$", re.MULTILINE | re.I)


def daemon_host(subject: Subject) -> Host | None:
    """The host with the packages and the Python of the daemon; None if they cannot be seen."""
    host, unit = subject.host, subject.unit
    program = None if unit is None else unit.program
    if program is None:
        return host
    if not host.exists(program):
        return None
    own, other = (_environment(host, Path(one)) for one in (host.executable, program))
    if own == other or (own and other and host.real(own) == host.real(other)):
        return host
    return None if other is None else _with_environment(host, other)


def whose_environment(subject: Subject, host: Host) -> str:
    """Of `daemon_host`, in a sentence."""
    if host is subject.host:
        return "the environment of this edged"
    return f"the service's environment, {Path(host.executable).parent.parent}"


def _environment(host: Host, program: Path) -> Path | None:
    """That a program is in, itself or what it is a link to; None for the system's Python."""
    folders = (one.parent.parent for one in (program, host.real(program)))
    return next((one for one in folders if any(host.exists(one / mark) for mark in _MARKS)), None)


def _with_environment(host: Host, environment: Path) -> Host | None:
    """None too if it has packages from elsewhere: then a missing one says nothing."""
    sites = host.glob(f"{environment}/lib", "python3.*/site-packages")
    if not sites or _HAS_OTHERS.search(host.read(environment / _VENV) or ""):
        return None
    # One of an older Python may have been left behind.
    newest = max(sites, key=lambda site: int(re.sub(r"\D", "", site.parent.name)))
    return replace(host, executable=f"{environment}/bin/python", site=(str(newest),))
