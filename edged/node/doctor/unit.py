"""What systemd makes of the service's unit: who the daemon is there, what it sees and may do.

Theory of operation: systemd is asked, since it alone knows what came of the unit, its drop-ins and
their defaults. Where it does not run the unit is taken to be as it is shipped.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edged.node.doctor.host import Host

Scope = Literal["--system", "--user"]
SCOPES: Sequence[Scope] = ("--system", "--user")
UNIT = "edged.service"
EDIT = "sudo systemctl edit edged"
CREDENTIALS = Path("/run/credentials") / UNIT
"""Where the service finds what it is given. It is there while the service runs."""
SHIPPED: Mapping[str, str] = {
    "User": "edged",
    "Group": "edged",
    "StateDirectory": "edged",
    "CacheDirectory": "edged",
    "RuntimeDirectory": "edged",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectKernelTunables": "yes",
    "RemoveIPC": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
}

_ASKED = (
    *SHIPPED,
    "LoadState",
    "SupplementaryGroups",
    "BindPaths",
    "BindReadOnlyPaths",
    "ReadWritePaths",
    "PrivateDevices",
    "RuntimeDirectoryPreserve",
    "ExecStart",
    "MainPID",
    "ControlGroup",
    "Slice",
    "MemoryMax",
    "MemorySwapMax",
    "LimitNOFILE",
    "LimitAS",
    "LimitASSoft",
)
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # compared with
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # as above
_VOLATILE = ("/run", "/tmp", _SHARED_MEMORY)  # noqa: S108  # as above
"""Empty after a boot."""
_LEFT_BY_STRICT = {
    **dict.fromkeys(_HOMES, "ProtectHome"),
    "/dev": "PrivateDevices",
    "/proc": "ProtectKernelTunables",
    "/sys": "ProtectKernelTunables",
}
"""What ProtectSystem=strict leaves to other settings."""
_SYSTEM = ("/usr", "/boot", "/efi", "/etc")
_ABOVE_OWN = {
    "StateDirectory": ("/var/lib", "/var/lib/private"),
    "CacheDirectory": ("/var/cache", "/var/cache/private"),
    "RuntimeDirectory": ("/run", "/run/private"),
}
_BIND = re.compile(r"-?(/.*?):(/.*?):(?:no)?r?bind(?= |$)")
_PATH = re.compile(r"[-+]*(/.*?)(?= [-+]*/|$)")
_PROGRAM = re.compile(r"\bpath=(.+?) ;")
_UNSHOWN = "[unprintable]"
"""What systemd shows of a path with a space in ReadWritePaths=."""


@dataclass(frozen=True, slots=True)
class Bind:
    """What the service sees at a place is elsewhere on the host, or there too."""

    source: Path
    place: Path


@dataclass(frozen=True, slots=True)
class Unit:
    shown: Mapping[str, str]
    """By systemd, as "ProtectHome": "yes"."""

    @property
    def program(self) -> str | None:
        """That it starts; None if systemd does not tell."""
        named = _PROGRAM.search(self.shown.get("ExecStart", ""))
        return None if named is None else named[1]

    @property
    def user(self) -> str:
        return self.shown.get("User") or "root"

    @property
    def groups(self) -> Sequence[str]:
        return (*self.shown.get("Group", "").split(), *self._words("SupplementaryGroups"))

    @property
    def binds(self) -> Sequence[Bind]:
        both = f"{self.shown.get('BindPaths', '')} {self.shown.get('BindReadOnlyPaths', '')}"
        return [Bind(Path(source), Path(place)) for source, place in _BIND.findall(both)]

    def bind_of(self, path: Path) -> Bind | None:
        """Through which the service sees a path."""
        of_path = [bind for bind in self.binds if path.is_relative_to(bind.place)]
        return max(of_path, key=lambda bind: len(bind.place.parts), default=None)

    def outside(self, path: Path) -> Path:
        """Where that is on the host which the service sees at a path."""
        bind = self.bind_of(path)
        return path if bind is None else bind.source / path.relative_to(bind.place)

    def hides(self, path: Path) -> str:
        """The folder with everything in it that the service does not see, and a path is in; "" if
        it sees the path."""
        homes = _HOMES if self.shown.get("ProtectHome") in ("yes", "tmpfs") else ()
        temporary = _TEMPORARY if self.shown.get("PrivateTmp", "no") != "no" else ()
        folder = next((one for one in (*homes, *temporary) if path.is_relative_to(one)), "")
        return "" if self.bind_of(path) is not None and not self.closes(folder) else folder

    def private(self, path: Path) -> str:
        """The temporary directory that is the service's alone, while it runs, and a path is in; ""
        if there is none such."""
        hidden = self.hides(path)
        return hidden if hidden in _TEMPORARY else ""

    def emptied(self, path: Path) -> str:
        """When that is lost which the service writes there; "" if it is kept."""
        outside = self.outside(path)
        in_memory = outside.is_relative_to(_SHARED_MEMORY) and self.shown.get("RemoveIPC") == "yes"
        preserved = self.shown.get("RuntimeDirectoryPreserve") == "yes"
        in_runtime = self._is_made_for(("RuntimeDirectory",), outside) and not preserved
        if self.private(path) or in_memory or in_runtime:
            return "when the service stops"
        return "with every boot" if any(outside.is_relative_to(one) for one in _VOLATILE) else ""

    def closes(self, folder: str) -> bool:
        """Whether even what is bound in a folder is hidden."""
        return folder in _HOMES and self.shown.get("ProtectHome") == "yes"

    @property
    def opened(self) -> Sequence[Path]:
        """For writing."""
        shown = " ".join(one for one in self._words("ReadWritePaths") if one != _UNSHOWN)
        opened = [Path(one) for one in _PATH.findall(shown)]
        bound = _BIND.findall(self.shown.get("BindPaths", ""))
        return [*opened, *(Path(place) for _, place in bound)]

    def may_change(self, path: Path) -> bool:
        """As far as the unit goes, not the file's mode."""
        if self.is_own(path) or self.private(path):
            return True
        may_be_opened = _UNSHOWN in self.shown.get("ReadWritePaths", "") and " " in str(path)
        if may_be_opened or any(path.is_relative_to(one) for one in self.opened):
            return not self.hides(path)
        return not (self.hides(path) or self._protects(path))

    def _protects(self, path: Path) -> bool:
        """From being written to."""
        protected = self.shown.get("ProtectSystem", "no")
        closed = {"strict": ("/",), "full": _SYSTEM, "yes": _SYSTEM[:-1]}.get(protected, ())
        left = [one for one in _LEFT_BY_STRICT if path.is_relative_to(one)]
        if left and not path.is_relative_to(_SHARED_MEMORY):  # which a private /dev has too
            return self.shown.get(_LEFT_BY_STRICT[left[0]], "no") not in ("no", "")
        return not left and any(path.is_relative_to(one) for one in closed)

    def is_own(self, path: Path) -> bool:
        """Whether it is in a directory that systemd makes for the service."""
        return self._is_made_for(_ABOVE_OWN, path)

    def _is_made_for(self, kinds: Iterable[str], path: Path) -> bool:
        return any(
            path.is_relative_to(Path(above) / name)
            for kind in kinds
            for name in self._words(kind)
            for above in _ABOVE_OWN[kind]
        )

    def may_have(self, capability: str) -> bool:
        wanted = capability.lower()
        has = wanted in self._words("AmbientCapabilities") or self.user == "root"
        return has and wanted in self._words("CapabilityBoundingSet")

    @property
    def runs(self) -> bool:
        """And so has a control group of its own."""
        return bool(self.shown.get("ControlGroup"))

    @property
    def main_pid(self) -> int | None:
        return self.number("MainPID") or None

    @property
    def control_group(self) -> str:
        """While it does not run, that in which its own will be made."""
        return self.shown.get("ControlGroup") or f"/{self.shown.get('Slice') or 'system.slice'}"

    def number(self, name: str) -> int | None:
        """None if there is no such limit."""
        text = self.shown.get(name, "")
        return int(text) if text.isdecimal() and int(text) < 2**63 else None

    def _words(self, name: str) -> list[str]:
        return self.shown.get(name, "").split()


def show(host: Host, scope: Scope, names: Sequence[str]) -> Mapping[str, str]:
    """What systemd says of the unit; nothing where it does not answer, as without a session."""
    told = host.run("systemctl", scope, "show", UNIT, f"--property={','.join(names)}")
    lines = told.output.splitlines() if told is not None and told.code == 0 else []
    return dict(line.partition("=")[::2] for line in lines)


def system_unit(host: Host) -> Unit:
    shown = show(host, "--system", _ASKED) if host.exists("/run/systemd/system") else {}
    return Unit(shown if shown.get("LoadState") == "loaded" else SHIPPED)
