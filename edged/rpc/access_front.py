"""AccessService: who the daemon is, what a caller may do, and the tokens; pairing is in
`pairing_front`."""

# ruff: noqa: N802  methods have the names of the service

from collections.abc import Callable

import grpc

from edged.clock import Clock
from edged.errors import ConfigError, EdgedError, InvalidRequestError, Reason
from edged.log import get_logger
from edged.node.trust.fingerprint import digest_of
from edged.node.trust.identity import Identity
from edged.node.trust.token_file import TokenRecord
from edged.rpc.access.caller import current_caller
from edged.rpc.access.guard import Guard
from edged.rpc.access.trust import Trust
from edged.rpc.convert_access import from_grant, from_record, to_grant
from edged.rpc.pairing_front import PairingFront
from edged.rpc.view import DaemonView
from edged.v1 import access_pb2 as pb
from edged.v1.access_pb2_grpc import AccessServiceServicer

_log = get_logger("access")


class AccessFront(AccessServiceServicer):
    """Answers the calls of AccessService. Lives on the daemon's event loop."""

    def __init__(
        self,
        trust: Trust,
        guard: Guard,
        view: DaemonView,
        identity: Callable[[], Identity | None],
        clock: Clock,
    ) -> None:
        """`identity` is None while no listener has a certificate."""
        self._tokens = trust.tokens
        self._wall = trust.wall
        self._guard = guard
        self._view = view
        self._identity = identity
        self._pairing = PairingFront(self, self._certificate_sha256, clock)

    async def GetIdentity(
        self,
        request: pb.GetIdentityRequest,
        context: grpc.aio.ServicerContext[pb.GetIdentityRequest, pb.GetIdentityResponse],
    ) -> pb.GetIdentityResponse:
        identity = self._identity()
        return pb.GetIdentityResponse(
            name=self._view.name(),
            version=self._view.version,
            fingerprint="" if identity is None else identity.fingerprint,
            certificate_pem="" if identity is None else identity.certificate_pem.decode(),
            listeners=self._view.listeners_for(current_caller()),
            is_advertised=self._view.is_advertised(),
            grant=from_grant(current_caller().grant),
        )

    async def CreateToken(
        self,
        request: pb.CreateTokenRequest,
        context: grpc.aio.ServicerContext[pb.CreateTokenRequest, pb.CreateTokenResponse],
    ) -> pb.CreateTokenResponse:
        return self.give(request.grant)

    async def ListTokens(
        self,
        request: pb.ListTokensRequest,
        context: grpc.aio.ServicerContext[pb.ListTokensRequest, pb.ListTokensResponse],
    ) -> pb.ListTokensResponse:
        return pb.ListTokensResponse(tokens=[self._told(one) for one in self._tokens.all()])

    async def RevokeToken(
        self,
        request: pb.RevokeTokenRequest,
        context: grpc.aio.ServicerContext[pb.RevokeTokenRequest, pb.RevokeTokenResponse],
    ) -> pb.RevokeTokenResponse:
        if not request.name_or_id:
            raise InvalidRequestError(
                "name_or_id", "is empty; expected the name or the id of a token"
            )
        return pb.RevokeTokenResponse(token=self._told(self.take_back(request.name_or_id)))

    def give(self, wanted: pb.Grant) -> pb.CreateTokenResponse:
        """A new token, for an administrator who makes one, and for a client that is paired with.

        Raises:
            EdgedError: INVALID_ARGUMENT, DUPLICATE_TOKEN, BAD_CONFIG.
        """
        grant = to_grant(wanted)
        try:
            secret, record = self._tokens.create(grant, self._wall())
        except ConfigError as error:
            raise _without_paths(error) from error
        _log.info("token created", token_id=record.token_id, token=grant.name)
        return pb.CreateTokenResponse(secret=secret, token=self._told(record))

    def take_back(self, name_or_id: str) -> TokenRecord:
        """Revoke a token. Raises EdgedError: UNKNOWN_TOKEN, BAD_CONFIG."""
        try:
            record = self._tokens.revoke(name_or_id, self._wall())
        except ConfigError as error:
            raise _without_paths(error) from error
        _log.info("token revoked", token_id=record.token_id, token=record.grant.name)
        return record

    async def BeginPairing(
        self,
        request: pb.BeginPairingRequest,
        context: grpc.aio.ServicerContext[pb.BeginPairingRequest, pb.BeginPairingResponse],
    ) -> pb.BeginPairingResponse:
        return self._pairing.begin(request, context.peer())

    async def FinishPairing(
        self,
        request: pb.FinishPairingRequest,
        context: grpc.aio.ServicerContext[pb.FinishPairingRequest, pb.FinishPairingResponse],
    ) -> pb.FinishPairingResponse:
        return await self._pairing.finish(request, context.peer())

    async def WatchPairings(  # type: ignore[override]  # the stubs know no handler that writes itself
        self,
        request: pb.WatchPairingsRequest,
        context: grpc.aio.ServicerContext[pb.WatchPairingsRequest, pb.WatchPairingsResponse],
    ) -> None:
        caller = current_caller()
        await self._pairing.watch(context, lambda: self._guard.check_still_in(caller))

    async def AnswerPairing(
        self,
        request: pb.AnswerPairingRequest,
        context: grpc.aio.ServicerContext[pb.AnswerPairingRequest, pb.AnswerPairingResponse],
    ) -> pb.AnswerPairingResponse:
        return self._pairing.answer(request)

    def _certificate_sha256(self) -> bytes | None:
        identity = self._identity()
        return None if identity is None else digest_of(identity.fingerprint)

    def _told(self, record: TokenRecord) -> pb.Token:
        return from_record(record, self._guard.last_used_s(record.token_id))


def _without_paths(error: ConfigError) -> EdgedError:
    """The operator's log has the file; whoever calls is told that there is something wrong."""
    _log.error("tokens cannot be changed", detail=error.detail)
    return EdgedError(
        Reason.BAD_CONFIG,
        "the daemon cannot read or write its tokens: its log says why",
    )
