"""The four calls of a pairing over real gRPC: who waits for whom, and who takes what along."""

# ruff: noqa: N802  # methods have the names of the service

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
import pytest_asyncio

from edged.clock import MonotonicClock
from edged.errors import EdgedError, Reason
from edged.node.trust.pairing import PairingLimits, Proposal
from edged.rpc.interceptor import ErrorsBecomeStatus
from edged.rpc.pairing_front import MAX_SAME_NAMES, PairingFront
from edged.v1 import access_pb2 as pb
from edged.v1.access_pb2_grpc import (
    AccessServiceServicer,
    AccessServiceStub,
    add_AccessServiceServicer_to_server,
)
from tests.rpc.fakes import GATE_TIMEOUT_S
from tests.rpc.front import open_channel, told_by

CERTIFICATE = b"c" * 32


@dataclass
class FakeTokens:
    names: list[str] = field(default_factory=list)
    """Of the tokens that hold."""
    given: list[pb.Grant] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)

    def give(self, grant: pb.Grant) -> pb.CreateTokenResponse:
        if grant.name in self.names:
            raise EdgedError(Reason.DUPLICATE_TOKEN, f"a token is named {grant.name!r} already")
        self.names.append(grant.name)
        self.given.append(grant)
        return pb.CreateTokenResponse(
            secret=f"secret of {grant.name}", token=pb.Token(token_id=grant.name, grant=grant)
        )

    def take_back(self, token_id: str) -> None:
        self.taken_back.append(token_id)


class Servicer(AccessServiceServicer):
    def __init__(self, front: PairingFront) -> None:
        self._front = front

    async def BeginPairing(self, request, context):  # type: ignore[no-untyped-def]  # gRPC's shape
        return self._front.begin(request, context.peer())

    async def FinishPairing(self, request, context):  # type: ignore[no-untyped-def]  # as above
        return await self._front.finish(request, context.peer())

    async def WatchPairings(self, request, context):  # type: ignore[no-untyped-def]  # as above
        await self._front.watch(context, lambda: None)

    async def AnswerPairing(self, request, context):  # type: ignore[no-untyped-def]  # as above
        return self._front.answer(request)


@dataclass
class Served:
    tokens: FakeTokens
    access: AccessServiceStub
    certificate: list[bytes | None]
    """The one that the daemon shows now."""

    async def begin(self, proposal: Proposal) -> pb.BeginPairingResponse:
        return await self.access.BeginPairing(
            pb.BeginPairingRequest(name=proposal.name, commitment=proposal.commitment)
        )

    async def finish(self, proposal: Proposal) -> "grpc.aio.UnaryUnaryCall":
        """Begun, and waiting for an answer."""
        begun = await self.begin(proposal)
        request = pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce)
        return self.access.FinishPairing(request)


class Watch:
    """An administrator."""

    def __init__(self, access: AccessServiceStub) -> None:
        self._access = access
        self.call = access.WatchPairings(pb.WatchPairingsRequest())

    async def until(self, num: int, *, with_code: bool = True) -> list[pb.Pairing]:
        """Until so many wait, each with a code if it is to have one."""
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while True:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, "the watch has ended"
                found = list(message.pairings)
                if len(found) == num and all(one.code or not with_code for one in found):
                    return found

    async def answer(self, pairing: pb.Pairing, accept: bool, **grant: object) -> None:
        await self._access.AnswerPairing(
            pb.AnswerPairingRequest(
                pairing_id=pairing.pairing_id, accept=accept, grant=pb.Grant(**grant)
            )
        )


@asynccontextmanager
async def served(limits: PairingLimits | None = None) -> AsyncIterator[Served]:
    tokens, certificate = FakeTokens(), [CERTIFICATE]
    front = PairingFront(tokens, lambda: certificate[0], MonotonicClock(), limits)
    server = grpc.aio.server(interceptors=(ErrorsBecomeStatus(),))
    add_AccessServiceServicer_to_server(Servicer(front), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield Served(tokens, AccessServiceStub(channel), certificate)
    finally:
        await server.stop(0)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[Served]:
    async with served() as running:
        yield running


@pytest_asyncio.fixture
async def watch(daemon: Served) -> Watch:
    watching = Watch(daemon.access)
    assert await watching.until(0) == []
    return watching


async def test_a_client_is_given_what_the_administrator_grants(
    daemon: Served, watch: Watch
) -> None:
    proposal = Proposal("laptop")
    begun = await daemon.begin(proposal)
    [waits] = await watch.until(1, with_code=False)
    assert (waits.name, waits.address, waits.code) == ("laptop", "127.0.0.1", "")
    request = pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce)
    finishing = daemon.access.FinishPairing(request)
    [waits] = await watch.until(1)
    assert waits.code == proposal.code(CERTIFICATE, begun.nonce)
    await watch.answer(waits, True, models=["tiny"], is_admin=True)
    answer = await finishing
    assert answer.secret == "secret of laptop"
    assert answer.token.grant == pb.Grant(name="laptop", models=["tiny"], is_admin=True)
    assert await watch.until(0) == []


async def test_a_client_that_is_refused_is_told(daemon: Served, watch: Watch) -> None:
    finishing = await daemon.finish(Proposal("laptop"))
    [waits] = await watch.until(1)
    await watch.answer(waits, False)
    told = await told_by(finishing)
    assert (told.reason, told.detail) == ("PAIRING_REFUSED", "the administrator said no")
    assert daemon.tokens.given == []


async def test_a_name_that_is_in_use_gets_a_number(daemon: Served, watch: Watch) -> None:
    long = "n" * 32
    daemon.tokens.names += ["laptop", "laptop-2", long]
    for name, expected in (("laptop", "laptop-3"), (long, "n" * 30 + "-2")):
        finishing = await daemon.finish(Proposal(name))
        [waits] = await watch.until(1)
        await watch.answer(waits, True)
        assert (await finishing).token.grant.name == expected
        await watch.until(0)


async def test_when_all_numbers_are_in_use_the_administrator_is_told(
    daemon: Served, watch: Watch
) -> None:
    daemon.tokens.names += ["laptop", *(f"laptop-{one}" for one in range(2, MAX_SAME_NAMES + 1))]
    finishing = await daemon.finish(Proposal("laptop"))
    [waits] = await watch.until(1)
    for name in ("", "laptop"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.answer(waits, True, name=name)
        assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await watch.answer(waits, True, name="another")
    assert (await finishing).token.grant.name == "another"


async def test_without_an_administrator_nothing_begins(daemon: Served) -> None:
    call = daemon.access.BeginPairing(
        pb.BeginPairingRequest(name="laptop", commitment=Proposal("laptop").commitment)
    )
    assert (await told_by(call)).reason == "PAIRING_CLOSED"


async def test_without_a_certificate_neither_side_waits_for_nothing(daemon: Served) -> None:
    daemon.certificate[0] = None
    watching = daemon.access.WatchPairings(pb.WatchPairingsRequest())
    beginning = daemon.access.BeginPairing(pb.BeginPairingRequest(name="laptop"))
    for call in (watching, beginning):
        told = await told_by(call)
        assert told.reason == "PAIRING_CLOSED"
        assert "listens nowhere with TLS" in told.detail


async def test_one_administrator_watches_at_a_time(daemon: Served, watch: Watch) -> None:
    second = daemon.access.WatchPairings(pb.WatchPairingsRequest())
    told = await told_by(second)
    assert (told.reason, "another administrator" in told.detail) == ("PAIRING_CLOSED", True)
    finishing = await daemon.finish(Proposal("laptop"))
    await watch.until(1)
    assert not finishing.done(), "the first one's window is as it was"
    finishing.cancel()


async def test_an_administrator_who_leaves_refuses_what_waits_and_closes(
    daemon: Served, watch: Watch
) -> None:
    finishing = await daemon.finish(Proposal("laptop"))
    await watch.until(1)
    watch.call.cancel()
    told = await told_by(finishing)
    assert (told.reason, "has left" in told.detail) == ("PAIRING_REFUSED", True)
    beginning = daemon.access.BeginPairing(
        pb.BeginPairingRequest(name="laptop", commitment=Proposal("laptop").commitment)
    )
    assert (await told_by(beginning)).reason == "PAIRING_CLOSED"
    assert await Watch(daemon.access).until(0) == []


async def test_a_client_that_leaves_is_gone_and_its_address_free(
    daemon: Served, watch: Watch
) -> None:
    finishing = await daemon.finish(Proposal("laptop"))
    [waits] = await watch.until(1)
    finishing.cancel()
    assert await watch.until(0) == []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await watch.answer(waits, True)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.tokens.given == []
    await daemon.begin(Proposal("laptop"))


async def test_a_wrong_nonce_ends_the_pairing(daemon: Served, watch: Watch) -> None:
    begun = await daemon.begin(Proposal("laptop"))
    await watch.until(1, with_code=False)
    request = pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=b"x" * 32)
    assert (await told_by(daemon.access.FinishPairing(request))).reason == "PAIRING_REFUSED"
    await daemon.begin(Proposal("laptop"))


async def test_whoever_is_not_answered_in_time_is_told_and_gone() -> None:
    async with served(PairingLimits(answer_s=0.05)) as daemon:
        watching = Watch(daemon.access)
        await watching.until(0)
        finishing = await daemon.finish(Proposal("laptop"))
        told = await told_by(finishing)
        assert (told.reason, "within 0.05 s" in told.detail) == ("PAIRING_REFUSED", True)
        await daemon.begin(Proposal("laptop"))


async def test_a_client_that_does_not_go_on_disappears_by_itself() -> None:
    async with served(PairingLimits(go_on_s=0.05)) as daemon:
        watching = Watch(daemon.access)
        await watching.until(0)
        await daemon.begin(Proposal("laptop"))
        await watching.until(1, with_code=False)
        assert await watching.until(0) == []


async def test_when_somebody_seems_to_guess_the_administrator_is_told() -> None:
    async with served(PairingLimits(max_tries=2)) as daemon:
        watching = Watch(daemon.access)
        await watching.until(0)
        for number in range(2):
            finishing = await daemon.finish(Proposal("laptop"))
            await watching.until(1)
            finishing.cancel()
            if number == 0:
                await watching.until(0)
        told = await told_by(watching.call)
        assert (told.reason, "somebody may be guessing" in told.detail) == ("PAIRING_CLOSED", True)


async def test_a_token_that_its_client_did_not_wait_for_is_taken_back() -> None:
    """The answer comes, and before the client's call has gone on, the client is gone."""
    tokens = FakeTokens()
    front = PairingFront(tokens, lambda: CERTIFICATE, MonotonicClock())

    class Context:
        def __init__(self) -> None:
            self.told: asyncio.Queue[pb.WatchPairingsResponse] = asyncio.Queue()

        async def write(self, message: pb.WatchPairingsResponse) -> None:
            self.told.put_nowait(message)

    context, proposal = Context(), Proposal("laptop")
    watching = asyncio.create_task(front.watch(context, lambda: None))  # type: ignore[arg-type]  # what it uses
    await context.told.get()
    begun = front.begin(
        pb.BeginPairingRequest(name="laptop", commitment=proposal.commitment), "ipv4:192.0.2.1:5"
    )
    request = pb.FinishPairingRequest(pairing_id=begun.pairing_id, nonce=proposal.nonce)
    finishing = asyncio.create_task(front.finish(request, "ipv4:192.0.2.1:5"))
    while not (await context.told.get()).pairings[0].code:
        pass
    front.answer(pb.AnswerPairingRequest(pairing_id=begun.pairing_id, accept=True))
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert tokens.taken_back == ["laptop"]
    watching.cancel()
