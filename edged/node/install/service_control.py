"""What a service manager is told when edged is installed and removed, and what it is asked first.

Theory of operation: only what is not so already becomes a step; a manager that cannot be asked, in
a root directory that was not booted, knows nothing, and is told everything. A service is behind if
its process is older than what it is started from: so an upgrade that did not restart it is not
forgotten, and one that runs what is there is not restarted.
"""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.node.install.layout import AGENT, UNIT
from edged.node.install.processes import WhenStarted
from edged.node.install.steps import Keep, Run, RunCommand, Step

_PID = re.compile(r"^\s*pid = (\d+)$", re.MULTILINE)


class ServiceControl(Protocol):
    """A service manager, asked and told about edged alone."""

    def why_absent(self) -> str | None:
        """A sentence if it is not there to be told anything."""
        ...

    def begin(
        self, unit: Path, *, is_new: bool, changed_s: float, wants_start: bool
    ) -> Iterator[Step]:
        """After the unit was written, which is_new says: know it, start it now and at boot.

        changed_s: of the unit and the program, when the later one came to be as it is.
        """
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
    when_started: WhenStarted
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
        self, unit: Path, *, is_new: bool, changed_s: float, wants_start: bool
    ) -> Iterator[Step]:
        if is_new or self._shows("NeedDaemonReload") == "yes":
            yield self._do("daemon-reload")
        if self._fails("is-enabled", "--quiet", UNIT):
            yield self._do("enable", UNIT)
        started_s = self._started_s()
        is_behind = started_s is not None and (is_new or started_s < changed_s)
        if is_behind and wants_start:
            yield self._do("restart", UNIT)
        elif is_behind:
            yield _keep_running(UNIT, self._argv("restart", UNIT))
        # Also one that is starting, or that the manager will start again.
        elif wants_start and self._shows("ActiveState") != "active":
            if not self._fails("is-failed", "--quiet", UNIT):
                yield self._do("reset-failed", UNIT)
            yield self._do("start", UNIT)

    def end(self, unit: Path) -> Iterator[Step]:
        if os.path.lexists(unit):
            yield self._do("disable", "--now", UNIT)

    def forget(self) -> Iterator[Step]:
        if not self._fails("is-failed", "--quiet", UNIT):
            yield self._do("reset-failed", UNIT)
        yield self._do("daemon-reload")

    def _started_s(self) -> float | None:
        return self.when_started(int(self._shows("MainPID") or 0))  # 0: it does not run

    def _argv(self, *words: str) -> tuple[str, ...]:
        return ("systemctl", *(("--user",) if self.is_user else ()), *words)

    def _do(self, *words: str) -> Run:
        starts = words[0] in ("start", "restart")
        user = "--user " if self.is_user else ""
        hint = f"its log: journalctl {user}--unit edged --lines 20" if starts else ""
        return Run(self._argv(*words), hint)

    def _fails(self, *words: str) -> bool:
        return self.run(self._argv(*words)).returncode != 0

    def _shows(self, name: str) -> str:
        return self.run(self._argv("show", f"--property={name}", "--value", UNIT)).stdout.strip()


@dataclass(frozen=True, slots=True)
class Launchd:
    """Of a user of macOS."""

    run: RunCommand
    when_started: WhenStarted
    uid: int

    def why_absent(self) -> str | None:
        if self.run(("launchctl", "print", self._domain)).returncode:
            return "launchd has no graphical session of your user: log in at the screen first"
        return None

    def begin(
        self, unit: Path, *, is_new: bool, changed_s: float, wants_start: bool
    ) -> Iterator[Step]:
        is_loaded = self._is_loaded()
        started_s = self._started_s()
        is_behind = is_new or (started_s is not None and started_s < changed_s)
        if is_loaded and not is_behind:
            return
        if wants_start:
            # Started again, it would be as the agent was when it was loaded.
            if is_loaded:
                yield self._end()
            yield Run(("launchctl", "bootstrap", self._domain, str(unit)))
        elif is_loaded:
            yield _keep_running(AGENT, ("edged", "install-service", "--user"))

    def end(self, unit: Path) -> Iterator[Step]:
        if self._is_loaded():
            yield self._end()

    def forget(self) -> Iterator[Step]:
        return iter(())

    def _started_s(self) -> float | None:
        found = _PID.search(self.run(self._print).stdout)
        return self.when_started(int(found[1])) if found else None

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


def _keep_running(name: str, restart: tuple[str, ...]) -> Keep:
    why = "it runs what was installed before; to restart it"
    return Keep(name, f"{why}: {shlex.join(restart)}")
