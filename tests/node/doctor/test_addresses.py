"""Whether the daemon can listen, tried with real sockets."""

import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from edged.node.doctor.addresses import check
from edged.node.doctor.host import Interface
from edged.node.doctor.subject import Answer, Refused, Running, Silent
from tests.node.doctor.machine import ME, ROOT, SOMEBODY, VERSION, Machine, found, levels


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that this process listens on, and does not answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def listening(address: str, more: str = "") -> str:
    return f'[server]\nlisten = "{address}"\n{more}'


def test_an_address_that_is_taken_is_a_problem_and_says_by_whom(
    machine: Machine, taken: str
) -> None:
    finding = found(check, machine.subject(listening(taken)))["listen.taken"]
    assert finding.level == "problem"
    assert psutil.Process().name() in finding.text
    assert "stop process" in finding.fix


def test_an_address_of_the_daemon_that_answers_is_in_order(machine: Machine, taken: str) -> None:
    def usual() -> Answer:
        return Running("unix:/run/edged.sock", VERSION, "ready", listeners=(taken,))

    subject = machine.subject(listening(taken), ask_usual=usual)
    assert levels(check, subject) == {"listen.served": "ok"}


def test_an_address_of_a_daemon_elsewhere_is_another_one(machine: Machine, taken: str) -> None:
    def usual() -> Answer:
        return Running("gpu-box", VERSION, "ready", listeners=(taken,), is_local=False)

    subject = machine.subject(listening(taken), ask_usual=usual)
    assert levels(check, subject) == {"listen.taken": "problem"}


@pytest.mark.parametrize(
    "answer", [Running("x", "0.0.9", "ready"), Refused("x", "no token was given")]
)
def test_an_address_where_another_edged_answers_is_in_order(
    machine: Machine, taken: str, answer: Answer
) -> None:
    asked = []

    def ask_at(address: str) -> Answer:
        asked.append(address)
        return answer

    subject = machine.subject(listening(taken), ask_at=ask_at)
    assert levels(check, subject) == {"listen.served": "ok"}
    assert asked == [taken]


def test_all_addresses_of_a_taken_port_are_asked_for_on_loopback(
    machine: Machine, taken: str
) -> None:
    asked = []

    def ask_at(address: str) -> Answer:
        asked.append(address)
        return Silent("no")

    port = taken.rpartition(":")[2]
    subject = machine.subject(listening(f"0.0.0.0:{port}"), ask_at=ask_at)
    assert levels(check, subject) == {"listen.taken": "problem"}
    assert asked == [f"127.0.0.1:{port}"]


def test_an_address_that_is_free_is_in_order(machine: Machine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    assert levels(check, machine.subject(listening(free))) == {"listen.free": "ok"}


@pytest.mark.parametrize(
    ("unit", "level"),
    [
        ({"ControlGroup": "/g", "MainPID": str(os.getpid())}, {"listen.served": "ok"}),
        ({"ControlGroup": "/g", "MainPID": "1"}, {"listen.taken": "problem"}),
        ({"MainPID": "0"}, {"listen.taken": "problem"}),
    ],
)
def test_an_address_that_the_service_has_is_in_order_though_it_does_not_answer(
    machine: Machine, taken: str, unit: dict[str, str], level: dict[str, str]
) -> None:
    machine.service(unit)
    assert levels(check, machine.subject(listening(taken))) == level


def test_an_address_of_another_host_comes_with_this_host_s(machine: Machine) -> None:
    interfaces = (Interface("lan0", True, False, True, ("192.0.2.7",)),)
    subject = machine.subject(listening("198.51.100.1:7411"), interfaces=interfaces)
    finding = found(check, subject)["listen.elsewhere"]
    assert finding.level == "problem"
    assert "192.0.2.7" in finding.fix


def test_a_name_without_an_address_is_a_problem(machine: Machine) -> None:
    subject = machine.subject(listening("nothing.invalid:7411"))
    assert levels(check, subject) == {"listen.name": "problem"}


def test_a_port_that_changes_is_a_note(machine: Machine) -> None:
    assert levels(check, machine.subject(listening("127.0.0.1:0"))) == {"listen.free": "note"}


LOW = "127.0.0.1:1"
CAPABILITY = "cap_net_bind_service"


def test_a_port_that_the_service_may_not_have_is_a_problem_whoever_asks(machine: Machine) -> None:
    machine.service()
    for user in (ROOT, ME, SOMEBODY):
        finding = found(check, machine.subject(listening(LOW), user=user))["listen.privileged"]
        assert finding.level == "problem"
        assert "user edged may not listen on port 1, which is below 1024" in finding.text
        assert finding.fix.endswith(
            "sudo systemctl edit edged: AmbientCapabilities=CAP_NET_BIND_SERVICE and "
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
        )


@pytest.mark.parametrize(
    ("unit", "is_open"),
    [
        ({"AmbientCapabilities": CAPABILITY}, False),
        ({"CapabilityBoundingSet": f"cap_chown {CAPABILITY}"}, False),
        ({"AmbientCapabilities": CAPABILITY, "CapabilityBoundingSet": CAPABILITY}, True),
        ({"User": "root", "CapabilityBoundingSet": CAPABILITY}, True),
    ],
)
def test_the_service_needs_a_capability_twice(
    machine: Machine, unit: dict[str, str], is_open: bool
) -> None:
    machine.service(unit)
    seen = levels(check, machine.subject(listening(LOW)))
    assert ("listen.privileged" not in seen) is is_open
    assert seen.keys() <= {"listen.privileged", "listen.free", "listen.unseen"}


def test_a_port_that_the_host_opens_to_all_is_the_service_s_too(machine: Machine) -> None:
    machine.service()
    machine.write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1\n")
    assert "listen.privileged" not in levels(check, machine.subject(listening(LOW)))


def test_each_address_is_tried(machine: Machine, taken: str) -> None:
    subject = machine.subject(listening(f"{taken}, 198.51.100.1:7411"))
    assert levels(check, subject) == {"listen.taken": "problem", "listen.elsewhere": "problem"}


def test_no_tls_where_others_can_reach_it_is_a_warning(machine: Machine) -> None:
    subject = machine.subject(listening("0.0.0.0:0", "insecure = true\n"))
    assert levels(check, subject)["listen.insecure"] == "warning"
    on_loopback = machine.subject(listening("127.0.0.1:0", "insecure = true\n"))
    assert "listen.insecure" not in levels(check, on_loopback)
