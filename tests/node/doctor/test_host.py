"""What is read of the host that the doctor runs on."""

import socket
from collections import namedtuple

import psutil
import pytest

from edged.node.doctor.host import this_host

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
