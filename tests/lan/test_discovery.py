"""Hosts of one network find each other's daemons, as they come, move and go."""

import json
import os
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from edged.node.lan.interfaces import MAX_ADDRESSES
from tests.cli.program import Program
from tests.e2e.daemon import Daemon, environment_of
from tests.e2e.streams import ask
from tests.lan.conftest import Advertise
from tests.lan.network import Host, Network
from tests.lan.watching import is_change, watching

FIRST_ANSWER_S = 1.5
NUM_TRIES = 3
"""The best counts: other tests may take the processors meanwhile."""


def edgectl(host: Host, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*host.within, Program("edgectl").path, *arguments],
        capture_output=True,
        text=True,
        env=environment_of(folder),
        timeout=40,
        check=False,
    )


def discovered(host: Host, folder: Path, *options: str) -> list[dict[str, object]]:
    done = edgectl(host, folder, "discover", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_a_daemon_is_found_by_another_host_in_time(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    times_s = []
    async with advertise(there, "Studio"):
        for _ in range(NUM_TRIES):
            async with watching(here, tmp_path) as watcher:
                found = await watcher.until(is_change("added", "Studio"))
                times_s.append(found["after_s"])
    print(f"first answers {', '.join(f'{one:.2f}' for one in times_s)} s after edgectl's start")
    assert min(times_s) < FIRST_ANSWER_S
    assert found["addresses"][0] == f"{there.address()}:7411"
    assert found["auth"] == "none"
    assert any("%eth0]:7411" in one for one in found["addresses"]), "the IPv6 address of the link"


async def test_the_list_shows_what_each_serves(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with advertise(there, "Studio") as daemon:
        await daemon.ready()
        (found,) = discovered(here, tmp_path, "--probe")
        table = edgectl(here, tmp_path, "discover", "--probe").stdout.splitlines()
    assert found["problem"] is None
    assert isinstance(found["status"], dict)
    assert found["status"]["state"] == "ready"
    assert table[0].split() == [
        *("NAME", "ADDRESS", "VERSION", "AUTH", "PAIRED", "STATE", "MODELS", "TIERS", "LOAD")
    ]
    assert table[1].split()[-8:] == [
        *("no", "ready", "sim", "interactive,standard,batch", "0", "running,", "0", "waiting")
    ]


async def test_without_a_daemon_it_says_what_may_be_wrong(network: Network, tmp_path: Path) -> None:
    done = edgectl(network.hosts[0], tmp_path, "discover", "--timeout", "0.5")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("edgectl: no daemon was found on the local network. A daemon is")
    network.hosts[0].ip("link", "set", "eth0", "down")
    done = edgectl(network.hosts[0], tmp_path, "discover", "--timeout", "0.5")
    assert "no network interface of this host is up and can multicast" in done.stderr


async def test_two_daemons_of_one_name_get_two(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    one, other, here = network.hosts
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(advertise(one, "Studio"))
        # On another host, and on the same one, where they share the port of multicast DNS.
        second = await stack.enter_async_context(advertise(other, "studio"))
        await stack.enter_async_context(advertise(one, "Studio", "0.0.0.0:7412"))
        identity = (await second.edgectl("identity")).stdout
        found = {str(daemon["name"]): daemon["addresses"] for daemon in discovered(here, tmp_path)}
    assert set(found) == {"Studio", "studio (2)", "Studio (3)"}
    assert identity.split()[:3] == ["name", "studio", "(2)"]
    by_ipv4, by_ipv6 = cast(list[str], found["Studio (3)"])
    assert by_ipv4 == f"{one.address()}:7412"
    assert by_ipv6.startswith("[fe80::"), "a wildcard listens on both families"
    assert by_ipv6.endswith("]:7412")


async def test_a_name_that_two_took_apart_is_left_to_one_when_they_meet(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    one, other, here = network.hosts
    other.ip("link", "set", "eth0", "multicast", "off")
    network.plug(other, 1)
    async with AsyncExitStack() as stack:
        daemons = [
            await stack.enter_async_context(advertise(one, "Studio")),
            await stack.enter_async_context(advertise(other, "Studio")),
        ]
        assert not [line for daemon in daemons for line in daemon.lines("name is in use")]
        async with watching(here, tmp_path) as watcher:
            other.ip("link", "set", "eth0", "multicast", "on")
            await watcher.until(is_change("added", "Studio (2)"))
            await watcher.until(is_change("added", "Studio"))
        assert {str(daemon["name"]) for daemon in discovered(here, tmp_path)} == {
            "Studio",
            "Studio (2)",
        }


async def test_a_new_address_replaces_the_old_one(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with (
        advertise(there, "Studio") as daemon,
        watching(here, tmp_path) as watcher,
    ):
        await watcher.until(is_change("added", "Studio"))
        there.ip("address", "del", f"{there.address()}/24", "dev", "eth0")
        there.ip("address", "add", "10.77.0.99/24", "dev", "eth0")
        moved = await watcher.until(
            lambda told: told["change"] == "updated" and "10.77.0.99:7411" in told["addresses"]
        )
        assert daemon.lines("advertised anew")
        if f"{there.address()}:7411" in moved["addresses"]:
            await watcher.until(lambda told: f"{there.address()}:7411" not in told["addresses"])
        (found,) = discovered(here, tmp_path)
        assert f"{there.address()}:7411" not in str(found["addresses"])
        assert "10.77.0.99:7411" in str(found["addresses"])
        assert not [told for told in watcher.told if told["change"] == "removed"]


async def test_an_interface_that_comes_later_is_told_on_and_the_others_stay(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, later = network.hosts
    later.ip("link", "set", "eth0", "down")
    network.plug(later, 1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(advertise(there, "Studio"))
        old = await stack.enter_async_context(watching(here, tmp_path))
        new = await stack.enter_async_context(watching(later, tmp_path))
        await old.until(is_change("added", "Studio"))
        network.plug(there, 1)
        found = await new.until(is_change("added", "Studio"))
        assert f"{there.address(1)}:7411" == found["addresses"][0], "the one that it can reach"
        await old.until(lambda told: f"{there.address(1)}:7411" in told["addresses"])
        assert not [told for told in old.told if told["change"] == "removed"]


async def test_bridges_of_containers_do_not_push_the_network_out(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    there.ip("route", "add", "default", "via", here.address())
    for number in range(MAX_ADDRESSES):
        plug = f"container{number}"
        there.ip("link", "add", f"br-{number}", "type", "veth", "peer", plug)
        there.ip("link", "set", plug, "up")
        there.ip("link", "set", f"br-{number}", "up")
        there.ip("address", "add", f"172.{16 + number}.0.1/16", "dev", f"br-{number}")
    async with advertise(there, "Studio", "0.0.0.0:7411"):
        (found,) = discovered(here, tmp_path)
        assert found["addresses"][0] == f"{there.address()}:7411"


async def test_only_addresses_of_the_listener_are_told(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    network.plug(there, 1)
    async with advertise(there, "Studio", f"{there.address()}:7411") as daemon:
        (found,) = discovered(here, tmp_path)
        assert found["addresses"] == [f"{there.address()}:7411"]
        assert daemon.lines("advertised")[0]["addresses"] == [there.address()]


async def test_an_address_with_a_label_is_one_of_its_interface(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    there.ip("address", "add", "10.77.0.99/24", "dev", "eth0", "label", "eth0:0")
    async with advertise(there, "Studio", "10.77.0.99:7411"):
        (found,) = discovered(here, tmp_path)
        assert found["addresses"] == ["10.77.0.99:7411"]


async def test_a_network_of_one_family_will_do(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, old = network.hosts
    for host in (there, here):
        host.ip("address", "del", f"{host.address()}/24", "dev", "eth0")
    async with advertise(there, "Studio"):
        (found,) = discovered(here, tmp_path, "--probe")
        assert str(found["address"]).endswith("%eth0]:7411")
        assert found["status"] is not None
    there.ip("address", "add", f"{there.address()}/24", "dev", "eth0")
    for host in (there, old):
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    async with advertise(there, "Studio", "0.0.0.0:7412"):
        (found,) = discovered(old, tmp_path)
        assert found["addresses"] == [f"{there.address()}:7412"]


async def test_a_daemon_that_drains_says_goodbye_first(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with (
        advertise(there, "Studio") as daemon,
        watching(here, tmp_path) as watcher,
    ):
        await daemon.ready()
        await watcher.until(is_change("added", "Studio"))
        running = daemon.generate(ask("running", max_tokens=2000))
        await running.tokens(3)
        daemon.signal(signal.SIGTERM)
        await watcher.until(is_change("removed", "Studio"))
        assert daemon.lines("stopped") == [], "it is still at work"
        await daemon.logged("draining")
        events = [line["event"] for line in daemon.log]
        assert events.index("advertisement withdrawn") < events.index("draining")
        await running.leave()


async def test_a_daemon_that_is_killed_comes_back_under_its_name(
    network: Network, advertise: Advertise, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with watching(here, tmp_path) as watcher:
        async with advertise(there, "Studio") as daemon:
            await watcher.until(is_change("added", "Studio"))
            await _kill(daemon)
        async with advertise(there, "Studio", "0.0.0.0:7412"):
            back = await watcher.until(lambda told: f"{there.address()}:7412" in told["addresses"])
            assert back["name"] == "Studio"


async def _kill(daemon: Daemon) -> None:
    engines = daemon.engine_pids
    daemon.signal(signal.SIGKILL)
    await daemon.exit_code()
    for pid in engines:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
