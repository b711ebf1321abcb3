"""A host with a systemd of its own, inside this one: booted in a second, and thrown away.

Theory of operation: `boot` makes new namespaces over an overlay of /, and becomes their PID 1. That
process is known from outside by its parent, and commands enter its namespaces. When the parent is
killed the kernel ends all that is inside.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BOOT = Path(__file__).with_name("boot")
CHECKOUT = Path(__file__).parents[2]
INSIDE = Path("/usr/src/edged")
"""Where the checkout is, inside."""
BOOT_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED = ("unshare", "nsenter", "mount", "ip", "runuser", "systemctl")


@dataclass(frozen=True, slots=True)
class BootedHost:
    """`init` is its PID 1, as this host numbers it."""

    init: int

    def path(self, path: str) -> Path:
        """A file of it, as it is reached from here."""
        return Path(f"/proc/{self.init}/root") / path.lstrip("/")

    def run(
        self,
        *argv: str,
        user: str = "root",
        has_network: bool = False,
        timeout_s: float = COMMAND_TIMEOUT_S,
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*argv, user=user, has_network=has_network, environ=environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def check(self, *argv: str, user: str = "root", **environ: str) -> str:
        """What a command prints that succeeds."""
        done = self.run(*argv, user=user, **environ)
        assert done.returncode == 0, f"{argv} failed: {done.stdout}{done.stderr}"
        return done.stdout

    def argv(
        self,
        *argv: str,
        user: str = "root",
        has_network: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The command, inside; with this host's network if it needs one."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {"PATH": PATH, "HOME": home, **(environ or {})}
        network = () if has_network else ("--net",)
        return [
            *("nsenter", f"--target={self.init}", "--mount", "--pid", "--uts", "--ipc", *network),
            *("--root", "--wd", "--", "env", "-i"),
            *(f"{name}={text}" for name, text in variables.items()),
            *(() if user == "root" else ("runuser", f"--user={user}", "--")),
            *argv,
        ]

    def changed_files(self) -> dict[str, str]:
        """All that differs from the host below, by path; with a word about what it is."""
        found = {}
        upper = self.path("/run/changed")
        for folder, folders, files in os.walk(upper):
            for name in (*folders, *files):
                path = Path(folder) / name
                found[f"/{path.relative_to(upper)}"] = _kind(path)
        return found


def _kind(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "directory"
    return "file" if path.is_file() else "removed"


@contextmanager
def booted_host() -> Iterator[BootedHost]:
    """Skips the test where none can be had, and says why."""
    if os.geteuid() != 0:
        pytest.skip("booting a systemd needs root")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing or not Path("/lib/systemd/systemd").exists():
        pytest.skip(f"not installed: {', '.join(missing or ['systemd'])}: apt-get install systemd")
    work = Path(tempfile.mkdtemp(prefix="edged-host-"))
    log = work / "log"
    namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child")
    with log.open("wb") as output:
        outer = subprocess.Popen(
            ["unshare", *namespaces, BOOT, "begin", work, CHECKOUT],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield _await_boot(outer, log)
    finally:
        outer.kill()
        outer.wait()
        subprocess.run(["unshare", "--mount", BOOT, "end", work], check=True)
        shutil.rmtree(work)


def _await_boot(outer: subprocess.Popen[bytes], log: Path) -> BootedHost:
    deadline_s = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline_s and outer.poll() is None:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            host = BootedHost(int(children[0]))
            # Blocks until it has booted; fails while it cannot be asked yet.
            done = host.run("systemctl", "is-system-running", "--wait")
            if done.stdout.strip() in ("running", "degraded"):
                host.check("systemctl", "log-target", "journal")
                host.check("systemctl", "log-level", "info")
                return host
        time.sleep(0.05)  # no other process tells when the first one of a namespace is there
    pytest.skip(f"systemd cannot be booted here: {log.read_text()}")
