"""Pairing: two machines agree that nobody is between them, with a person who compares two codes.

Theory of operation: both sides draw a nonce, and the code is a hash of both, of the certificate
that the client saw and of its name. Somebody in the middle shows the client another certificate, so
the codes differ unless nonces can be chosen that make them equal. The client commits to its own
before it knows the daemon's, and the daemon draws its own after it knows the commitment, so there
is nothing to choose from: each try is right once in a million. Tries are what is counted here: a
pairing that was given up still is one of the few that may begin while an administrator watches.

| a pairing | until | for at most |
|---|---|---|
| has begun | its client has shown its nonce | `go_on_s` |
| has a code | an administrator has answered, or its client has left | `answer_s` |

A pure state machine: the moment is handed in, nothing here waits.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from edged.errors import EdgedError, InvalidRequestError, Reason
from edged.node.trust.grant import NAME_RULE, is_grant_name

NONCE_BYTES = 32
CODE_DIGITS = 6

_DOMAIN = b"edged pairing 1"

Draw = Callable[[int], bytes]
"""So many random bytes."""


@dataclass(frozen=True, slots=True)
class PairingLimits:
    go_on_s: float = 10.0
    answer_s: float = 120.0
    max_waiting: int = 8
    max_tries: int = 32
    """Pairings that may begin while one administrator watches: one of the codes of somebody in the
    middle is right by chance with a probability of at most so many in a million."""


_USUAL_LIMITS = PairingLimits()


def commitment_to(nonce: bytes) -> bytes:
    return hashlib.sha256(nonce).digest()


def code_of(
    certificate_sha256: bytes, *, client_nonce: bytes, daemon_nonce: bytes, name: str
) -> str:
    """Six digits. Everything before the name has a length of its own, so no two inputs are one."""
    hashed = hashlib.sha256(
        _DOMAIN + certificate_sha256 + client_nonce + daemon_nonce + name.encode()
    )
    number = int.from_bytes(hashed.digest()[:4], "big") % 10**CODE_DIGITS
    return f"{number:0{CODE_DIGITS}}"


class Proposal:
    """The client's side of one pairing."""

    def __init__(self, name: str, draw: Draw = secrets.token_bytes) -> None:
        assert is_grant_name(name), f"{name!r} is no name: expected {NAME_RULE}"
        self.name = name
        self.nonce = draw(NONCE_BYTES)

    @property
    def commitment(self) -> bytes:
        return commitment_to(self.nonce)

    def code(self, certificate_sha256: bytes, daemon_nonce: bytes) -> str:
        """What the client shows. `certificate_sha256` is of the certificate that it saw.

        Raises:
            EdgedError: PAIRING_REFUSED; that is no nonce of a daemon.
        """
        if len(daemon_nonce) != NONCE_BYTES:
            _refuse(f"the daemon's nonce has {len(daemon_nonce)} bytes; expected {NONCE_BYTES}")
        return code_of(
            certificate_sha256,
            client_nonce=self.nonce,
            daemon_nonce=daemon_nonce,
            name=self.name,
        )


@dataclass(frozen=True, slots=True)
class Pairing:
    """One that waits, on the daemon's side."""

    pairing_id: str
    name: str
    """What the client would be called."""
    address: str
    """Where it called from, without a port."""
    commitment: bytes
    nonce: bytes
    """The daemon's own."""
    expires_s: float
    code: str | None = None
    """None until its client has shown its nonce."""


class Pairings:
    """The daemon's side. Those that have expired are gone from every answer."""

    def __init__(
        self, limits: PairingLimits = _USUAL_LIMITS, draw: Draw = secrets.token_bytes
    ) -> None:
        self._limits = limits
        self._draw = draw
        self._certificate_sha256: bytes | None = None
        """Of the daemon's certificate while somebody watches."""
        self._num_tries = 0
        self._waiting: dict[str, Pairing] = {}

    @property
    def is_spent(self) -> bool:
        """Whether no further one may begin until it is opened again."""
        return self._num_tries >= self._limits.max_tries

    def open(self, certificate_sha256: bytes) -> None:
        """An administrator watches, and the daemon shows this certificate.

        Raises:
            EdgedError: PAIRING_CLOSED; another one does.
        """
        if self._certificate_sha256 is not None:
            raise EdgedError(
                Reason.PAIRING_CLOSED, "another administrator waits for pairings already"
            )
        self._certificate_sha256 = certificate_sha256
        self._num_tries = 0

    def close(self) -> None:
        """Nobody watches any more: all that wait are gone."""
        self._certificate_sha256 = None
        self._waiting.clear()

    def waiting(self, now_s: float) -> tuple[Pairing, ...]:
        """Oldest first."""
        self._drop_expired(now_s)
        return tuple(self._waiting.values())

    def next_expiry_s(self) -> float | None:
        """When the next one expires, if one waits."""
        return min((one.expires_s for one in self._waiting.values()), default=None)

    def begin(self, name: str, address: str, commitment: bytes, now_s: float) -> Pairing:
        """
        Raises:
            EdgedError: INVALID_ARGUMENT; PAIRING_CLOSED, nobody watches, or too many have begun
                since; PAIRING_REFUSED, one from this address waits already; QUEUE_FULL.
        """
        if not is_grant_name(name):
            raise InvalidRequestError("name", f"is {name[:40]!r}; expected {NAME_RULE}")
        if len(commitment) != hashlib.sha256().digest_size:
            raise InvalidRequestError(
                "commitment",
                f"has {len(commitment)} bytes; expected {hashlib.sha256().digest_size}",
            )
        self._check_room(address, now_s)
        self._num_tries += 1
        pairing = Pairing(
            pairing_id=self._draw(16).hex(),
            name=name,
            address=address,
            commitment=commitment,
            nonce=self._draw(NONCE_BYTES),
            expires_s=now_s + self._limits.go_on_s,
        )
        self._waiting[pairing.pairing_id] = pairing
        return pairing

    def go_on(self, pairing_id: str, nonce: bytes, address: str, now_s: float) -> Pairing:
        """The client shows its nonce; the pairing, with its code.

        Raises:
            EdgedError: PAIRING_REFUSED; it does not wait, or the nonce is not the one that was
                committed to, with which it ends.
        """
        self._drop_expired(now_s)
        pairing = self._waiting.get(pairing_id)
        if pairing is None or pairing.address != address or pairing.code is not None:
            _refuse("no such pairing waits for its client to go on; begin another")
        is_committed_to = hmac.compare_digest(commitment_to(nonce), pairing.commitment)
        if len(nonce) != NONCE_BYTES or not is_committed_to:
            del self._waiting[pairing_id]
            _refuse("the nonce is not the one that was committed to")
        assert self._certificate_sha256 is not None, "nothing waits while nobody watches"
        code = code_of(
            self._certificate_sha256,
            client_nonce=nonce,
            daemon_nonce=pairing.nonce,
            name=pairing.name,
        )
        shown = replace(pairing, code=code, expires_s=now_s + self._limits.answer_s)
        self._waiting[pairing_id] = shown
        return shown

    def shown(self, pairing_id: str, now_s: float) -> Pairing:
        """One that has a code, which is what an administrator answers.

        Raises:
            EdgedError: PAIRING_CLOSED; none of that id waits with a code.
        """
        self._drop_expired(now_s)
        pairing = self._waiting.get(pairing_id)
        if pairing is None or pairing.code is None:
            raise EdgedError(
                Reason.PAIRING_CLOSED,
                "that pairing does not wait for an answer: its client has left, or its time is up",
            )
        return pairing

    def drop(self, pairing_id: str) -> None:
        """It was answered, or its client has left; one that is gone already is no error."""
        self._waiting.pop(pairing_id, None)

    def _check_room(self, address: str, now_s: float) -> None:
        self._drop_expired(now_s)
        if self._certificate_sha256 is None:
            raise EdgedError(
                Reason.PAIRING_CLOSED,
                "nobody waits for a pairing: run `edgectl pair` on the daemon's machine, then "
                "again here",
            )
        if self.is_spent:
            raise EdgedError(
                Reason.PAIRING_CLOSED,
                f"{self._num_tries} pairings have begun, the most while an administrator waits: "
                "run `edgectl pair` on the daemon's machine anew",
            )
        if any(one.address == address for one in self._waiting.values()):
            _refuse("a pairing from this address waits already; answer it, or let its time run out")
        if len(self._waiting) >= self._limits.max_waiting:
            first_s = self.next_expiry_s()
            assert first_s is not None
            raise EdgedError(
                Reason.QUEUE_FULL,
                f"{len(self._waiting)} pairings wait for an answer, the most there may be",
                retry_after_s=max(0.0, first_s - now_s),
            )

    def _drop_expired(self, now_s: float) -> None:
        for pairing in [one for one in self._waiting.values() if one.expires_s <= now_s]:
            del self._waiting[pairing.pairing_id]


def _refuse(why: str) -> NoReturn:
    raise EdgedError(Reason.PAIRING_REFUSED, why)
