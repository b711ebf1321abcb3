"""A local network of this machine alone: hosts that are network namespaces, joined by a switch that
is one too, so that nothing of it is seen outside and nothing outside is seen by it.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import pytest

PREFIX = "10.77"
_BRIDGE = "bridge"
_NAMES = "edged-test-"


@dataclass(frozen=True, slots=True)
class Host:
    """One of the network. On wire N it has the interface ethN."""

    namespace: str
    number: int

    @property
    def within(self) -> tuple[str, ...]:
        """Before a command that is to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def address(self, wire: int = 0) -> str:
        return f"{PREFIX}.{wire}.{self.number}"

    def run(self, *command: str, timeout_s: float = 40.0) -> str:
        """What it wrote. Raises CalledProcessError: it failed."""
        done = subprocess.run(
            [*self.within, *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return done.stdout

    def ip(self, *words: str) -> str:
        return self.run("ip", *words)


@dataclass
class Network:
    """Made of namespaces that `local_network` takes away again."""

    hosts: list[Host] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    _wires: dict[int, str] = field(default_factory=dict)

    def add_host(self) -> Host:
        host = Host(self._namespace(), len(self.hosts) + 1)
        self.hosts.append(host)
        self.plug(host, 0)
        return host

    def plug(self, host: Host, wire: int) -> None:
        """Give a host an interface on that wire, with an address, and wait until it has both."""
        switch = self._wires.get(wire)
        if switch is None:
            switch = self._wires[wire] = self._namespace()
            _ip("-n", switch, "link", "add", _BRIDGE, "type", "bridge", "mcast_snooping", "0")
            _ip("-n", switch, "link", "set", _BRIDGE, "up")
        end, plug = f"eth{wire}", f"to{host.number}"
        _ip(
            "link",
            "add",
            plug,
            "netns",
            switch,
            "type",
            "veth",
            "peer",
            end,
            "netns",
            host.namespace,
        )
        _ip("-n", switch, "link", "set", plug, "master", _BRIDGE)
        _ip("-n", switch, "link", "set", plug, "up")
        host.ip("address", "add", f"{host.address(wire)}/24", "dev", end)
        host.ip("link", "set", end, "up")

    def _namespace(self) -> str:
        name = f"{_NAMES}{os.getpid()}-{secrets.token_hex(4)}"
        _ip("netns", "add", name)
        self.namespaces.append(name)
        # Otherwise an IPv6 address is of no use for a second or two after it was given.
        settings = "/proc/sys/net/ipv6/conf/default/accept_dad"
        script = f"test ! -e {settings} || echo 0 > {settings}; ip link set lo up"
        _ip("netns", "exec", name, "sh", "-c", script)
        return name


@contextmanager
def local_network(num_hosts: int) -> Iterator[Network]:
    """Skips where namespaces cannot be made."""
    skip_without("ip", "iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    _delete_left_behind()
    network = Network()
    try:
        try:
            for _ in range(num_hosts):
                network.add_host()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield network
    finally:
        for name in network.namespaces:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _delete_left_behind() -> None:
    """Namespaces of test runs that were killed, with whatever runs in them."""
    for name in [line.split()[0] for line in _ip("netns", "list").splitlines()]:
        if not name.startswith(_NAMES) or psutil.pid_exists(int(name.split("-")[2])):
            continue
        for pid in _ip("netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", name)


def skip_without(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
