"""`edgectl pair` on the daemon's machine, with a daemon that says what it is told to."""

import pytest

from edged.errors import EdgedError, Reason
from edged.v1 import access_pb2, inference_pb2
from tests.cli.fake_access import OWN, WAIT_S, FakeAccess
from tests.cli.program import Program
from tests.cli.terminal import Opened


def waiting(pairing_id: str, name: str, code: str) -> access_pb2.Pairing:
    return access_pb2.Pairing(pairing_id=pairing_id, name=name, address="192.0.2.9", code=code)


def test_an_administrator_is_asked_for_each_that_has_a_code(
    open_terminal: Opened, there: Program, access: FakeAccess
) -> None:
    access.waiting = [
        waiting("1", "laptop", "123456"),
        waiting("2", "not-yet", ""),
        waiting("3", "phone", "000042"),
    ]
    terminal = open_terminal(there, "pair", "--tier", "batch", "--model", "tiny")
    terminal.read_until("laptop at 192.0.2.9 wants to pair. Does it show the code 123 456? [y/N]")
    assert f"the certificate of gpu box is {OWN.fingerprint}" in terminal.shown
    assert "who is accepted may use tiny up to tier batch" in terminal.shown
    terminal.type("maybe\n")
    terminal.read_until("[y/N]", times=2)
    terminal.type("y\n")
    terminal.read_until("phone at 192.0.2.9 wants to pair. Does it show the code 000 042? [y/N]")
    terminal.type("n\n")
    assert terminal.exit_code() == 0
    assert "laptop is paired" in terminal.shown
    assert "phone is refused" in terminal.shown
    allowed = access_pb2.Grant(max_tier=inference_pb2.TIER_BATCH, models=["tiny"])
    assert access.asked == [
        access_pb2.AnswerPairingRequest(pairing_id="1", accept=True, grant=allowed),
        access_pb2.AnswerPairingRequest(pairing_id="3", accept=False, grant=allowed),
    ]


def test_a_client_that_has_left_is_told_and_the_next_is_asked_for(
    open_terminal: Opened, there: Program, access: FakeAccess
) -> None:
    access.waiting = [waiting("gone", "laptop", "123456"), waiting("2", "phone", "000042")]
    access.holds = True
    terminal = open_terminal(there, "pair", "--once", "--name", "mine")
    terminal.read_until("[y/N]")
    terminal.type("y\n")
    terminal.read_until("its client has left")
    terminal.read_until("[y/N]", times=2)
    terminal.type("y\n")
    assert terminal.exit_code() == 0
    assert "phone is paired" in terminal.shown
    last = access.asked[-1]
    assert isinstance(last, access_pb2.AnswerPairingRequest)
    assert last.grant.name == "mine"
    assert access.left.wait(WAIT_S), "whoever leaves ends the watch"


@pytest.mark.parametrize("when", ["waiting", "asked"])
def test_an_interrupt_ends_the_waiting_and_the_watch(
    open_terminal: Opened, there: Program, access: FakeAccess, when: str
) -> None:
    access.holds = True
    access.waiting = [waiting("1", "laptop", "123456")] if when == "asked" else []
    terminal = open_terminal(there, "pair")
    terminal.read_until("[y/N]" if when == "asked" else "Ctrl-C ends")
    terminal.interrupt_until_it_leaves()
    assert terminal.exit_code() == 130
    assert access.left.wait(WAIT_S)
    assert "Traceback" not in terminal.shown


def test_what_cannot_be_granted_is_told_before_anybody_is_asked(
    open_terminal: Opened, there: Program, access: FakeAccess
) -> None:
    access.waiting = [waiting("1", "laptop", "123456")]
    terminal = open_terminal(there, "pair", "--name", "my laptop", "--rate", "0")
    assert terminal.exit_code() == 1
    assert "grant.name: is 'my laptop'" in terminal.shown
    assert "grant.max_requests_per_minute: is 0.0" in terminal.shown
    assert "wants to pair" not in terminal.shown


def test_who_may_not_watch_is_told(
    open_terminal: Opened, there: Program, access: FakeAccess
) -> None:
    access.error = EdgedError(Reason.ADMIN_ONLY, "WatchPairings is for administrators")
    terminal = open_terminal(there, "pair")
    assert terminal.exit_code() == 5
    assert "WatchPairings is for administrators" in terminal.shown
