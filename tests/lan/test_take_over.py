"""A daemon dies, and another that was paired with takes over: found over a real network."""

import asyncio
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tests.e2e.daemon import Daemon, environment_of
from tests.e2e.streams import WAIT_S
from tests.lan.conftest import Advertise
from tests.lan.network import Network
from tests.lan.paired import new_token, pair
from tests.lan.take_over import PROMPT

HANGS = {"hang_on_token": ord(PROMPT[-1])}
"""The step in which the prompt ends never does; what a model is tried with at first has no ~."""


async def test_before_the_first_token_another_daemon_takes_over(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    silent, quick, here = network.hosts
    async with AsyncExitStack() as stack:
        daemons: dict[str, Daemon] = {}
        for host, name, options in ((silent, "silent", HANGS), (quick, "quick", {})):
            state = tmp_path / name
            secret = new_token(state)
            daemons[name] = await stack.enter_async_context(
                advertise(host, name, options=options, insecure=False, state_directory=str(state))
            )
            await daemons[name].ready()
            pair(f"my-{name}", state, secret, tmp_path)
        asking = await asyncio.create_subprocess_exec(
            *(*here.within, sys.executable, "-m", "tests.lan.take_over", "my-silent"),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=environment_of(tmp_path),
        )
        assert asking.stdout is not None, "it is a pipe"
        async with asyncio.timeout(WAIT_S):
            assert await asking.stdout.readline() == b"my-silent\n"
            daemons["silent"].signal(signal.SIGKILL)
            assert await asking.stdout.read() == b"my-quick\n8\n"
            assert await asking.wait() == 0
        assert (await daemons["quick"].logged("request finished"))["client"].startswith(
            "token:laptop"
        )
