"""Clients take turns at equal rates; who had more than its part weighs more."""

import random

import pytest

from edged.core.fairness import MAX_CLIENTS, Loads, Turns
from edged.core.types import ClientId, SeqId, SloTier

A, B, C = (ClientId(name) for name in "abc")
JOB = SloTier.BATCH


class _Queue:
    """Numbers the sequences that take turns."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.count = 0

    def join(self, client: ClientId, num_tokens: float) -> SeqId:
        seq_id = SeqId(self.count)
        self.count += 1
        self.turns.join(seq_id, JOB, client, num_tokens)
        return seq_id

    def order(self, client: ClientId) -> float:
        """Of one more."""
        return self.turns.order(self.join(client, 0.0))

    def serve(self, seq_id: SeqId, num_tokens: float) -> None:
        self.turns.begin(seq_id, in_turn=True)
        self.turns.leave(seq_id, num_tokens)


def test_clients_with_work_are_served_evenly_however_much_they_send() -> None:
    """The classic bound: they differ by no more than the largest request of each."""
    draw = random.Random(1)
    queue = _Queue()
    waiting = []
    for client, count in ((A, 400), (B, 40)):
        for _ in range(count):
            size = draw.uniform(10, 200)
            seq_id = queue.join(client, size)
            waiting.append((queue.turns.order(seq_id), seq_id, client, size))
    served = {A: 0.0, B: 0.0}
    total_b = sum(size for _, _, client, size in waiting if client == B)
    for _, seq_id, client, size in sorted(waiting):
        queue.serve(seq_id, size)
        served[client] += size
        if served[B] < total_b:
            assert abs(served[A] - served[B]) <= 400
    assert len(queue.turns) == 0


def test_a_client_that_was_idle_has_saved_nothing_up() -> None:
    queue = _Queue()
    for _ in range(50):
        queue.serve(queue.join(A, 100.0), 100.0)
    for _ in range(3):
        queue.join(A, 100.0)
    assert [queue.turns.order(queue.join(B, 100.0)) for _ in range(2)] == [4900.0, 5000.0]


def test_the_order_within_a_client_is_that_of_arrival() -> None:
    draw = random.Random(2)
    queue = _Queue()
    orders = []
    for _ in range(100):
        orders.append(queue.turns.order(queue.join(A, draw.uniform(1, 500))))
        if draw.random() < 0.3:
            queue.turns.begin(SeqId(draw.randrange(queue.count)), in_turn=True)
    assert orders == sorted(orders)


def test_time_does_not_go_back_when_an_older_turn_is_served() -> None:
    queue = _Queue()
    older, newer = queue.join(A, 100.0), queue.join(A, 100.0)
    queue.serve(newer, 100.0)
    queue.serve(older, 100.0)
    assert queue.order(B) == 100.0


def test_who_is_served_out_of_turn_is_charged_and_ages_nobody() -> None:
    queue = _Queue()
    for _ in range(100):
        queue.join(A, 100.0)
    urgent = queue.join(A, 100.0)
    queue.turns.begin(urgent, in_turn=False)
    assert queue.order(B) == 0.0
    assert queue.order(A) == 101 * 100.0


def test_what_was_never_begun_is_not_charged() -> None:
    queue = _Queue()
    for seq_id in [queue.join(A, 100.0) for _ in range(50)]:
        queue.turns.leave(seq_id, 100.0)
    assert queue.order(A) == 0.0


@pytest.mark.parametrize("actual", [10.0, 100.0, 5000.0])
def test_a_request_is_charged_what_it_was_whatever_was_expected(actual: float) -> None:
    queue = _Queue()
    queue.serve(queue.join(A, 100.0), actual)
    assert queue.order(A) == actual


def test_a_turn_that_has_begun_comes_before_all_that_have_not() -> None:
    queue = _Queue()
    queue.join(A, 100.0)
    second = queue.join(A, 100.0)
    queue.turns.begin(second, in_turn=True)
    assert queue.turns.order(second) == 0.0
    assert queue.turns.order(SeqId(99)) == 0.0


def test_clients_without_work_are_forgotten() -> None:
    queue = _Queue()
    for number in range(5 * MAX_CLIENTS):
        queue.serve(queue.join(ClientId(f"client-{number}"), 100.0), 100.0)
        assert queue.turns.num_clients <= MAX_CLIENTS + 2


def test_clients_with_work_are_remembered_however_many_they_are() -> None:
    queue = _Queue()
    for number in range(5 * MAX_CLIENTS):
        queue.join(ClientId(f"client-{number}"), 100.0)
    assert queue.turns.num_clients == 5 * MAX_CLIENTS
    assert queue.order(ClientId("client-0")) == 100.0


def test_a_client_with_its_part_weighs_one_and_one_with_more_weighs_more() -> None:
    loads = Loads()
    assert loads.weight(A, 0.0) == 1.0
    for _ in range(10):
        loads.add(A, 3.0, 0.0)
        loads.add(B, 3.0, 0.0)
    assert loads.weight(A, 0.0) == pytest.approx(1.0)
    for _ in range(10):
        loads.add(A, 6.0, 0.0)
    assert loads.weight(A, 0.0) == pytest.approx(1.5)
    assert loads.weight(B, 0.0) == pytest.approx(0.5)
    assert loads.weight(C, 0.0) == pytest.approx(0.1)


def test_load_is_forgotten_with_time() -> None:
    loads = Loads()
    loads.add(A, 10.0, 0.0)
    loads.add(B, 1.0, 240.0)
    assert loads.weight(A, 0.0) < 0.4
    loads.add(B, 1.0, 5000.0)
    assert len(loads) == 1


def test_loads_of_many_clients_are_bounded() -> None:
    loads = Loads()
    for number in range(3 * MAX_CLIENTS):
        loads.add(ClientId(f"client-{number}"), 1.0, 0.0)
    assert len(loads) == MAX_CLIENTS
    loads.add(ClientId("client-0"), 1.0, 0.0)
    assert loads.weight(ClientId("client-0"), 0.0) > 1.5


def test_a_new_name_for_each_request_makes_none_of_them_cheap() -> None:
    loads = Loads()
    for number in range(50):
        loads.add(ClientId(f"client-{number}"), 1.0, 0.0)
    assert loads.weight(ClientId("another"), 1.0) == pytest.approx(1.0)


def test_the_order_of_a_client_stays_that_of_arrival_though_answers_were_shorter() -> None:
    queue = _Queue()
    first = queue.join(A, 1000.0)
    second = queue.join(A, 100.0)
    queue.serve(first, 10.0)
    assert queue.turns.order(queue.join(A, 100.0)) >= queue.turns.order(second) == 1000.0
    queue.turns.leave(second, 0.0)
    queue.turns.leave(SeqId(queue.count - 1), 0.0)
    assert queue.order(A) == 10.0
