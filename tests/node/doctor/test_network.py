"""The whole command in a network of its own, with interfaces that are as they should not be."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import WAIT_S, Program

SIM = '[engine]\nbackend = "sim"\n[models.m]\npath = "m"\n[server]\nlisten = ""\n'
INTERFACE = """
ip link set lo up
ip link add lan0 type veth peer name lan1
ip address add 10.9.0.1/24 dev lan0
ip link set lan0 up
ip link set lan1 up
"""
ROUTE = "ip route add 224.0.0.0/4 dev lan0\n"


def has_namespaces() -> bool:
    if not shutil.which("ip") or not shutil.which("unshare"):
        return False
    command = ["unshare", "--net", "sh", "-c", f"set -e\n{INTERFACE}{ROUTE}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not has_namespaces(), reason="needs root, unshare, and ip with veth: network namespaces"
)


def doctor(tmp_path: Path, setup: str) -> dict[str, str]:
    """The level of each finding about the LAN, in a network that a script has set up."""
    config = tmp_path / "config.toml"
    config.write_text(SIM)
    program = Program("edgectl").path
    command = shlex.join([program, "doctor", "--lan", "--json", "--config", str(config)])
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"set -e\n{setup}{command}"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)},
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    return {one["check"]: one["level"] for one in findings if one["check"].startswith("lan.")}


def test_a_host_without_a_network_is_a_problem(tmp_path: Path) -> None:
    assert doctor(tmp_path, "")["lan.interfaces"] == "problem"


def test_multicast_passes_where_nothing_is_in_its_way(tmp_path: Path) -> None:
    levels = doctor(tmp_path, INTERFACE + ROUTE)
    assert (levels["lan.interfaces"], levels["lan.multicast"]) == ("ok", "ok")
    assert "lan.route" not in levels


IPV6_ALONE = INTERFACE.replace(
    "ip address add 10.9.0.1/24 dev lan0", "ip -6 address add fd00:9::1/64 dev lan0 nodad"
)
TUNNEL = """
ip tuntap add wg0 mode tun
ip link set wg0 up multicast off
ip address add 10.8.0.1/24 dev wg0
"""


def test_a_host_with_ipv6_alone_is_in_order(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this system has no IPv6")
    levels = doctor(tmp_path, IPV6_ALONE)
    assert (levels["lan.interfaces"], levels["lan.multicast"]) == ("ok", "ok")


def test_a_tunnel_need_not_carry_multicast(tmp_path: Path) -> None:
    levels = doctor(tmp_path, f"{INTERFACE}{ROUTE}{TUNNEL}")
    assert "lan.flag" not in levels
    assert levels["lan.multicast"] == "ok"


def test_a_missing_route_is_a_note_since_edged_needs_none(tmp_path: Path) -> None:
    levels = doctor(tmp_path, INTERFACE)
    assert (levels["lan.route"], levels["lan.multicast"]) == ("note", "ok")


def test_an_interface_without_multicast_is_a_warning(tmp_path: Path) -> None:
    levels = doctor(tmp_path, f"{INTERFACE}{ROUTE}ip link set dev lan0 multicast off\n")
    assert levels["lan.flag"] == "warning"
    assert "lan.multicast" not in levels
