"""Runs a program that sees a file system of its own at one place, and nobody else does."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.e2e.daemon import environment_of
from tests.e2e.streams import WAIT_S


def run_with_mount(
    folder: Path, options: str, arguments: Sequence[str], home: Path
) -> subprocess.CompletedProcess[str]:
    """`edged ARGUMENTS` with a tmpfs of these options on `folder`; skips where it is forbidden."""
    mount = f"mount -t tmpfs -o {options} none {shlex.quote(str(folder))}"
    if _in_namespace(mount, home).returncode != 0:
        pytest.skip("mounting needs root, or user namespaces: unshare --mount was refused")
    command = shlex.join([Program("edged").path, *arguments])
    return _in_namespace(f"{mount} && exec {command}", home)


def _in_namespace(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            env=environment_of(home),
            timeout=WAIT_S,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("unshare (util-linux) is not installed")
