"""The example that picks a daemon, where two were paired with and one was not."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tests.e2e.daemon import Daemon, environment_of
from tests.e2e.settings import SIM
from tests.e2e.streams import WAIT_S, ask
from tests.lan.conftest import Advertise
from tests.lan.network import Host, Network
from tests.lan.paired import new_token, pair

EXAMPLE = Path(__file__).parents[2] / "examples" / "lan_picker.py"


def pick(host: Host, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*host.within, sys.executable, "-W", "error", str(EXAMPLE), SIM, "Who is there?"],
        capture_output=True,
        text=True,
        env=environment_of(folder),
        timeout=40,
        check=False,
    )


async def test_the_picker_asks_whoever_has_least_to_do(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    busy, idle, here = network.hosts
    async with AsyncExitStack() as stack:
        daemons: dict[str, Daemon] = {}
        for host, name in ((busy, "busy"), (idle, "idle")):
            state = tmp_path / name
            secret = new_token(state)
            daemon = await stack.enter_async_context(
                advertise(host, name, insecure=False, state_directory=str(state))
            )
            await daemon.ready()
            pair(f"my-{name}", state, secret, tmp_path)
            daemons[name] = daemon
        await stack.enter_async_context(advertise(here, "stranger", "0.0.0.0:7412"))
        occupying = daemons["busy"].generate(ask("Hello", max_tokens=4000, ignore_eos=True))
        await occupying.tokens(1)
        done = await asyncio.to_thread(pick, here, tmp_path)
        await occupying.leave()
        finished = await daemons["idle"].logged("request finished")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert f"busy at {busy.address()}:7411" in done.stdout
    assert any(line.startswith("busy at") and line.endswith("1 requests") for line in shown)
    assert any(line.startswith("idle at") and line.endswith("0 requests") for line in shown)
    assert any(
        line.startswith("stranger at") and line.endswith("not paired with") for line in shown
    )
    assert finished["client"] == "token:laptop/example-lan-picker"
    assert finished["tier"] == "standard"


DISCOVER = """
import asyncio
from edged.client import AsyncClient, Client, discover
for found in (discover(), Client.discover(0.5), asyncio.run(AsyncClient.discover(0.5))):
    print(*(daemon.name for daemon in found.daemons), found.problem)
"""


async def test_programs_discover(network: Network, advertise: Advertise, tmp_path: Path) -> None:
    there, here, _ = network.hosts
    async with advertise(there, "Studio"):
        done = await asyncio.create_subprocess_exec(
            *(*here.within, sys.executable, "-W", "error", "-c", DISCOVER),
            stdout=subprocess.PIPE,
            env=environment_of(tmp_path),
        )
        output, _ = await asyncio.wait_for(done.communicate(), WAIT_S)
    assert output.decode() == "Studio None\n" * 3


async def test_the_picker_says_why_there_is_nobody(network: Network, tmp_path: Path) -> None:
    network.hosts[0].ip("link", "set", "eth0", "down")
    done = pick(network.hosts[0], tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "nobody here has sim; no network interface of this host is up and can multicast\n"
    )
