"""Pairing as a state machine: codes, limits, and what somebody in the middle can do."""

import hashlib
from collections.abc import Iterator

import pytest

from edged.errors import EdgedError, Reason
from edged.node.trust.pairing import (
    NONCE_BYTES,
    Pairing,
    PairingLimits,
    Pairings,
    Proposal,
    code_of,
    commitment_to,
)

LIMITS = PairingLimits()
CERTIFICATE = hashlib.sha256(b"the daemon's").digest()
NONCE = b"n" * NONCE_BYTES


def drawn() -> Iterator[bytes]:
    """Random bytes that are not: another value each time."""
    number = 0
    while True:
        number += 1
        yield hashlib.sha256(str(number).encode()).digest()


@pytest.fixture
def pairings() -> Pairings:
    values = drawn()
    opened = Pairings(LIMITS, lambda size: next(values)[:size])
    opened.open(CERTIFICATE)
    return opened


def begin(
    pairings: Pairings, address: str = "192.0.2.1", now_s: float = 0.0, name: str = "laptop"
) -> Pairing:
    return pairings.begin(name, address, commitment_to(NONCE), now_s)


def shown(pairings: Pairings, address: str = "192.0.2.1", now_s: float = 0.0) -> Pairing:
    """Begun, and gone on with."""
    begun = begin(pairings, address, now_s)
    return pairings.go_on(begun.pairing_id, NONCE, address, now_s)


def refused(reason: Reason, match: str = "") -> "pytest.RaisesExc[EdgedError]":
    return pytest.raises(EdgedError, match=match or None, check=lambda one: one.reason is reason)


# ── Codes ────────────────────────────────────────────────────────────────────────────────────────


def test_the_code_is_what_the_protocol_says() -> None:
    hashed = hashlib.sha256(b"edged pairing 1" + CERTIFICATE + NONCE + b"d" * 32 + b"laptop")
    expected = int(hashed.hexdigest()[:8], 16) % 1_000_000
    code = code_of(CERTIFICATE, client_nonce=NONCE, daemon_nonce=b"d" * 32, name="laptop")
    assert code == f"{expected:06}"


def test_a_code_has_six_digits_though_it_begins_with_zeros() -> None:
    codes = [
        code_of(
            CERTIFICATE, client_nonce=NONCE, daemon_nonce=number.to_bytes(32, "big"), name="laptop"
        )
        for number in range(200)
    ]
    assert all(len(code) == 6 and code.isdigit() for code in codes)
    assert any(code.startswith("0") for code in codes)


def test_both_sides_show_one_code(pairings: Pairings) -> None:
    proposal = Proposal("laptop")
    begun = pairings.begin("laptop", "192.0.2.1", proposal.commitment, 0.0)
    on_client = proposal.code(CERTIFICATE, begun.nonce)
    on_daemon = pairings.go_on(begun.pairing_id, proposal.nonce, "192.0.2.1", 0.0)
    assert on_daemon.code == on_client


def test_no_two_proposals_have_one_nonce() -> None:
    assert Proposal("laptop").nonce != Proposal("laptop").nonce


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_client_takes_no_nonce_of_another_size(size: int) -> None:
    with refused(Reason.PAIRING_REFUSED, "32"):
        Proposal("laptop").code(CERTIFICATE, b"d" * size)


def test_somebody_in_the_middle_who_passes_everything_on_is_betrayed_by_the_certificate(
    pairings: Pairings,
) -> None:
    theirs = hashlib.sha256(b"of somebody else").digest()
    proposal = Proposal("laptop", lambda _: NONCE)
    begun = pairings.begin("laptop", "192.0.2.9", proposal.commitment, 0.0)
    on_client = proposal.code(theirs, begun.nonce)
    on_daemon = pairings.go_on(begun.pairing_id, proposal.nonce, "192.0.2.9", 0.0)
    assert on_daemon.code != on_client


def test_somebody_in_the_middle_cannot_choose_a_nonce_after_the_commitment(
    pairings: Pairings,
) -> None:
    """They know the client's code before they go on with the daemon, and have found a nonce that
    would make the daemon show the same: it is not the one that they committed to."""
    theirs = hashlib.sha256(b"of somebody else").digest()
    on_client = Proposal("laptop", lambda _: NONCE).code(theirs, b"x" * NONCE_BYTES)
    committed = b"c" * NONCE_BYTES
    begun = pairings.begin("laptop", "192.0.2.9", commitment_to(committed), 0.0)
    on_daemon = code_of(
        CERTIFICATE, client_nonce=committed, daemon_nonce=begun.nonce, name="laptop"
    )
    assert on_daemon != on_client
    wanted = on_client[-2:]  # two digits are enough to show it, and soon found
    chosen = next(
        nonce
        for nonce in (number.to_bytes(NONCE_BYTES, "big") for number in range(10_000))
        if code_of(
            CERTIFICATE, client_nonce=nonce, daemon_nonce=begun.nonce, name="laptop"
        ).endswith(wanted)
    )
    with refused(Reason.PAIRING_REFUSED, "committed"):
        pairings.go_on(begun.pairing_id, chosen, "192.0.2.9", 0.0)
    assert pairings.waiting(0.0) == ()


def test_whoever_tries_again_and_again_has_few_tries(pairings: Pairings) -> None:
    for number in range(LIMITS.max_tries):
        assert not pairings.is_spent
        begun = begin(pairings, f"192.0.2.{number}")
        pairings.drop(begun.pairing_id)  # its client has left, as the code was not the right one
    assert pairings.is_spent
    with refused(Reason.PAIRING_CLOSED, f"{LIMITS.max_tries} pairings have begun"):
        begin(pairings)
    pairings.close()
    pairings.open(CERTIFICATE)
    begin(pairings)


# ── Limits ───────────────────────────────────────────────────────────────────────────────────────


def test_nothing_begins_unless_an_administrator_watches() -> None:
    pairings = Pairings()
    with refused(Reason.PAIRING_CLOSED, "edgectl pair"):
        begin(pairings)
    pairings.open(CERTIFICATE)
    begin(pairings)
    pairings.close()
    with refused(Reason.PAIRING_CLOSED):
        begin(pairings)


def test_what_waits_is_gone_when_the_administrator_leaves(pairings: Pairings) -> None:
    waits = shown(pairings)
    pairings.close()
    assert pairings.waiting(0.0) == ()
    pairings.open(CERTIFICATE)
    with refused(Reason.PAIRING_CLOSED):
        pairings.shown(waits.pairing_id, 0.0)


def test_one_administrator_watches_at_a_time(pairings: Pairings) -> None:
    with refused(Reason.PAIRING_CLOSED, "another administrator"):
        pairings.open(CERTIFICATE)


@pytest.mark.parametrize("name", ["", "a b", "x" * 33, "naïve", "a\n", "../x"])
def test_a_name_that_no_token_may_have_is_refused(pairings: Pairings, name: str) -> None:
    with refused(Reason.INVALID_ARGUMENT, "name"):
        begin(pairings, name=name)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_commitment_of_another_size_is_refused(pairings: Pairings, size: int) -> None:
    with refused(Reason.INVALID_ARGUMENT, f"has {size} bytes; expected 32"):
        pairings.begin("laptop", "192.0.2.1", b"c" * size, 0.0)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_of_another_size_is_refused_though_it_was_committed_to(
    pairings: Pairings, size: int
) -> None:
    nonce = b"n" * size
    begun = pairings.begin("laptop", "192.0.2.1", commitment_to(nonce), 0.0)
    with refused(Reason.PAIRING_REFUSED):
        pairings.go_on(begun.pairing_id, nonce, "192.0.2.1", 0.0)
    assert pairings.waiting(0.0) == ()


def test_one_address_has_one_pairing(pairings: Pairings) -> None:
    first = begin(pairings, "192.0.2.1")
    with refused(Reason.PAIRING_REFUSED, "address"):
        begin(pairings, "192.0.2.1", name="another")
    begin(pairings, "192.0.2.2")
    pairings.drop(first.pairing_id)
    begin(pairings, "192.0.2.1")


def test_so_many_may_wait_and_the_next_is_told_when_to_come_again(pairings: Pairings) -> None:
    for number in range(LIMITS.max_waiting):
        shown(pairings, f"192.0.2.{number}", now_s=float(number))
    with refused(Reason.QUEUE_FULL) as raised:
        begin(pairings, "192.0.2.99", now_s=20.0)
    assert raised.value.retry_after_s == LIMITS.answer_s - 20.0
    begin(pairings, "192.0.2.99", now_s=LIMITS.answer_s)


def test_a_client_that_does_not_go_on_is_soon_forgotten(pairings: Pairings) -> None:
    begun = begin(pairings)
    assert pairings.next_expiry_s() == LIMITS.go_on_s
    with refused(Reason.PAIRING_REFUSED):
        pairings.go_on(begun.pairing_id, NONCE, "192.0.2.1", LIMITS.go_on_s)


def test_an_administrator_has_a_time_to_answer(pairings: Pairings) -> None:
    waits = shown(pairings, now_s=5.0)
    last_s = 5.0 + LIMITS.answer_s
    assert pairings.next_expiry_s() == last_s
    assert pairings.shown(waits.pairing_id, last_s - 0.1) == waits
    with refused(Reason.PAIRING_CLOSED, "time is up"):
        pairings.shown(waits.pairing_id, last_s)
    assert (pairings.waiting(last_s), pairings.next_expiry_s()) == ((), None)


def test_what_has_no_code_yet_cannot_be_answered(pairings: Pairings) -> None:
    begun = begin(pairings)
    with refused(Reason.PAIRING_CLOSED):
        pairings.shown(begun.pairing_id, 0.0)


def test_nobody_else_goes_on_with_a_pairing(pairings: Pairings) -> None:
    begun = begin(pairings)
    with refused(Reason.PAIRING_REFUSED):
        pairings.go_on(begun.pairing_id, NONCE, "192.0.2.2", 0.0)
    with refused(Reason.PAIRING_REFUSED):
        pairings.go_on("another", NONCE, "192.0.2.1", 0.0)
    pairings.go_on(begun.pairing_id, NONCE, "192.0.2.1", 0.0)


def test_a_pairing_goes_on_once(pairings: Pairings) -> None:
    waits = shown(pairings)
    with refused(Reason.PAIRING_REFUSED):
        pairings.go_on(waits.pairing_id, NONCE, "192.0.2.1", 0.0)
    assert pairings.waiting(0.0) == (waits,)
