"""What a daemon tells, as others see it: how long it is believed, and what avahi makes of it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from edged import __version__
from edged.node.lan.advertise import TTL_S
from edged.node.lan.multicast import TYPE_A, TYPE_AAAA, TYPE_PTR, TYPE_SRV, TYPE_TXT
from edged.node.trust.fingerprint import fingerprint
from tests.e2e.streams import WAIT_S
from tests.lan.conftest import Advertise
from tests.lan.network import Host, Network, skip_without
from tests.lan.watching import is_change, watching

SHORT_TTL_S = 3


@asynccontextmanager
async def advertising_alone(
    host: Host, name: str, ttl_s: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *host.within,
        sys.executable,
        *("-m", "tests.lan.advertise_alone", name, "[::]:7411", str(ttl_s)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None, "stdout is a pipe"
    try:
        async with asyncio.timeout(WAIT_S):
            line = await process.stdout.readline()
        assert json.loads(line)["event"] == "advertised", line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextmanager
def avahi(host: Host, folder: Path) -> Iterator[None]:
    """avahi-daemon on a host, with a bus of its own; $DBUS_SYSTEM_BUS_ADDRESS leads to it."""
    skip_without("avahi-daemon", "avahi-daemon")
    skip_without("avahi-browse", "avahi-utils")
    skip_without("dbus-daemon", "dbus")
    settings = folder / "avahi.conf"
    settings.write_text("[server]\nuse-ipv6=yes\n[wide-area]\nenable-wide-area=no\n")
    run = folder / "run"
    run.mkdir()
    # /run of its own: avahi-daemon's socket and its pid are at a place that cannot be configured.
    script = f"""
        mount -t tmpfs none /run && mkdir -p /run/dbus /run/avahi-daemon
        dbus-daemon --system --nofork --nopidfile --address=unix:path={run}/bus &
        while ! test -S {run}/bus; do sleep 0.05; done
        exec avahi-daemon --no-drop-root --no-rlimits --no-chroot -f {settings}
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": bus_of(run)}
    process = subprocess.Popen(
        [*host.within, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stderr is not None, "stderr is a pipe"
        said = []
        for line in process.stderr:
            said.append(line)
            if "startup complete" in line:
                break
        else:
            raise AssertionError(f"avahi-daemon did not start: {said}")
        yield
    finally:
        process.kill()
        process.communicate()


def bus_of(run: Path) -> str:
    return f"unix:path={run}/bus"


def browsed(host: Host, folder: Path) -> list[list[str]]:
    """The services that avahi resolved, each as its fields."""
    done = subprocess.run(
        [*host.within, "avahi-browse", "-rpt", "_edged._tcp"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": bus_of(folder / "run")},
        timeout=WAIT_S,
        check=True,
    )
    return [line.split(";") for line in done.stdout.splitlines() if line.startswith("=")]


async def test_avahi_sees_the_same(network: Network, advertise: Advertise, tmp_path: Path) -> None:
    there, here, _ = network.hosts
    with avahi(here, tmp_path):
        async with advertise(there, "Studio upstairs"):
            services = await asyncio.to_thread(browsed, here, tmp_path)
    by_ipv4 = [fields for fields in services if fields[2] == "IPv4" and fields[7].count(".") == 3]
    assert by_ipv4, services
    for fields in by_ipv4:
        assert fields[3].replace("\\032", " ") == "Studio upstairs"
        assert fields[4:6] == ["_edged._tcp", "local"]
        assert (fields[7], fields[8]) == (there.address(), "7411")
        told = set(fields[9].replace('"', "").split())
        assert told == {
            "txtvers=1",
            f"ver={__version__}",
            "api=edged.v1",
            "auth=none",
            "tls=0",
        }


async def test_a_daemon_is_believed_for_a_minute(network: Network, advertise: Advertise) -> None:
    there, here, _ = network.hosts
    async with advertise(there, "Studio"):
        said = await asyncio.to_thread(here.run, sys.executable, "-m", "tests.lan.hear")
    records = [json.loads(line) for line in said.splitlines()]
    kinds = {record["type"] for record in records}
    assert kinds >= {TYPE_PTR, TYPE_SRV, TYPE_TXT, TYPE_A, TYPE_AAAA}
    # Those of the first answer; then it may be on its way out.
    assert {record["ttl_s"] for record in records} <= {TTL_S, 0}
    assert TTL_S == 60


async def test_one_that_was_killed_is_forgotten_within_its_time_to_live(
    network: Network, tmp_path: Path
) -> None:
    there, here, _ = network.hosts
    async with (
        advertising_alone(there, "Studio", SHORT_TTL_S) as process,
        watching(here, tmp_path) as watcher,
    ):
        await watcher.until(is_change("added", "Studio"))
        process.kill()
        await process.wait()
        killed_s = asyncio.get_running_loop().time()
        gone = await watcher.until(is_change("removed", "Studio"))
    passed_s = gone["at_s"] - killed_s
    print(f"gone {passed_s:.1f} s after the kill, with a time to live of {SHORT_TTL_S} s")
    # Its last record was heard before the kill; the rest is for the look, and for a busy machine.
    assert passed_s < SHORT_TTL_S + 1.5


async def test_a_renewed_certificate_is_told(network: Network, tmp_path: Path) -> None:
    there, here, _ = network.hosts
    async with (
        advertising_alone(there, "Studio", TTL_S) as process,
        watching(here, tmp_path) as watcher,
    ):
        old = await watcher.until(is_change("added", "Studio"))
        assert old["fingerprint"] == fingerprint(b"old")
        process.send_signal(signal.SIGHUP)
        await watcher.until(lambda told: told["fingerprint"] == fingerprint(b"new"))
        gone = await watcher.until(is_change("removed", "Studio"))
        assert gone["fingerprint"] == fingerprint(b"old")
