"""Decides what makes edged a service of its host, and what takes every trace of it away again.

Theory of operation: a plan is made from how the host is now, and holds only what is not right yet.
So a second run does nothing, and the plan can be shown instead of done. Files come before commands
about them; what the running service uses is removed only after it has stopped.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.node.install import layout, processes, seal, service_control, shipped, steps, units
from edged.node.install.layout import TREE_MARK, USER, Layout
from edged.node.install.processes import WhenStarted
from edged.node.install.service_control import ServiceControl
from edged.node.install.steps import Keep, Link, Remove, Run, RunCommand, Step, Write

PROGRAMS = ("edged", "edgectl")
NOBODY = "65534"
"""The group of nobody, however a host calls it."""
_ON_EVERY_PATH = ("/usr/bin", "/usr/local/bin")


@dataclass(frozen=True, slots=True)
class Host:
    """Where edged is installed, and for whom."""

    environ: Mapping[str, str]
    run: RunCommand
    uid: int
    is_user: bool
    """For the user who asks, and not for the system."""
    is_macos: bool = False
    root: Path = Path("/")
    when_started: WhenStarted = processes.started_s

    @property
    def layout(self) -> Layout:
        if self.is_user:
            return layout.user_layout(self.root, self.environ, is_macos=self.is_macos)
        return layout.system_layout(self.root)

    @property
    def control(self) -> ServiceControl:
        if self.is_macos:
            return service_control.Launchd(self.run, self.when_started, self.uid)
        booted = self.root / "run/systemd/system"
        return service_control.Systemd(self.run, self.when_started, self.is_user, booted)

    def has_group(self, name: str) -> bool:
        """One of the host's own. Those that exist while a service runs are in no file."""
        return self._listed("etc/group", name) is not None

    def has_user(self, name: str) -> bool:
        return self._listed("etc/passwd", name) is not None

    def is_of_a_service(self, name: str) -> bool:
        """A user as systemd-sysusers makes one: without a home."""
        return (self._listed("etc/passwd", name) or [])[5:6] == ["/"]

    def _listed(self, file: str, name: str) -> list[str] | None:
        try:
            lines = (self.root / file).read_text(errors="replace").splitlines()
        except OSError:
            return None
        return next((fields for line in lines if (fields := line.split(":"))[0] == name), None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How edged is to be installed."""

    program: Path
    """`edged`; `edgectl` lies beside it."""
    config_text: str
    """Of the configuration file, if nobody has written one."""
    starts: bool = True


# ── May it be done here ──────────────────────────────────────────────────────────────────────────


def why_nowhere(host: Host) -> str | None:
    """Why there is no place for it, so that not even a plan can be made; None if there is one."""
    if host.is_user and not os.path.isabs(host.environ.get("HOME", "")):
        return "a service of a user needs a home directory: HOME is no absolute path"
    return None


def why_not(host: Host) -> str | None:
    """Why nothing can be installed or removed for `host`; None if it can."""
    if host.is_macos and not host.is_user:
        return "on macOS edged is an agent of a user: use --user"
    if not host.is_user and host.uid != 0:
        return "a service of the system needs root: use sudo, or --user for one of your own"
    return host.control.why_absent()


def why_not_this_program(host: Host, needed: tuple[Path, ...]) -> str | None:
    """Why a service could not run what needs these paths."""
    hidden = None if host.is_user else shipped.hidden_from_services(needed)
    if hidden is not None:
        return (
            f"this edged needs {hidden}, which a service of the system cannot see: install it "
            "elsewhere (scripts/install puts it into /opt/edged), or use --user"
        )
    unit = host.layout.unit
    if unit.is_symlink():
        return f"{unit} is a link to {unit.readlink()}: remove it first (systemctl unmask edged)"
    return None


# ── Installing ───────────────────────────────────────────────────────────────────────────────────


def plan_install(host: Host, wanted: Wanted) -> tuple[Step, ...]:
    return tuple(_install(host, wanted))


def _install(host: Host, wanted: Wanted) -> Iterator[Step]:
    where = host.layout
    if where.sysusers is not None:
        yield from _make_user(host, where.sysusers)
    yield from _configure(where.config, seal.sealed(wanted.config_text))
    unit_text = _unit_text(host, wanted.program)
    is_new = not steps.is_same_file(where.unit, unit_text)
    if is_new:
        yield Write(where.unit, unit_text)
    for name in PROGRAMS:
        yield from _link(where.programs / name, wanted.program.with_name(name), host.root)
    changed_s = max(map(steps.changed_s, (where.unit, _on(host.root, wanted.program))))
    yield from host.control.begin(
        where.unit, is_new=is_new, changed_s=changed_s, wants_start=wanted.starts
    )


def _configure(file: Path, text: str) -> Iterator[Step]:
    if not os.path.lexists(file):
        yield Write(file, text)
    elif seal.is_whole(file) and not steps.is_same_file(file, text):
        yield Write(file, text, "another version wrote it, and nobody changed it")


def _make_user(host: Host, file: Path) -> Iterator[Step]:
    text = shipped.service_file("edged.sysusers").read_text()
    if not steps.is_same_file(file, text):
        yield Write(file, text)
    if not (host.has_user(USER) and host.has_group(USER)):
        yield Run(("systemd-sysusers", str(file)))


def _unit_text(host: Host, program: Path) -> str:
    if host.is_macos:
        agent = shipped.service_file(f"{layout.AGENT}.plist").read_bytes()
        return units.filled_agent(agent, program, layout.agent_log(Path(host.environ["HOME"])))
    if host.is_user:
        return units.filled_unit(shipped.service_file("edged-user.service").read_text(), program)
    groups = [name for name in units.GPU_GROUPS if host.has_group(name)]
    return units.filled_unit(shipped.service_file("edged.service").read_text(), program, groups)


def _link(path: Path, target: Path, root: Path) -> Iterator[Step]:
    is_found_anyway = str(target.parent) in _ON_EVERY_PATH or _on(root, target) == path
    if is_found_anyway or steps.is_same_link(path, target):
        return
    if os.path.lexists(path) and not path.is_symlink():
        yield Keep(path, f"it is not edged's; {target} is the program")
    else:
        yield Link(path, target)


# ── Removing ─────────────────────────────────────────────────────────────────────────────────────


def plan_uninstall(host: Host) -> tuple[Step, ...]:
    return tuple(_uninstall(host))


def _uninstall(host: Host) -> Iterator[Step]:
    where = host.layout
    has_unit = os.path.lexists(where.unit)
    links = tuple(_links(where, host.root))
    yield from host.control.end(where.unit)
    if has_unit:
        yield Remove(where.unit, where.own_directories)
        yield from host.control.forget()
    for path in (*links, *(path for path in where.state if os.path.lexists(path))):
        yield Remove(path)
    if seal.is_whole(where.config):
        yield Remove(where.config, where.own_directories)
    elif os.path.lexists(where.config):
        yield Keep(where.config, "it was changed")
    elif where.config.parent.is_dir() and not os.listdir(where.config.parent):
        yield Remove(where.config.parent)
    if where.sysusers is not None and os.path.lexists(where.sysusers):
        yield Remove(where.sysusers, where.own_directories)
        yield from _remove_user(host)
    for path in where.kept:
        if os.path.lexists(path):
            yield Keep(path, "edged did not make it")
    if (where.tree / TREE_MARK).is_file():
        yield Remove(where.tree)


def _remove_user(host: Host) -> Iterator[Step]:
    has_user, has_group = host.has_user(USER), host.has_group(USER)
    if has_user and not host.is_of_a_service(USER):
        yield Keep(f"the user {USER}", "it has a home, so that edged did not make it")
        return
    if has_user and has_group:
        # A group that is somebody's own cannot be removed, and userdel leaves one with members.
        yield Run(("usermod", "--gid", NOBODY, USER))
    if has_group:
        yield Run(("groupdel", USER))
    if has_user:
        yield Run(("userdel", USER))


def _links(where: Layout, root: Path) -> Iterator[Path]:
    """Those that lead to what is removed, or nowhere, or that an installation would make."""
    for name in PROGRAMS:
        path = where.programs / name
        if not path.is_symlink():
            continue
        target = path.readlink()
        ours = (where.tree / "bin" / name, shipped.find_program(name))
        on_root = _on(root, target) if target.is_absolute() else path.parent / target
        if on_root in ours or target in ours or not on_root.exists():
            yield path


def _on(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
