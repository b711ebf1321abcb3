"""What a service manager is told when edged is installed and removed, and what it is asked first.

Theory of operation: only what is not so already becomes a step; a manager that cannot be asked, in
a root directory that was not booted, knows nothing, and is told everything.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.node.install.layout import AGENT, UNIT
from edged.node.install.steps import Run, RunCommand, Step


class ServiceControl(Protocol):
    """A service manager, asked and told about edged alone."""

    def why_absent(self) -> str | None:
        """A sentence if it is not there to be told anything."""
        ...

    def begin(
        self, unit: Path, *, is_new: bool, wants_start: bool, wants_restart: bool
    ) -> Iterator[Step]:
        """After the unit was written, which is_new says: know it, start it now and at boot."""
        ...

    def end(self, unit: Path) -> Iterator[Step]:
        """Before the unit is removed: stop it, which drains, and start it no more."""
        ...

    def forget(self) -> Iterator[Step]:
        """After the unit was removed."""
        ...


@dataclass(frozen=True, slots=True)
class Systemd:
    """That of the system, or of the user who asks."""

    run: RunCommand
    is_user: bool
    booted: Path = Path("/run/systemd/system")

    def why_absent(self) -> str | None:
        if not self.booted.is_dir():
            return "systemd does not run this host: start `edged serve` by what does"
        if self.is_user and self._fails("show-environment"):
            return (
                "your user has no systemd manager that answers: log in as that user "
                "(su and sudo do not start one), or have it started at boot: "
                "sudo loginctl enable-linger USER"
            )
        return None

    def begin(
        self, unit: Path, *, is_new: bool, wants_start: bool, wants_restart: bool
    ) -> Iterator[Step]:
        if is_new or self._says("show", "--property=NeedDaemonReload", "--value", UNIT) == "yes":
            yield self._do("daemon-reload")
        if self._fails("is-enabled", "--quiet", UNIT):
            yield self._do("enable", UNIT)
        if not wants_start:
            return
        # Also of one that is starting, or that the manager will start again.
        if self._says("show", "--property=ActiveState", "--value", UNIT) != "active":
            if not self._fails("is-failed", "--quiet", UNIT):
                yield self._do("reset-failed", UNIT)
            yield self._do("start", UNIT)
        elif is_new or wants_restart:
            yield self._do("restart", UNIT)

    def end(self, unit: Path) -> Iterator[Step]:
        if os.path.lexists(unit):
            yield self._do("disable", "--now", UNIT)

    def forget(self) -> Iterator[Step]:
        if not self._fails("is-failed", "--quiet", UNIT):
            yield self._do("reset-failed", UNIT)
        yield self._do("daemon-reload")

    def _argv(self, *words: str) -> tuple[str, ...]:
        return ("systemctl", *(("--user",) if self.is_user else ()), *words)

    def _do(self, *words: str) -> Run:
        starts = words[0] in ("start", "restart")
        user = "--user " if self.is_user else ""
        hint = f"its log: journalctl {user}--unit edged --lines 20" if starts else ""
        return Run(self._argv(*words), hint)

    def _fails(self, *words: str) -> bool:
        return self.run(self._argv(*words)).returncode != 0

    def _says(self, *words: str) -> str:
        return self.run(self._argv(*words)).stdout.strip()


@dataclass(frozen=True, slots=True)
class Launchd:
    """Of a user of macOS."""

    run: RunCommand
    uid: int

    def why_absent(self) -> str | None:
        if self.run(("launchctl", "print", self._domain)).returncode:
            return "launchd has no graphical session of your user: log in at the screen first"
        return None

    def begin(
        self, unit: Path, *, is_new: bool, wants_start: bool, wants_restart: bool
    ) -> Iterator[Step]:
        is_loaded = self._is_loaded()
        if is_loaded and is_new:
            yield self._end()
        if is_new or not is_loaded:
            if wants_start:
                yield Run(("launchctl", "bootstrap", self._domain, str(unit)))
        elif wants_restart:
            yield Run(("launchctl", "kickstart", "-k", self._service))

    def end(self, unit: Path) -> Iterator[Step]:
        if self._is_loaded():
            yield self._end()

    def forget(self) -> Iterator[Step]:
        return iter(())

    @property
    def _domain(self) -> str:
        return f"gui/{self.uid}"

    @property
    def _service(self) -> str:
        return f"{self._domain}/{AGENT}"

    def _is_loaded(self) -> bool:
        return self.run(self._print).returncode == 0

    @property
    def _print(self) -> tuple[str, ...]:
        return ("launchctl", "print", self._service)

    def _end(self) -> Run:
        return Run(("launchctl", "bootout", self._service), then_gone=self._print)
