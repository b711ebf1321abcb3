"""A client where another program holds the port of multicast DNS alone, as avahi can be set to do:
it asks from ports of its own, for as long as it watches.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edged.node.lan.multicast import PORT
from tests.lan.conftest import Advertise
from tests.lan.network import Host, Network
from tests.lan.watching import is_change, watching

HOLD = f"""
import socket
alone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
alone.bind(("", {PORT}))
print("held", flush=True)
input()
"""
ASKED_AT_ONCE = 2
"""After the start, and a second later in case that the first question was lost."""


@contextmanager
def port_held(host: Host) -> Iterator[None]:
    with subprocess.Popen(
        [*host.within, sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None, "stdout is a pipe"
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.kill()


async def test_it_is_asked_again_and_again(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    words = (sys.executable, "-m", "tests.lan.asked", there.address(), str(ASKED_AT_ONCE))
    asked = asyncio.create_task(asyncio.to_thread(there.run, *words))
    with port_held(here):
        async with watching(here, tmp_path) as watcher:
            await asked
            async with advertise(there, "Studio"):
                await watcher.until(is_change("added", "Studio"))


async def test_it_is_asked_on_an_interface_that_comes_later(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, other = network.hosts
    there.ip("link", "set", "eth0", "down")
    network.plug(there, 1)
    with port_held(here):
        async with (
            advertise(there, "Studio"),
            advertise(other, "Attic"),
            watching(here, tmp_path) as watcher,
        ):
            await watcher.until(is_change("added", "Attic"))
            network.plug(here, 1)
            found = await watcher.until(is_change("added", "Studio"))
    assert found["addresses"][0] == f"{there.address(1)}:7411"
