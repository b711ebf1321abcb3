"""A machine made of files: a root, commands of its own, packages, a configuration."""

import importlib
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edged.node.doctor.finding import Check, Finding, Level
from edged.node.doctor.host import Host, User
from edged.node.doctor.subject import Answer, Silent, Subject, examined
from edged.node.doctor.unit import SHIPPED

VERSION = "1.2.3"
SOMEBODY = User(uid=54321, gids=frozenset({54321}), name="somebody")
"""Who is not the one that runs the tests."""
ME = User(uid=os.geteuid(), gids=frozenset({os.getegid()}), name="me")
ROOT = User(0, frozenset({0}), "root")
EDGED_UID = 54322
NOW_S = 1_800_000_000.0


def silent(*_address: str) -> Answer:
    return Silent("no daemon answers at 127.0.0.1:7411")


@dataclass
class Machine:
    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    """Beside PATH."""

    def write(self, path: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        """A file, with the folders that it is in."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        importlib.invalidate_caches()  # packages are files too
        return file

    def folder(self, path: str, mode: int = 0o755) -> Path:
        folder = self.root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        return folder

    def command(self, name: str, script: str) -> None:
        """A program of that name on the PATH, written for sh."""
        self.write(f"bin/{name}", f"#!/bin/sh\n{script}\n", mode=0o755)

    def package(self, name: str, distribution: str, version: str, *libraries: str) -> None:
        """An installed package, with shared libraries if there are any."""
        self.write(f"site/{name}/__init__.py")
        for library in libraries:
            self.write(f"site/{name}/lib/{library}")
        info = f"site/{distribution.replace('-', '_')}-{version}.dist-info/METADATA"
        self.write(info, f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

    def llama(self, *libraries: str) -> None:
        self.package("llama_cpp", "llama-cpp-python", "0.3.36", "libggml-cpu.so", *libraries)

    def service(self, unit: Mapping[str, str] | None = None) -> None:
        """Installed, as it is shipped or as systemd tells of it; its user is in the host's files,
        and its group is that of all files here."""
        self.root.chmod(0o755)
        self.write("/etc/systemd/system/edged.service")
        self.write("/etc/passwd", f"root:x:0:0::/:\nedged:x:{EDGED_UID}:{os.getegid()}::/:\n")
        self.write("/etc/group", f"edged:x:{os.getegid()}:\nvideo:x:44:\n")
        if unit is not None:
            self.folder("/run/systemd/system")
            shown = {"LoadState": "loaded", **SHIPPED, **unit}
            lines = shlex.quote("\n".join(f"{name}={value}" for name, value in shown.items()))
            self.command("systemctl", f'[ "$1 $2" = "--system show" ] && echo {lines}')

    def device(self, slot: str, vendor: str, kind: str = "0x030000") -> str:
        """On the PCI bus; where it is in the file system."""
        folder = f"/sys/bus/pci/devices/{slot}"
        self.write(f"{folder}/vendor", f"{vendor}\n")
        self.write(f"{folder}/class", f"{kind}\n")
        return folder

    def host(self, **changes: Any) -> Host:
        self.folder("bin")
        given: dict[str, Any] = {
            "environ": {"PATH": str(self.root / "bin"), **self.environ},
            "user": SOMEBODY,
            "root": self.root,
            "system": "linux",
            "machine": "x86_64",
            "python": (3, 12),
            "executable": "/venv/bin/python",
            "site": (str(self.root / "site"),),
            "now_s": NOW_S,
        }
        return Host(**{**given, **changes})

    def subject(
        self,
        config: str = "",
        *,
        lan: bool = False,
        ask_usual: Callable[[], Answer] = silent,
        ask_at: Callable[[str], Answer] = silent,
        **changes: Any,
    ) -> Subject:
        """With that in the system's configuration file."""
        if config:
            self.write("/etc/edged/config.toml", config)
        return examined(
            self.host(**changes),
            VERSION,
            config_file=None,
            wants_lan=lan,
            ask_usual=ask_usual,
            ask_at=ask_at,
        )


def found(check: Check, subject: Subject) -> Mapping[str, Finding]:
    """What a check finds, by name; of those with one name the worst."""
    findings: dict[str, Finding] = {}
    order = list(Level)
    for one in check(subject):
        before = findings.get(one.check)
        if before is None or order.index(one.level) > order.index(before.level):
            findings[one.check] = one
    return findings


def levels(check: Check, subject: Subject) -> dict[str, str]:
    return {name: one.level.value for name, one in found(check, subject).items()}
