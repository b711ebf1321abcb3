"""Pairings in any order of calls, against a reference that remembers all and forgets nothing."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.errors import EdgedError, Reason
from edged.node.trust.pairing import PairingLimits, Pairings, Proposal

ADDRESSES = st.sampled_from([f"192.0.2.{number}" for number in range(12)])
PLACES = st.integers(0, 50)
LIMITS = PairingLimits(max_waiting=3, max_tries=9)  # so that they are met
CERTIFICATE = b"c" * 32


@dataclass
class Past:
    """All that ever happened to one pairing."""

    pairing_id: str
    address: str
    proposal: Proposal
    nonce: bytes
    window: int
    begun_s: float
    shown_s: float | None = None
    code: str | None = None
    is_over: bool = False


@dataclass
class Reference:
    now_s: float = 0.0
    window: int = 0
    is_open: bool = False
    past: list[Past] = field(default_factory=list)

    def waits(self, one: Past) -> bool:
        in_time = (
            self.now_s < one.begun_s + LIMITS.go_on_s
            if one.shown_s is None
            else self.now_s < one.shown_s + LIMITS.answer_s
        )
        return self.is_open and one.window == self.window and not one.is_over and in_time

    @property
    def waiting(self) -> list[Past]:
        return [one for one in self.past if self.waits(one)]

    def refusal(self, address: str) -> Reason | None:
        if (
            not self.is_open
            or sum(one.window == self.window for one in self.past) >= LIMITS.max_tries
        ):
            return Reason.PAIRING_CLOSED
        if address in {one.address for one in self.waiting}:
            return Reason.PAIRING_REFUSED
        return Reason.QUEUE_FULL if len(self.waiting) >= LIMITS.max_waiting else None


class PairingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pairings = Pairings(LIMITS)
        self.reference = Reference()

    @rule(
        seconds=st.sampled_from(
            [0.0, 1.0, LIMITS.go_on_s - 1, LIMITS.go_on_s, LIMITS.answer_s - 1, LIMITS.answer_s]
        )
    )
    def time_passes(self, seconds: float) -> None:
        self.reference.now_s += seconds

    @rule()
    def open(self) -> None:
        assert reason_of(lambda: self.pairings.open(CERTIFICATE)) == (
            Reason.PAIRING_CLOSED if self.reference.is_open else None
        )
        if not self.reference.is_open:
            self.reference.is_open = True
            self.reference.window += 1

    @rule()
    def close(self) -> None:
        self.pairings.close()
        self.reference.is_open = False

    @rule(address=ADDRESSES)
    def begin(self, address: str) -> None:
        reference, proposal = self.reference, Proposal("laptop")
        expected = reference.refusal(address)
        try:
            begun = self.pairings.begin("laptop", address, proposal.commitment, reference.now_s)
        except EdgedError as error:
            assert error.reason is expected  # noqa: PT017  # both ways are right, at their time
            return
        assert expected is None
        reference.past.append(
            Past(
                begun.pairing_id,
                address,
                proposal,
                begun.nonce,
                reference.window,
                reference.now_s,
            )
        )

    @precondition(lambda self: self.reference.past)
    @rule(place=PLACES, lies=st.booleans())
    def go_on(self, place: int, lies: bool) -> None:
        one = self._one(place)
        may = self.reference.waits(one) and one.shown_s is None
        nonce = b"x" * 32 if lies else one.proposal.nonce
        now_s = self.reference.now_s
        reason = reason_of(lambda: self.pairings.go_on(one.pairing_id, nonce, one.address, now_s))
        assert reason is (None if may and not lies else Reason.PAIRING_REFUSED)
        if may and lies:
            one.is_over = True
        elif may:
            one.shown_s = now_s
            one.code = one.proposal.code(CERTIFICATE, one.nonce)

    @precondition(lambda self: self.reference.past)
    @rule(place=PLACES)
    def answer(self, place: int) -> None:
        one = self._one(place)
        may = self.reference.waits(one) and one.shown_s is not None
        reason = reason_of(lambda: self.pairings.shown(one.pairing_id, self.reference.now_s))
        assert reason is (None if may else Reason.PAIRING_CLOSED)
        if may:
            self.pairings.drop(one.pairing_id)
            one.is_over = True

    @precondition(lambda self: self.reference.past)
    @rule(place=PLACES)
    def leave(self, place: int) -> None:
        one = self._one(place)
        self.pairings.drop(one.pairing_id)
        one.is_over = True

    @invariant()
    def those_wait_that_should(self) -> None:
        found = self.pairings.waiting(self.reference.now_s)
        assert {(one.pairing_id, one.address, one.code) for one in found} == {
            (one.pairing_id, one.address, one.code) for one in self.reference.waiting
        }
        assert len(found) <= LIMITS.max_waiting

    def _one(self, place: int) -> Past:
        past = self.reference.past
        return past[-1 - place % len(past)]


def reason_of(call: object) -> Reason | None:
    assert callable(call)
    try:
        call()
    except EdgedError as error:
        return error.reason
    return None


TestPairings = PairingMachine.TestCase
TestPairings.settings = settings(max_examples=60, stateful_step_count=80, deadline=None)
