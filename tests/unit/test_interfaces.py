"""Which addresses a daemon is told to have: those of its listeners that others can use."""

import socket
from ipaddress import ip_address, ip_interface
from types import SimpleNamespace

import psutil
import pytest

from edged.node.lan.interfaces import (
    MAX_ADDRESSES,
    Interface,
    network_listeners,
    on_link,
    reachable,
    usable_interfaces,
)


def interface(name: str, index: int, *addresses: str) -> Interface:
    return Interface(name, index, tuple(ip_interface(one) for one in addresses))


WIRED = interface("eth0", 2, "fe80::1%eth0/64", "2001:db8::5/64", "192.168.1.5/24")
WIRELESS = interface("wlan0", 3, "10.0.0.5/8", "fe80::1%wlan0/64")
BOTH = (WIRED, WIRELESS)


@pytest.mark.parametrize(
    ("listener", "addresses", "names"),
    [
        (
            "0.0.0.0:7411",
            ("192.168.1.5", "10.0.0.5", "2001:db8::5", "fe80::1"),
            ["eth0", "wlan0"],
        ),
        (
            "[::]:7411",
            ("192.168.1.5", "10.0.0.5", "2001:db8::5", "fe80::1"),
            ["eth0", "wlan0"],
        ),
        ("192.168.1.5:7411", ("192.168.1.5",), ["eth0"]),
        ("[2001:db8::5]:7411", ("2001:db8::5",), ["eth0"]),
        ("[fe80::1%wlan0]:7411", ("fe80::1",), ["wlan0"]),
    ],
)
def test_a_listener_has_its_addresses(
    listener: str, addresses: tuple[str, ...], names: list[str]
) -> None:
    where = reachable((listener, "unix:/run/edged/edged.sock"), BOTH)
    assert where is not None
    assert where.port == 7411
    assert where.addresses == addresses
    assert [one.name for one in where.interfaces] == names


def test_of_too_many_addresses_those_of_the_first_interface_are_told() -> None:
    bridges = [interface(f"br{n}", 9 + n, f"172.{16 + n}.0.1/16") for n in range(MAX_ADDRESSES)]
    where = reachable(("[::]:7411",), (WIRED, *bridges))
    assert where is not None
    assert len(where.addresses) == MAX_ADDRESSES
    assert {"192.168.1.5", "2001:db8::5"} <= set(where.addresses)


def test_listeners_of_the_first_port_are_told_together() -> None:
    where = reachable(("127.0.0.1:1", "10.0.0.5:2", "192.168.1.5:2", "[2001:db8::5]:3"), BOTH)
    assert where is not None
    assert (where.port, set(where.addresses)) == (2, {"10.0.0.5", "192.168.1.5"})


@pytest.mark.parametrize(
    "listeners", [(), ("127.0.0.1:7411", "[::1]:7411", "unix:/x"), ("192.168.1.77:7411",)]
)
def test_what_no_other_host_reaches_is_not_told(listeners: tuple[str, ...]) -> None:
    assert reachable(listeners, BOTH) is None


def test_loopback_is_for_no_network() -> None:
    listeners = ("127.0.0.1:7411", "localhost:1", "[::1]:2", "unix:/x", "0.0.0.0:3")
    assert network_listeners(listeners) == ("0.0.0.0:3",)


def test_the_addresses_of_many_interfaces_are_cut() -> None:
    many = [interface(f"br{n}", n, f"172.16.{n}.1/24") for n in range(MAX_ADDRESSES + 1)]
    where = reachable(("0.0.0.0:7411",), many)
    assert where is not None
    assert len(where.addresses) == MAX_ADDRESSES


def test_what_is_near_needs_no_router() -> None:
    assert on_link(ip_address("192.168.1.77"), BOTH)
    assert on_link(ip_address("2001:db8::77"), BOTH)
    assert on_link(ip_address("fe80::77"), ())
    assert not on_link(ip_address("8.8.8.8"), BOTH)


def test_this_hosts_loopback_is_not_among_the_usable() -> None:
    found = usable_interfaces()
    assert all(not one.ip.is_loopback for each in found for one in each.addresses)
    assert all(each.addresses for each in found)


def test_addresses_with_labels_are_of_their_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(text: str) -> SimpleNamespace:
        return SimpleNamespace(family=socket.AF_INET, address=text, netmask="255.255.255.0")

    listed = {"lo:1": [address("10.0.1.5")], "lo": [address("10.0.0.5")], "gone:0": []}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: listed)
    up = SimpleNamespace(isup=True, flags="up,multicast")
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"lo": up})
    index = socket.if_nametoindex("lo")
    assert usable_interfaces() == (interface("lo", index, "10.0.0.5/24", "10.0.1.5/24"),)
