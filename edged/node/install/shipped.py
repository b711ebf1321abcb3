"""Where the parts of an installed edged lie: its programs, and the files for service managers.

Theory of operation: a wheel brings the files of `systemd/` as data files, and an installer may put
those and the programs anywhere; its record of what it wrote is asked. A checkout has them beside
the package, and those are newer than what was recorded when it was installed.
"""

import os
import sys
from importlib.metadata import distributions
from pathlib import Path

import edged
from edged.errors import EdgedError, Reason

DISTRIBUTION = "edged"
FOLDER = "systemd"

HIDDEN_FROM_SERVICES = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # not used
"""What ProtectHome and PrivateTmp of a system unit hide."""


def program(name: str) -> Path:
    """The installed program of that name, `edged` or `edgectl`.

    Raises:
        EdgedError: edged runs without being installed.
    """
    found = find_program(name)
    if found is None:
        detail = f"{name} is not an installed program: expected pip install"
        raise EdgedError(Reason.INTERNAL, detail)
    return found


def find_program(name: str) -> Path | None:
    """The same; None if edged runs without being installed."""
    programs = (path for path in _recorded() if path.parent.name == "bin")
    return next((path for path in programs if path.name == name), None)


def service_file(name: str) -> Path:
    """One of the files of `systemd/`.

    Raises:
        EdgedError: it was not installed with edged.
    """
    beside = Path(edged.__file__).parents[1] / FOLDER / name
    if beside.is_file():
        return beside
    for found in _recorded():
        if found.parts[-3:] == (DISTRIBUTION, FOLDER, name) and found.is_file():
            return found
    raise EdgedError(Reason.INTERNAL, f"{name} is not installed: expected it with edged's wheel")


def needed_to_run(program: Path) -> tuple[Path, ...]:
    """What a process of that program, if it is this interpreter's, must be able to read."""
    imported_from = (Path(entry) for entry in sys.path if entry)
    code = Path(edged.__file__).parent
    return (program, Path(sys.executable), Path(sys.base_prefix), code, *imported_from)


def hidden_from_services(paths: tuple[Path, ...]) -> Path | None:
    """The first of some paths that a service of the system cannot see."""
    for path in paths:
        for name in (os.path.abspath(path), os.path.realpath(path)):
            if any(Path(name).is_relative_to(hidden) for hidden in HIDDEN_FROM_SERVICES):
                return Path(name)
    return None


def _recorded() -> list[Path]:
    """Of every record of edged: in a checkout, what setuptools leaves beside the package is one
    too, and has no programs."""
    return [
        Path(os.path.normpath(str(file.locate())))
        for installed in distributions(name=DISTRIBUTION)
        for file in installed.files or ()
    ]
