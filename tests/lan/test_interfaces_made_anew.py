"""Interfaces that change within a moment, between two looks of a daemon at them, but keep their
address: an adapter that was unplugged and plugged in again, a bridge that takes a device over.
"""

from pathlib import Path

import pytest

from tests.lan.conftest import Advertise
from tests.lan.network import Host, Network
from tests.lan.test_discovery import discovered
from tests.lan.watching import is_change, watching

ANYWHERE = "0.0.0.0:7411"


@pytest.fixture
def network(network: Network) -> Network:
    """Without IPv6, which is heard in any case; and a socket is let into one group, not into 20, so
    that one which was not left is missed at once."""
    for host in network.hosts:
        host.run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv6/conf/*/disable_ipv6")
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/igmp_max_memberships")
    return network


async def answers(there: Host, here: Host, folder: Path) -> bool:
    """Whether the daemon tells of itself, and hears who asks."""
    async with watching(here, folder) as watcher:
        await watcher.until(is_change("added", "Studio"))
    (found,) = discovered(here, folder)
    return found["addresses"] == [f"{there.address()}:7411"]


async def test_an_interface_that_is_made_anew_is_told_on(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with advertise(there, "Studio", ANYWHERE):
        there.ip("link", "delete", "eth0")
        network.plug(there, 0)
        assert await answers(there, here, tmp_path)


async def test_an_address_that_moves_to_a_bridge_and_back_is_told_on(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    address = f"{there.address()}/24"
    there.ip("link", "add", "br0", "type", "bridge")
    there.ip("link", "set", "br0", "up")
    async with advertise(there, "Studio", ANYWHERE):
        there.ip("address", "delete", address, "dev", "eth0")
        there.ip("link", "set", "eth0", "master", "br0")
        there.ip("address", "add", address, "dev", "br0")
        assert await answers(there, here, tmp_path)
        there.ip("address", "delete", address, "dev", "br0")
        there.ip("link", "set", "eth0", "nomaster")
        there.ip("address", "add", address, "dev", "eth0")
        assert await answers(there, here, tmp_path)
