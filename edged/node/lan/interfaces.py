"""Which of the host's interfaces and addresses others on the local network can use.

Point-to-point links (tunnels of a VPN) are left out: what is told there reaches other places than
the local network.
"""

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from edged.places import is_loopback

MAX_ADDRESSES = 16
"""Told of one daemon: a host of containers has a bridge for each network of theirs."""

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Host = ipaddress.IPv4Address | ipaddress.IPv6Address
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # recognized, not bound
"""gRPC listens on both families for a wildcard of either."""
_FAR = (("192.0.2.1", 9), ("2001:db8::1", 9))
"""Addresses of documentation, which only a default route leads to. Nothing is sent there."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One that is up, and can multicast."""

    name: str
    index: int
    addresses: tuple[Address, ...]
    """With their networks."""

    @property
    def ipv4(self) -> str | None:
        """The first one: what a socket that sends here is bound to."""
        return next((str(one.ip) for one in self.addresses if one.version == 4), None)

    @property
    def has_ipv6(self) -> bool:
        return any(one.version == 6 for one in self.addresses)


@dataclass(frozen=True, slots=True)
class Reachable:
    """Where other hosts reach a daemon."""

    port: int
    addresses: tuple[str, ...]
    """Without scopes: those are each host's own. Best first."""
    interfaces: tuple[Interface, ...]
    """That have them."""


def usable_interfaces() -> tuple[Interface, ...]:
    """Those of this moment. Where there are too many to use all, the first count: those with a
    default route, then devices, then the bridges of containers and their like."""
    towards_far = frozenset(_sources())
    states = psutil.net_if_stats()
    found = []
    for name, addresses in sorted(_addresses().items()):
        state = states.get(name)
        flags = state.flags.split(",") if state is not None else []
        if state is None or not state.isup or "loopback" in flags or "pointopoint" in flags:
            continue
        if "multicast" not in flags:
            continue
        usable = tuple(one for one in addresses if not one.ip.is_loopback)
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            continue  # It went away meanwhile.
        if usable:
            found.append(Interface(name, index, usable))
    found.sort(key=lambda one: (not _has_any(one, towards_far), not _is_device(one.name)))
    return tuple(found)


def network_listeners(listeners: Iterable[str]) -> tuple[str, ...]:
    """Those of "HOST:PORT" and "unix:PATH" that other hosts can reach."""
    return tuple(
        one
        for one in listeners
        if not one.startswith("unix:") and not is_loopback(one.rpartition(":")[0])
    )


def reachable(listeners: Sequence[str], interfaces: Sequence[Interface]) -> Reachable | None:
    """The addresses that listeners at the port of the first of them really have; None if no other
    host reaches any."""
    open_to_others = network_listeners(listeners)
    if not open_to_others:
        return None
    port = int(open_to_others[0].rpartition(":")[2])
    hosts = [
        host.strip("[]")
        for host, _, its_port in (one.rpartition(":") for one in open_to_others)
        if int(its_port) == port
    ]
    having: dict[str, Interface] = {}
    addresses: dict[str, Host] = {}
    for interface in interfaces:
        for one in interface.addresses:
            if any(_is_bound(host, one.ip, interface.name) for host in hosts):
                having[interface.name] = interface
                text = str(one.ip).partition("%")[0]
                addresses[text] = one.ip
    kept = sorted(addresses, key=lambda text: addresses[text].is_link_local)[:MAX_ADDRESSES]
    best_first = sorted(kept, key=lambda text: _rank(addresses[text]))
    return Reachable(port, tuple(best_first), tuple(having.values())) if best_first else None


def on_link(address: Host, interfaces: Iterable[Interface]) -> bool:
    """Whether it is of a network that one of the interfaces is in."""
    if address.is_link_local:
        return True
    return any(
        address.version == one.version and address in one.network
        for interface in interfaces
        for one in interface.addresses
    )


def _addresses() -> dict[str, list[Address]]:
    """By interface. Linux lists an address with a label, as "eth0:0", under that."""
    found: dict[str, list[Address]] = {}
    for label, addresses in sorted(psutil.net_if_addrs().items()):
        own = found.setdefault(label.partition(":")[0], [])
        parsed = (_address(one.family, one.address, one.netmask or "") for one in addresses)
        own.extend(one for one in parsed if one is not None)
    return found


def _address(family: int, text: str, mask: str) -> Address | None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        if family == socket.AF_INET6 and mask:
            mask = str(int(ipaddress.IPv6Address(mask)).bit_count())
        return ipaddress.ip_interface(f"{text}/{mask}" if mask else text)
    except ValueError:
        return None


def _sources() -> Iterator[str]:
    """The host's own addresses from which it would send far away."""
    for far in _FAR:
        family = socket.AF_INET6 if ":" in far[0] else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(far)
                yield probe.getsockname()[0]
        except OSError:
            continue  # No route, or not this family.


def _has_any(interface: Interface, addresses: frozenset[str]) -> bool:
    return any(str(one.ip) in addresses for one in interface.addresses)


def _is_device(name: str) -> bool:
    """Whether there is hardware behind it, as far as Linux tells."""
    return os.path.exists(f"/sys/class/net/{name}/device")


def _is_bound(host: str, address: Host, interface: str) -> bool:
    """Whether a listener at `host` answers at `address`."""
    if host in _WILDCARDS:
        return True
    bare, _, scope = host.partition("%")
    own = str(address).partition("%")[0]
    return bare == own and scope in ("", interface)


def _rank(address: Host) -> tuple[bool, bool]:
    """What most hosts can use comes first."""
    return address.is_link_local, address.version == 6
