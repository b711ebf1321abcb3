"""A host in a folder, whose service manager and programs do what they are told, in memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

from edged.node.install.installation import Host, Wanted, plan_install, plan_uninstall
from edged.node.install.steps import Run, Step, perform

PROGRAM = Path("/opt/edged/bin/edged")
GROUPS = "root:x:0:\nvideo:x:44:\n"
USERS = "root:x:0:0::/:/bin/sh\n"
CONFIG_TEXT = "# nothing is set\n"
PID = 4711
FILE_TIME_S = 0.02
"""More than two files may be apart and have the same time."""


@dataclass
class FakeHost:
    """Runs commands as systemd, launchd and the tools for groups would, and remembers them."""

    root: Path
    is_user: bool = False
    is_macos: bool = False
    uid: int = 0
    program: Path = PROGRAM
    is_enabled: bool = False
    active_state: str = "inactive"
    has_user_manager: bool = True
    fails: str = ""
    """A command that fails, when it is told to do something."""
    lingers: int = 0
    """How often a job of launchd that ends is still seen."""
    started_s: float = 0.0
    """When what runs was started."""
    asked: list[str] = field(default_factory=list)
    _ending: int = 0

    def __post_init__(self) -> None:
        (self.root / "run/systemd/system").mkdir(parents=True)
        (self.root / "etc").mkdir()
        (self.root / "etc/group").write_text(GROUPS)
        (self.root / "etc/passwd").write_text(USERS)

    @property
    def host(self) -> Host:
        environ = {"HOME": "/users/alice", "PATH": "/usr/bin"}
        who = (self.uid, self.is_user, self.is_macos)
        return Host(environ, self.run, *who, self.root, self.when_started)

    def when_started(self, pid: int) -> float | None:
        return self.started_s if pid == PID else None

    def install(self, *, starts: bool = True, config_text: str = CONFIG_TEXT) -> list[str]:
        """What was done."""
        wanted = Wanted(self.program, config_text, starts)
        return self.do(plan_install(self.host, wanted))

    def upgrade(self) -> None:
        """As pip does it: the program is another file, later than all that was done before."""
        time.sleep(FILE_TIME_S)
        program = self.root / self.program.relative_to("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("")
        time.sleep(FILE_TIME_S)

    def uninstall(self) -> list[str]:
        return self.do(plan_uninstall(self.host))

    def do(self, plan: Sequence[Step]) -> list[str]:
        for step in plan:
            perform(step, self.run, pause=lambda _: None)
        return [str(step).replace(f"{self.root}/", "/") for step in plan]

    def files(self) -> dict[str, str]:
        """All files and links by path, with their content or target."""
        return {
            f"/{path.relative_to(self.root)}": (
                f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
            )
            for path in sorted(self.root.rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    def run(self, argv: Sequence[str]) -> CompletedProcess[str]:
        words = [word for word in argv if word != "--user"]
        self.asked.append(" ".join(argv))
        if self.fails and self.fails in " ".join(argv):
            return CompletedProcess(argv, 1, "", "it would not")
        match words:
            case ["systemctl", "show-environment"]:
                return self._answer(argv, is_yes=self.has_user_manager)
            case ["systemctl", "is-enabled", *_]:
                return self._answer(argv, is_yes=self.is_enabled)
            case ["systemctl", "is-failed", *_]:
                return self._answer(argv, is_yes=self.active_state == "failed")
            case ["systemctl", "show", "--property=ActiveState", *_]:
                return CompletedProcess(argv, 0, f"{self.active_state}\n", "")
            case ["systemctl", "show", "--property=MainPID", *_]:
                return CompletedProcess(argv, 0, f"{PID if self._runs else 0}\n", "")
            case ["systemctl", "start" | "restart", _] | ["launchctl", "bootstrap", *_]:
                self.active_state, self.started_s = "active", time.time()
            case ["systemctl", "enable", _]:
                self.is_enabled = True
            case ["systemctl", "disable", "--now", _]:
                self.active_state, self.is_enabled = "inactive", False
            case ["launchctl", "bootout", *_]:
                self.active_state, self._ending = "inactive", self.lingers
            case ["launchctl", "print", name]:
                self._ending -= 1
                is_seen = self.active_state == "active" or self._ending >= 0
                said = f"{name} = {{\n\tstate = running\n\tpid = {PID}\n}}\n" if self._runs else ""
                return self._answer(argv, is_yes=is_seen or name.count("/") == 1, said=said)
            case [tool, *_]:
                self._change_users(tool)
        return CompletedProcess(argv, 0, "", "")

    def _change_users(self, tool: str) -> None:
        groups, users = self.root / "etc/group", self.root / "etc/passwd"
        if tool == "systemd-sysusers":
            groups.write_text(f"{GROUPS}edged:x:999:alice\n")
            users.write_text(f"{USERS}edged:x:999:999::/:/bin/false\n")
        elif tool == "groupdel":
            groups.write_text(GROUPS)
        elif tool == "userdel":
            users.write_text(USERS)

    @property
    def _runs(self) -> bool:
        return self.active_state in ("active", "activating")

    @staticmethod
    def _answer(argv: Sequence[str], *, is_yes: bool, said: str = "") -> CompletedProcess[str]:
        return CompletedProcess(argv, 0 if is_yes else 1, said, "")


def commands(plan: Sequence[Step]) -> list[str]:
    return [str(step) for step in plan if isinstance(step, Run)]
