"""Clients take turns at equal rates; who had more than its part weighs more."""

import random

import pytest

from edged.core.fairness import MAX_CLIENTS, Loads, Turns
from edged.core.types import ClientId, SloTier

A, B, C = (ClientId(name) for name in "abc")
JOB = SloTier.BATCH


def test_clients_with_work_are_served_evenly_however_much_they_send() -> None:
    """The classic bound: they differ by no more than the largest request of each."""
    draw = random.Random(1)
    turns = Turns()
    stamped = []
    for client, count in ((A, 400), (B, 40)):
        for _ in range(count):
            size = draw.uniform(10, 200)
            stamped.append((turns.stamp(JOB, client, size), client, size))
    served = {A: 0.0, B: 0.0}
    total_b = sum(size for _, client, size in stamped if client == B)
    for stamp, client, size in sorted(stamped):
        turns.serve(stamp)
        served[client] += size
        if served[B] < total_b:
            assert abs(served[A] - served[B]) <= 400


def test_a_client_that_was_idle_has_saved_nothing_up() -> None:
    turns = Turns()
    for _ in range(50):
        turns.serve(turns.stamp(JOB, A, 100.0))
    for _ in range(3):
        turns.stamp(JOB, A, 100.0)
    assert turns.stamp(JOB, B, 100.0) == pytest.approx(4900.0)
    assert turns.stamp(JOB, B, 100.0) == pytest.approx(5000.0)


def test_the_order_within_a_client_is_that_of_arrival() -> None:
    draw = random.Random(2)
    turns = Turns()
    stamps = []
    for _ in range(100):
        stamps.append(turns.stamp(JOB, A, draw.uniform(1, 500)))
        if draw.random() < 0.3:
            turns.serve(draw.choice(stamps))
    assert stamps == sorted(stamps)


def test_time_does_not_go_back_when_an_older_turn_is_served() -> None:
    turns = Turns()
    turns.serve(500.0)
    turns.serve(100.0)
    assert turns.stamp(JOB, A, 1.0) == 500.0


def test_clients_without_work_are_forgotten() -> None:
    turns = Turns()
    for number in range(5 * MAX_CLIENTS):
        turns.serve(turns.stamp(JOB, ClientId(f"client-{number}"), 100.0))
        turns.serve(100.0 * number)
        assert len(turns) <= MAX_CLIENTS + 1


def test_a_client_with_its_part_weighs_one_and_one_with_more_weighs_more() -> None:
    loads = Loads()
    assert loads.weight(A) == 1.0
    for _ in range(10):
        loads.add(A, 3.0, 0.0)
        loads.add(B, 3.0, 0.0)
    assert loads.weight(A) == pytest.approx(1.0)
    for _ in range(10):
        loads.add(A, 6.0, 0.0)
    assert loads.weight(A) == pytest.approx(1.5)
    assert loads.weight(B) == pytest.approx(0.5)
    assert loads.weight(C) == pytest.approx(0.1)


def test_load_is_forgotten_with_time() -> None:
    loads = Loads()
    loads.add(A, 10.0, 0.0)
    loads.add(B, 1.0, 240.0)
    assert loads.weight(A) < 0.4
    loads.add(B, 1.0, 5000.0)
    assert len(loads) == 1


def test_loads_of_many_clients_are_bounded() -> None:
    loads = Loads()
    for number in range(3 * MAX_CLIENTS):
        loads.add(ClientId(f"client-{number}"), 1.0, 0.0)
    assert len(loads) == MAX_CLIENTS
    loads.add(ClientId("client-0"), 1.0, 0.0)
    assert loads.weight(ClientId("client-0")) > 1.5
