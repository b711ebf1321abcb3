"""The daemon may have as many files open as its user."""

import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edged.node.service.open_files import ENOUGH
from tests.e2e.daemon import serving
from tests.e2e.settings import sim_tables

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_soft_limit_becomes_the_hard_one() -> None:
    code = (
        "import resource; from edged.node.service.open_files import *;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048)); raise_open_files();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), few_open_files());"
        "raise_open_files(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(2048, 2048) 2048", "(2048, 2048)"]


@pytest.mark.skipif(0 <= HARD < ENOUGH, reason=f"this user may have {HARD} files open")
async def test_daemon_and_its_engines_have_the_raised_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        for pid in (daemon.pid, *daemon.engine_pids):
            soft, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
            assert soft == hard
        assert not daemon.lines("few files may be open")
