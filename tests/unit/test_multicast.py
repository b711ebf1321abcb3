"""How much is read of what anybody can send."""

import asyncio

from edged.clock import ManualClock
from edged.node.lan.multicast import (
    MAX_PACKET_BYTES,
    MAX_SENDERS,
    Budgets,
    Gate,
    Sender,
    host_of,
    is_response,
)

PACKET = bytes(800)
COST_BYTES = 1000


def budgets(clock: ManualClock, *, all_packets: int = 100, sender_packets: int = 10) -> Budgets:
    """So many packets a second; twice as many at once."""
    return Budgets(
        clock,
        bytes_per_s=all_packets * COST_BYTES,
        sender_bytes_per_s=sender_packets * COST_BYTES,
    )


def taken(budget: Budgets, host: str, count: int) -> int:
    return sum(budget.take(host, len(PACKET)) for _ in range(count))


def test_a_flood_from_one_host_uses_up_its_own_budget() -> None:
    clock = ManualClock()
    budget = budgets(clock)
    assert taken(budget, "bad", 1000) == 20
    assert taken(budget, "good", 5) == 5
    clock.advance(0.5)
    assert taken(budget, "bad", 1000) == 5


def test_all_together_have_one_too() -> None:
    clock = ManualClock()
    budget = budgets(clock)
    assert sum(taken(budget, f"bad {n}", 10) for n in range(100)) == 200
    assert taken(budget, "good", 1) == 0
    clock.advance(1)
    assert taken(budget, "good", 1) == 1


def test_so_many_senders_are_remembered() -> None:
    budget = budgets(ManualClock(), all_packets=10**6, sender_packets=1)
    assert taken(budget, "first", 3) == 2
    for number in range(MAX_SENDERS - 1):
        taken(budget, str(number), 1)
    assert taken(budget, "first", 1) == 0, "its budget is remembered"
    taken(budget, "one more", 1)
    assert taken(budget, "first", 1) == 1, "it is a stranger again"


def test_a_gate_lets_through_what_is_wanted() -> None:
    read: list[bytes] = []
    failures: list[Exception] = []

    def intake(data: bytes, _: Sender) -> None:
        read.append(data)

    gate = Gate(
        intake,
        wants=lambda data, host: data.startswith(b"ok") and host == "10.0.0.1",
        budgets=budgets(ManualClock(), all_packets=100, sender_packets=100),
        failed=failures.append,
    )
    assert isinstance(gate, asyncio.DatagramProtocol)
    gate.datagram_received(b"ok", ("10.0.0.1", 5353))
    gate.datagram_received(b"ok 2", ("::ffff:10.0.0.1", 5353, 0, 0))
    gate.datagram_received(b"no", ("10.0.0.1", 5353))
    gate.datagram_received(b"ok", ("10.0.0.2", 5353))
    gate.datagram_received(b"ok".ljust(MAX_PACKET_BYTES + 1), ("10.0.0.1", 5353))
    assert read == [b"ok", b"ok 2"]
    error = OSError("no route")
    gate.error_received(error)
    assert failures == [error]


def test_hosts_are_named_without_family_and_scope() -> None:
    assert host_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert host_of("fe80::1%eth0") == "fe80::1"
    assert host_of("2001:db8::1") == "2001:db8::1"


def test_a_response_is_told_by_its_flag() -> None:
    assert is_response(b"\0\0\x84\0")
    assert not is_response(b"\0\0\x04\0")
    assert not is_response(b"\0")
