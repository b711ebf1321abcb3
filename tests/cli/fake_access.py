"""An AccessService that says what a test tells it to, over TLS and a unix socket, in threads."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from edged.errors import EdgedError, Reason
from edged.node.trust.fingerprint import digest_of
from edged.node.trust.pairing import Pairings
from edged.rpc.status import from_edged_error
from edged.v1 import access_pb2 as pb
from edged.v1 import access_pb2_grpc
from tests.client.certificates import Certified, certified

WAIT_S = 20.0
OWN = certified("edged")
SECRET = "edged_0badcafe_" + "s" * 43


def token(name: str = "laptop", token_id: str = "0badcafe", **fields: object) -> pb.Token:
    made = pb.Token(token_id=token_id, grant=pb.Grant(name=name), created_s=1_795_000_000.0)
    made.MergeFrom(pb.Token(**fields))  # type: ignore[arg-type]  # fields by name
    return made


class FakeAccess:
    """What it answers is set before a call, what it was asked is read after one."""

    def __init__(self, certified: Certified = OWN) -> None:
        self.certified = certified
        self.identity = pb.GetIdentityResponse(
            name="gpu box",
            version="9.8.7",
            fingerprint=certified.fingerprint,
            certificate_pem=certified.pem.decode(),
            listeners=["192.0.2.7:7411", "unix:/run/edged/edged.sock"],
            is_advertised=True,
            grant=pb.Grant(name="local", is_admin=True),
        )
        self.tokens = [token()]
        self.error: EdgedError | None = None
        """Ends every call."""
        self.is_open = True
        """An administrator watches."""
        self.accepts = True
        self.holds = False
        """FinishPairing waits until its client has left."""
        self.went_on = threading.Event()
        """FinishPairing was called."""
        self.left = threading.Event()
        self.codes: list[str] = []
        """Of the pairings that have gone on."""
        self.asked: list[object] = []
        """Requests, but for those that only look."""
        self.tokens_shown: list[str] = []
        """Of every call, as it was shown."""
        self.waiting: list[pb.Pairing] = []
        """What WatchPairings tells, before it ends."""
        self._pairings = Pairings()
        self._pairings.open(hashlib.sha256(b"").digest())

    def abort_if_told(self, context: grpc.ServicerContext) -> None:
        if self.error is not None:
            abort(context, self.error)

    def renew(self) -> Pairings:
        """Pairings for the certificate that it has."""
        self._pairings = Pairings()
        if self.is_open:
            self._pairings.open(digest_of(self.certified.fingerprint))
        return self._pairings

    @property
    def pairings(self) -> Pairings:
        return self._pairings


def abort(context: grpc.ServicerContext, error: EdgedError) -> None:
    failure = from_edged_error(error)
    context.set_trailing_metadata(failure.trailers)
    context.abort(failure.code, failure.detail)


class _Access(access_pb2_grpc.AccessServiceServicer):
    def __init__(self, daemon: FakeAccess) -> None:
        self._daemon = daemon

    def GetIdentity(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # gRPC's shape
        daemon = self._daemon
        shown = dict(context.invocation_metadata()).get("authorization", "")
        daemon.tokens_shown.append(shown)
        daemon.abort_if_told(context)
        if context.peer().startswith("ipv4") and shown != f"Bearer {SECRET}":
            abort(context, EdgedError(Reason.TOKEN_INVALID, "the token is none of this daemon's"))
        return daemon.identity

    def CreateToken(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.asked.append(request)
        self._daemon.abort_if_told(context)
        return pb.CreateTokenResponse(secret=SECRET, token=token(request.grant.name))

    def ListTokens(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.abort_if_told(context)
        return pb.ListTokensResponse(tokens=self._daemon.tokens)

    def RevokeToken(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.asked.append(request)
        self._daemon.abort_if_told(context)
        return pb.RevokeTokenResponse(token=token(request.name_or_id, revoked_s=1_795_000_060.0))

    def BeginPairing(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.asked.append(request)
        try:
            begun = self._daemon.renew().begin(
                request.name, "192.0.2.1", request.commitment, time.monotonic()
            )
        except EdgedError as error:
            abort(context, error)
        return pb.BeginPairingResponse(pairing_id=begun.pairing_id, nonce=begun.nonce)

    def FinishPairing(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        daemon = self._daemon
        shown = daemon.pairings.go_on(
            request.pairing_id, request.nonce, "192.0.2.1", time.monotonic()
        )
        daemon.codes.append(shown.code or "")
        if daemon.holds:
            context.add_callback(daemon.left.set)
            daemon.went_on.set()
            daemon.left.wait(WAIT_S)
        if not daemon.accepts:
            abort(context, EdgedError(Reason.PAIRING_REFUSED, "the administrator said no"))
        return pb.FinishPairingResponse(secret=SECRET, token=token(shown.name))

    def WatchPairings(self, request, context) -> Iterator[pb.WatchPairingsResponse]:  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.abort_if_told(context)
        yield pb.WatchPairingsResponse()
        yield pb.WatchPairingsResponse(pairings=self._daemon.waiting)
        if self._daemon.holds:
            context.add_callback(self._daemon.left.set)
            self._daemon.left.wait(WAIT_S)

    def AnswerPairing(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802  # as above
        self._daemon.asked.append(request)
        self._daemon.abort_if_told(context)
        if request.pairing_id == "gone":
            abort(context, EdgedError(Reason.PAIRING_CLOSED, "its client has left"))
        return pb.AnswerPairingResponse()


@contextmanager
def serving_access(daemon: FakeAccess, socket: Path | None = None, port: int = 0) -> Iterator[str]:
    """Its HOST:PORT, with TLS; on the socket, if there is to be one, without."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    access_pb2_grpc.add_AccessServiceServicer_to_server(_Access(daemon), server)
    certified = daemon.certified
    credentials = grpc.ssl_server_credentials([(certified.key_pem, certified.chain_pem)])
    port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    if socket is not None:
        server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        daemon.left.set()
        server.stop(grace=None).wait(WAIT_S)
