"""What is read of the host that the doctor runs on."""

import socket
from collections import namedtuple

import psutil
import pytest

from edged.node.doctor.host import Interface, this_host
from tests.node.doctor.machine import Machine

Address = namedtuple("Address", "family address")
State = namedtuple("State", "isup flags")


def test_an_address_with_a_label_is_its_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Address(socket.AF_INET, f"192.0.2.{number}") for number in (1, 2))
    of_other = Address(socket.AF_INET, "192.0.2.3")
    listed = {"eth0": [first], "eth0:1": [second], "eth01": [of_other]}
    states = {"eth0": State(True, "up,multicast"), "eth01": State(True, "up,multicast")}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: listed)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    found = {one.name: one.ipv4 for one in this_host({}).interfaces}
    assert found == {"eth0": ("192.0.2.1", "192.0.2.2"), "eth01": ("192.0.2.3",)}


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("unix:/run/edged/edged.sock", True),
        ("127.0.0.1:7411", True),
        ("[::1]:7411", True),
        ("localhost:7411", True),
        ("192.0.2.1:7411", True),
        ("[fe80::1%eth0]:7411", True),
        ("192.0.2.2:7411", False),
        ("gpu-box.local:7411", False),
    ],
)
def test_which_addresses_are_surely_of_this_machine(
    machine: Machine, address: str, is_own: bool
) -> None:
    own = Interface("eth0", True, False, True, ("192.0.2.1",), ("fe80::1%eth0",))
    assert machine.host(interfaces=(own,)).is_own(address) is is_own
