"""A host that cannot multicast: the daemon says so, serves, and tells the network when it can."""

from pathlib import Path

from tests.e2e.daemon import serving
from tests.e2e.settings import sim_tables
from tests.lan.network import Host, Network
from tests.lan.watching import is_change, watching

SERVER = {"discovery": True, "name": "Studio", "insecure": True}
ANYWHERE = ("--listen", "[::]:7411")


async def test_a_host_without_an_interface_is_waited_for(network: Network, tmp_path: Path) -> None:
    there, here, _ = network.hosts
    there.ip("link", "set", "eth0", "down")
    tables = sim_tables(server=SERVER)
    async with serving(tmp_path, tables, *ANYWHERE, within=there.within) as daemon:
        await daemon.logged("no interface to advertise on yet")
        await daemon.ready()
        there.ip("link", "set", "eth0", "up")
        async with watching(here, tmp_path) as watcher:
            await watcher.until(is_change("added", "Studio"))


async def test_packets_that_are_not_let_out_are_a_warning_and_sent_again_from_new_sockets(
    network: Network, tmp_path: Path
) -> None:
    there = network.hosts[0]
    # The rule for local addresses comes first of all; make room before it.
    there.ip("-6", "rule", "add", "pref", "2", "lookup", "local")
    there.ip("-6", "rule", "delete", "pref", "0")
    forbidden = ("pref", "1", "to", "ff02::fb/128", "prohibit")
    there.ip("-6", "rule", "add", *forbidden)
    tables = sim_tables(server=SERVER)
    async with serving(tmp_path, tables, *ANYWHERE, within=there.within) as daemon:
        warning = await daemon.logged("multicast cannot be sent")
        assert warning["level"] == "warning"
        assert warning["error"] == "Permission denied"
        await daemon.ready()
        old = _bound(there)
        there.ip("-6", "rule", "delete", *forbidden)
        await daemon.logged("multicast is sent again")
        assert old, "there are sockets of its addresses"
        assert not old & _bound(there)


def _bound(host: Host) -> set[str]:
    """The sockets of multicast DNS that are of one address, by their numbers in the kernel."""
    lines = host.run("cat", "/proc/net/udp", "/proc/net/udp6").splitlines()
    fields = [line.split() for line in lines if ":14E9 " in line]
    return {one[9] for one in fields if one[1].strip("0") != ":14E9"}


async def test_without_an_address_for_others_there_is_nothing_to_tell(
    network: Network, tmp_path: Path
) -> None:
    there = network.hosts[0]
    tables = sim_tables(server=SERVER)
    async with serving(tmp_path, tables, within=there.within) as daemon:
        warning = await daemon.logged(
            "nothing to advertise: server.listen has no address that other hosts can reach"
        )
        assert warning["level"] == "warning"
