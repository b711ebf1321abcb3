"""The examples, as they stand, against the installed daemon."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOW = {"step_s": 0.05}


async def start(
    name: str, *arguments: str, environ: Mapping[str, str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )


async def end(process: asyncio.subprocess.Process, stdin: str = "") -> tuple[int, str, str]:
    output, errors = await asyncio.wait_for(process.communicate(stdin.encode()), WAIT_S)
    return process.returncode or 0, output.decode(), errors.decode()


def found_by(daemon: Daemon) -> dict[str, str]:
    return {**daemon.environ, "EDGED_HOST": f"unix:{daemon.socket}"}


async def test_a_chat(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(eos_rate=0.1, draws_text=True)) as daemon:
        await daemon.ready()
        chat = await start("chat.py", environ=found_by(daemon))
        code, output, errors = await end(chat, "Hello\nAnd again\n\n")
        print(code, output, errors, daemon.log)
