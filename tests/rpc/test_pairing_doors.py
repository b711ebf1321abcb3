"""Pairing at the daemon's doors: a stranger over TLS, an administrator on the daemon's machine."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from edged.clock import MonotonicClock
from edged.node.trust.fingerprint import digest_of
from edged.node.trust.grant import Grant
from edged.node.trust.identity import IdentitySource
from edged.node.trust.pairing import Proposal
from edged.node.trust.tokens import TokenStore
from edged.rpc.access.trust import Trust
from edged.rpc.server import RpcServer
from edged.rpc.settings import RpcSettings
from edged.v1 import access_pb2 as pb
from edged.v1.access_pb2_grpc import AccessServiceStub
from tests.rpc.fakes import PlayedModels, model_status
from tests.rpc.front import TIERS, Daemon, open_channel, told_by
from tests.rpc.test_pairing_front import Watch


@dataclass
class Doors:
    server: RpcServer
    here: AccessServiceStub
    """From the daemon's machine, as an administrator."""
    there: AccessServiceStub
    """From another host, over TLS."""
    guest: str
    """A token that may not operate the daemon."""

    @property
    def digest(self) -> bytes:
        identity = self.server.identity
        assert identity is not None
        return digest_of(identity.fingerprint)


@asynccontextmanager
async def opened(*, insecure: bool = False) -> AsyncIterator[Doors]:
    settings = RpcSettings(
        listen="127.0.0.1:0",
        network_listen="127.0.0.1:0",
        socket_path=None,
        loopback_access="admin",
        insecure=insecure,
    )
    with tempfile.TemporaryDirectory() as state:
        folder = Path(state)
        # By the real clock: gRPC looks at it when it looks at the certificate.
        trust = Trust(TokenStore(folder / "tokens.json"), IdentitySource(folder, "desk"))
        guest, _ = trust.tokens.create(Grant("guest"), trust.wall())
        view, clock = Daemon().view(started_s=0.0), MonotonicClock()
        models = PlayedModels(model_status())
        server = RpcServer(settings, models, TIERS, view, clock, trust=trust)
        await server.start()
        try:
            loopback, network = server.listeners
            async with open_channel(loopback) as here, _network(server, network) as there:
                yield Doors(server, AccessServiceStub(here), AccessServiceStub(there), guest)
        finally:
            await server.stop(0)


def _network(server: RpcServer, address: str) -> grpc.aio.Channel:
    if server.identity is None:
        return open_channel(address)
    credentials = grpc.ssl_channel_credentials(server.identity.certificate_pem)
    options = (("grpc.ssl_target_name_override", "edged"), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(address, credentials, options)


@pytest_asyncio.fixture
async def doors() -> AsyncIterator[Doors]:
    async with opened() as running:
        yield running


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_a_stranger_pairs_and_its_token_lets_it_in_until_it_is_revoked(
    doors: Doors,
) -> None:
    watch, proposal = Watch(doors.here), Proposal("laptop")
    await watch.until(0)
    begun = await doors.there.BeginPairing(
        pb.BeginPairingRequest(name="laptop", commitment=proposal.commitment)
    )
    finishing = doors.there.FinishPairing(
        pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce)
    )
    [waits] = await watch.until(1)
    assert waits.code == proposal.code(doors.digest, begun.nonce)
    await watch.answer(waits, True, max_concurrent_requests=2)
    given = await finishing
    request, shown = pb.GetIdentityRequest(), bearing(given.secret)
    known = await doors.there.GetIdentity(request, metadata=shown)
    assert known.grant.name == "laptop"
    assert known.grant.max_concurrent_requests == 2
    await doors.here.RevokeToken(pb.RevokeTokenRequest(name_or_id="laptop"))
    refused = doors.there.GetIdentity(request, metadata=shown)
    assert (await told_by(refused)).reason == "TOKEN_REVOKED"


async def test_a_stranger_neither_watches_nor_answers(doors: Doors) -> None:
    for metadata, reason in ((None, "TOKEN_MISSING"), (bearing(doors.guest), "ADMIN_ONLY")):
        watching = doors.there.WatchPairings(pb.WatchPairingsRequest(), metadata=metadata)
        answering = doors.there.AnswerPairing(pb.AnswerPairingRequest(), metadata=metadata)
        assert [(await told_by(call)).reason for call in (watching, answering)] == [reason] * 2


async def test_an_administrator_whose_token_is_revoked_sees_and_lets_in_nobody_more(
    doors: Doors,
) -> None:
    grant = pb.Grant(name="boss", is_admin=True)
    made = await doors.here.CreateToken(pb.CreateTokenRequest(grant=grant))
    metadata = bearing(made.secret)
    watching = doors.there.WatchPairings(pb.WatchPairingsRequest(), metadata=metadata)
    assert not (await watching.read()).pairings
    await doors.here.RevokeToken(pb.RevokeTokenRequest(name_or_id="boss"))
    request = pb.BeginPairingRequest(name="laptop", commitment=Proposal("laptop").commitment)
    await doors.there.BeginPairing(request)
    assert (await told_by(watching)).reason == "TOKEN_REVOKED"
    assert (await told_by(doors.there.BeginPairing(request))).reason == "PAIRING_CLOSED"


async def test_a_grant_that_makes_no_sense_is_told_and_the_client_waits_on(doors: Doors) -> None:
    watch, proposal = Watch(doors.here), Proposal("laptop")
    await watch.until(0)
    begun = await doors.there.BeginPairing(
        pb.BeginPairingRequest(name="laptop", commitment=proposal.commitment)
    )
    finishing = doors.there.FinishPairing(
        pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce)
    )
    [waits] = await watch.until(1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await watch.answer(waits, True, max_concurrent_requests=0)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await watch.answer(waits, True)
    assert (await finishing).token.grant.name == "laptop"


async def test_without_tls_there_is_nothing_to_pair_for() -> None:
    async with opened(insecure=True) as doors:
        told = await told_by(doors.here.WatchPairings(pb.WatchPairingsRequest()))
        assert (told.reason, "nowhere with TLS" in told.detail) == ("PAIRING_CLOSED", True)
