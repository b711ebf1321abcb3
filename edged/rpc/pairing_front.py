"""The four calls of a pairing: they wait, and `edged.node.trust.pairing` decides what for.

Theory of operation: a client waits in FinishPairing, an administrator in WatchPairings. Whichever
of the two leaves, gRPC cancels its handler, which takes along what hangs on it: a client its
pairing, an administrator all of them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import grpc

from edged.clock import Clock
from edged.errors import EdgedError, Reason, shown
from edged.log import get_logger
from edged.node.trust.pairing import Pairing, PairingLimits, Pairings
from edged.rpc.convert import caller_address
from edged.rpc.writing import WRITE_STALL_S, write_within
from edged.v1 import access_pb2 as pb

MAX_NAME_CHARACTERS = 32
MAX_SAME_NAMES = 100
"""Clients of one name that are told apart by a number."""
STILL_IN_S = 1.0
"""How often an administrator who waits is looked at: it may not be one any more."""

_log = get_logger("pairing")

_Watch = grpc.aio.ServicerContext[pb.WatchPairingsRequest, pb.WatchPairingsResponse]


class PairingTokens(Protocol):
    """Where the tokens of accepted clients come from."""

    def give(self, wanted: pb.Grant) -> pb.CreateTokenResponse:
        """Raises EdgedError: INVALID_ARGUMENT; DUPLICATE_TOKEN; BAD_CONFIG."""
        ...

    def take_back(self, name_or_id: str) -> object:
        """Revoke one that nobody has received. Raises EdgedError: BAD_CONFIG."""
        ...


@dataclass(frozen=True, slots=True)
class _Refused:
    why: str


_Answer = pb.CreateTokenResponse | _Refused


class PairingFront:
    """Lives on the daemon's event loop."""

    def __init__(
        self,
        tokens: PairingTokens,
        certificate_sha256: Callable[[], bytes | None],
        clock: Clock,
        limits: PairingLimits | None = None,
    ) -> None:
        """`certificate_sha256` is of the certificate that the daemon shows now; None: of none."""
        self._tokens = tokens
        self._certificate_sha256 = certificate_sha256
        self._clock = clock
        self._limits = limits or PairingLimits()
        self._pairings = Pairings(self._limits)
        self._answers: dict[str, asyncio.Future[_Answer]] = {}
        """Of the clients that wait, by the id of their pairing."""
        self._changed = asyncio.Event()
        """Wakes the administrator's call."""

    def begin(self, request: pb.BeginPairingRequest, peer: str) -> pb.BeginPairingResponse:
        """`peer` is gRPC's name of the caller."""
        self._required_certificate()
        begun = self._pairings.begin(
            request.name, caller_address(peer), request.commitment, self._clock.now_s()
        )
        self._changed.set()
        return pb.BeginPairingResponse(pairing_id=begun.pairing_id, nonce=begun.nonce)

    async def finish(self, request: pb.FinishPairingRequest, peer: str) -> pb.FinishPairingResponse:
        pairing = self._pairings.go_on(
            request.pairing_id, request.nonce, caller_address(peer), self._clock.now_s()
        )
        waiting = self._answers[pairing.pairing_id] = asyncio.get_running_loop().create_future()
        self._changed.set()
        try:
            async with asyncio.timeout(pairing.expires_s - self._clock.now_s()):
                answer = await waiting
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiting.done() and not waiting.cancelled():
                self._take_back(waiting.result())
            if isinstance(error, TimeoutError):
                raise EdgedError(
                    Reason.PAIRING_REFUSED,
                    f"nobody answered on the daemon's machine within {self._limits.answer_s:g} s",
                ) from None
            raise
        finally:
            del self._answers[pairing.pairing_id]
            self._pairings.drop(pairing.pairing_id)
            self._changed.set()
        match answer:
            case _Refused(why):
                raise EdgedError(Reason.PAIRING_REFUSED, why)
            case given:
                return pb.FinishPairingResponse(secret=given.secret, token=given.token)

    async def watch(
        self,
        context: _Watch,
        check_still_in: Callable[[], None],
        stall_s: float = WRITE_STALL_S,
    ) -> None:
        """Let pairings begin until the caller leaves, and tell of those that wait.

        `check_still_in` raises TOKEN_REVOKED once the caller's token holds no more.
        """
        self._pairings.open(self._required_certificate())
        try:
            told: tuple[Pairing, ...] | None = None
            while True:
                self._changed.clear()
                check_still_in()
                waiting = self._pairings.waiting(self._clock.now_s())
                if waiting != told:
                    told = waiting
                    check_still_in()
                    await write_within(context, _to_response(waiting), stall_s)
                if self._pairings.is_spent and not waiting:
                    self._raise_spent()
                await self._wait_for_change()
        finally:
            self._pairings.close()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(_Refused("the administrator has left without an answer"))

    def answer(self, request: pb.AnswerPairingRequest) -> pb.AnswerPairingResponse:
        pairing = self._pairings.shown(request.pairing_id, self._clock.now_s())
        waiting = self._answers[pairing.pairing_id]
        if request.accept:
            answer: _Answer = self._given(request.grant, pairing.name)
        else:
            answer = _Refused("the administrator said no")
        _log.info(
            "pairing answered", client=pairing.name, address=pairing.address, accept=request.accept
        )
        self._pairings.drop(pairing.pairing_id)
        if not waiting.done():
            waiting.set_result(answer)
        else:
            self._take_back(answer)
        self._changed.set()
        return pb.AnswerPairingResponse()

    def _given(self, wanted: pb.Grant, name: str) -> pb.CreateTokenResponse:
        """A token with the name that was asked for, else with the client's own; with a number
        behind it if that is in use."""
        if wanted.name:
            return self._tokens.give(wanted)
        grant = pb.Grant()
        grant.CopyFrom(wanted)
        for number in range(1, MAX_SAME_NAMES + 1):
            end = "" if number == 1 else f"-{number}"
            grant.name = name[: MAX_NAME_CHARACTERS - len(end)] + end
            try:
                return self._tokens.give(grant)
            except EdgedError as error:
                if error.reason is not Reason.DUPLICATE_TOKEN:
                    raise
        raise EdgedError(
            Reason.DUPLICATE_TOKEN,
            f"{MAX_SAME_NAMES} tokens are named like {shown(name)}; give it another name",
        )

    def _take_back(self, answer: _Answer) -> None:
        """The client has left in the moment of the answer: it never learns of its token."""
        if isinstance(answer, pb.CreateTokenResponse):
            # What stands in the way is in the log; nobody has the token's secret.
            with suppress(EdgedError):
                self._tokens.take_back(answer.token.token_id)

    async def _wait_for_change(self) -> None:
        """Until something has changed, the next pairing expires, or it is time to look."""
        expires_s = self._pairings.next_expiry_s()
        left_s = STILL_IN_S
        if expires_s is not None:
            left_s = min(left_s, max(0.0, expires_s - self._clock.now_s()))
        try:
            async with asyncio.timeout(left_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _required_certificate(self) -> bytes:
        digest = self._certificate_sha256()
        if digest is None:
            raise EdgedError(
                Reason.PAIRING_CLOSED,
                "the daemon listens nowhere with TLS, so there is no certificate to pair for: let "
                "server.listen have an address that other hosts can reach",
            )
        return digest

    def _raise_spent(self) -> None:
        _log.warning("too many pairings have begun", max_tries=self._limits.max_tries)
        raise EdgedError(
            Reason.PAIRING_CLOSED,
            f"{self._limits.max_tries} pairings have begun and none waits: somebody may be "
            "guessing; wait for pairings anew if you expect one",
        )


def _to_response(waiting: tuple[Pairing, ...]) -> pb.WatchPairingsResponse:
    return pb.WatchPairingsResponse(
        pairings=[
            pb.Pairing(
                pairing_id=one.pairing_id, name=one.name, address=one.address, code=one.code or ""
            )
            for one in waiting
        ]
    )
