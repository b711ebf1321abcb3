"""Who is let in at which door: tokens, certificates, and what is said to those who are not."""

import asyncio
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from edged.errors import Reason
from edged.node.trust.grant import Grant
from edged.node.trust.identity import IdentitySource
from edged.rpc.access.guard import REFUSALS_LOGGED_PER_MINUTE
from edged.v1 import access_pb2, admin_pb2
from tests.rpc.fakes import GATE_TIMEOUT_S, finished
from tests.rpc.front import (
    LOOPBACK,
    NETWORK,
    NOW_S,
    Front,
    Metadata,
    bearer,
    ended,
    open_channel,
    over_socket,
    running_front,
    text_request,
    told_by,
)

LAPTOP = Grant("laptop")
BOSS = Grant("boss", is_admin=True)
NOBODYS = "edged_01234567_" + "A" * 43


async def refusal(front: Front, metadata: Metadata, target: str | None = None) -> Reason | None:
    """Why a caller with this metadata is not let in; None if it is."""
    async with front.open(target) as channel:
        status = channel.unary_unary("/edged.v1.AdminService/GetStatus")
        call = status(b"", metadata=metadata)
        told = await told_by(call)
    return Reason(told.reason) if told.reason else None


async def test_a_token_lets_in_over_tls() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        call = front.inference.Generate(text_request(), metadata=front.bearer("laptop"))
        stream = await front.models.next_stream()
        stream.put(finished(stream))
        assert await ended(call) == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), Reason.TOKEN_MISSING),
        (bearer(NOBODYS), Reason.TOKEN_INVALID),
        (bearer(""), Reason.TOKEN_INVALID),
        ((("authorization", ""),), Reason.TOKEN_INVALID),
        ((("authorization", "Basic YTpi"),), Reason.TOKEN_INVALID),
        (bearer(NOBODYS) * 2, Reason.TOKEN_INVALID),
    ],
)
async def test_a_caller_without_a_right_token_is_refused_with_the_reason(
    metadata: Metadata, reason: Reason
) -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        assert await refusal(front, metadata) is reason


async def test_the_scheme_may_be_written_in_any_case() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        token = front.secrets["laptop"]
        assert await refusal(front, (("authorization", f"bearer {token}"),)) is None


async def test_a_revoked_token_is_refused_and_what_it_has_running_goes_on() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        call = front.inference.Generate(text_request(), metadata=front.bearer("laptop"))
        stream = await front.models.next_stream()
        front.trust.tokens.revoke("laptop", NOW_S)
        assert await refusal(front, front.bearer("laptop")) is Reason.TOKEN_REVOKED
        stream.put(finished(stream))
        assert await ended(call) == grpc.StatusCode.OK


async def test_a_revoked_token_watches_no_further() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        watch = front.admin.WatchStatus(
            admin_pb2.WatchStatusRequest(interval_s=0.1), metadata=front.bearer("laptop")
        )
        await watch.read()
        front.trust.tokens.revoke("laptop", NOW_S)
        front.models.announce_change()
        assert (await told_by(watch)).reason == Reason.TOKEN_REVOKED


async def test_a_revoked_administrator_waits_for_pairings_no_further() -> None:
    async with running_front(NETWORK, BOSS, Grant("other", is_admin=True)) as front:
        request = access_pb2.WatchPairingsRequest()
        watch = front.access.WatchPairings(request, metadata=front.bearer("boss"))
        await watch.read()
        front.trust.tokens.revoke("boss", NOW_S)
        assert (await told_by(watch)).reason == Reason.TOKEN_REVOKED
        another = front.access.WatchPairings(request, metadata=front.bearer("other"))
        assert await another.read() is not grpc.aio.EOF, "its place is free"
        another.cancel()


@pytest.mark.parametrize("door", ["loopback", "unix"])
async def test_on_this_host_too_a_token_that_is_sent_decides(tmp_path: Path, door: str) -> None:
    settings = LOOPBACK if door == "loopback" else over_socket(tmp_path / "e.sock")
    async with running_front(settings, LAPTOP) as front:
        assert await refusal(front, ()) is None
        assert await refusal(front, bearer(NOBODYS)) is Reason.TOKEN_INVALID
        whoami = await front.access.GetIdentity(
            access_pb2.GetIdentityRequest(), metadata=front.bearer("laptop")
        )
        assert (whoami.grant.name, whoami.grant.is_admin) == ("laptop", False)


async def test_a_refused_caller_is_told_before_its_message_has_come() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        method = front.channel.stream_unary("/edged.v1.InferenceService/Generate")
        call = method()
        async with asyncio.timeout(GATE_TIMEOUT_S):
            assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
        assert front.models.submitted.empty()


async def test_health_can_be_checked_without_token_and_the_rest_asks_for_one() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        request = health_pb2.HealthCheckRequest()
        assert (await front.health.Check(request)).status
        for call in (
            front.health.List(health_pb2.HealthListRequest()),
            front.health.Watch(request),
        ):
            assert (await told_by(call)).reason == Reason.TOKEN_MISSING
        allowed = front.health.List(health_pb2.HealthListRequest(), metadata=front.bearer("laptop"))
        assert await allowed.code() == grpc.StatusCode.OK


async def test_reflection_asks_for_a_token_on_the_network() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        reflection = reflection_pb2_grpc.ServerReflectionStub(front.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        refused = reflection.ServerReflectionInfo(iter([request]))
        assert await refused.code() == grpc.StatusCode.UNAUTHENTICATED
        allowed = reflection.ServerReflectionInfo(iter([request]), metadata=front.bearer("laptop"))
        answers = [answer async for answer in allowed]
        assert len(answers[0].list_services_response.service) == 5


# ── The unix socket ──────────────────────────────────────────────────────────────────────────────


async def test_the_owner_is_an_administrator_over_the_socket(tmp_path: Path) -> None:
    async with running_front(over_socket(tmp_path / "e.sock")) as front:
        whoami = await front.access.GetIdentity(access_pb2.GetIdentityRequest())
        assert whoami.grant.is_admin
        assert await front.admin.Drain(admin_pb2.DrainRequest()) is not None


# ── Certificates ─────────────────────────────────────────────────────────────────────────────────


async def call_fails_with(channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str]:
    call = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=GATE_TIMEOUT_S)
    return await call.code(), await call.details() or ""


async def test_plaintext_to_the_tls_port_is_unavailable() -> None:
    async with running_front(NETWORK, LAPTOP) as front, open_channel(front.target) as channel:
        assert (await call_fails_with(channel))[0] == grpc.StatusCode.UNAVAILABLE


async def test_another_certificate_than_the_known_one_is_not_spoken_to(tmp_path: Path) -> None:
    stranger = IdentitySource(tmp_path, "desk").load(NOW_S)
    async with (
        running_front(NETWORK, LAPTOP) as front,
        open_channel(front.target, stranger) as channel,
    ):
        code, details = await call_fails_with(channel)
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in details or "handshake" in details


def handshake(target: str, version: ssl.TLSVersion) -> str | None:
    """The version that TLS is spoken in with a client that knows that one alone."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    host, _, port = target.rpartition(":")
    with context.wrap_socket(socket.create_connection((host, int(port)))) as client:
        return client.version()


async def test_tls_is_1_2_or_1_3() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        for version, spoken in (
            (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
            (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ):
            assert await asyncio.to_thread(handshake, front.target, version) == spoken


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_older_tls_is_not_spoken() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(handshake, front.target, ssl.TLSVersion.TLSv1_1)


# ── The log ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_refusal_is_logged_with_address_reason_and_id_but_no_secret() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        token_id, secret = front.secrets["laptop"].split("_", 2)[1:]
        wrong = f"edged_{token_id}_{'B' * 43}"
        front.trust.tokens.revoke("laptop", NOW_S)
        with capture_logs() as logs:
            await refusal(front, bearer(wrong))
            await refusal(front, front.bearer("laptop"))
            await refusal(front, ())
            await refusal(front, (("authorization", f"Basic {secret}"),))
        lines = [line for line in logs if line["event"] == "caller refused"]
        assert [(line["reason"], line["token_id"]) for line in lines] == [
            ("TOKEN_INVALID", token_id),
            ("TOKEN_REVOKED", token_id),
            ("TOKEN_MISSING", None),
            ("TOKEN_INVALID", None),
        ]
        assert {line["address"] for line in lines} == {"127.0.0.1"}
        assert {line["log_level"] for line in lines} == {"warning"}
        assert secret not in str(logs)
        assert "B" * 43 not in str(logs)


async def test_a_flood_of_refusals_does_not_flood_the_log() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        method = front.channel.unary_unary("/edged.v1.AdminService/GetStatus")
        with capture_logs() as logs:
            for _ in range(3):
                calls = [method(b"") for _ in range(100)]
                codes = {await call.code() for call in calls}
                assert codes == {grpc.StatusCode.UNAUTHENTICATED}
            num_logged = len(logs)
            front.clock.advance(60.0)
            await refusal(front, ())
        assert num_logged == REFUSALS_LOGGED_PER_MINUTE
        assert logs[-1]["unlogged"] == 300 - num_logged


async def test_whoever_must_not_operate_is_logged_too() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        with capture_logs() as logs:
            call = front.admin.Drain(admin_pb2.DrainRequest(), metadata=front.bearer("laptop"))
            told = await told_by(call)
        assert told.code == grpc.StatusCode.PERMISSION_DENIED
        assert told.reason == Reason.ADMIN_ONLY
        assert "'laptop'" in told.detail
        assert [line["reason"] for line in logs] == ["ADMIN_ONLY"]
        assert front.daemon.asked_drains_s == []


# ── Without TLS and tokens ───────────────────────────────────────────────────────────────────────


async def test_an_insecure_front_lets_everybody_use_it_and_nobody_operate() -> None:
    async with running_front(replace(NETWORK, insecure=True)) as front:
        assert front.server.identity is None
        call = front.inference.Generate(text_request(client="app"))
        stream = await front.models.next_stream()
        assert stream.submission.client_id == "app"
        stream.put(finished(stream))
        assert await ended(call) == grpc.StatusCode.OK
        drain = front.admin.Drain(admin_pb2.DrainRequest())
        assert (await told_by(drain)).reason == Reason.ADMIN_ONLY


async def test_an_insecure_front_says_so_again_and_again() -> None:
    settings = replace(NETWORK, insecure=True, insecure_reminder_s=0.01)
    with capture_logs() as logs:
        async with running_front(settings, BOSS) as front, asyncio.timeout(GATE_TIMEOUT_S):
            while len(logs) < 3:
                await front.health.Check(health_pb2.HealthCheckRequest())
            target = front.target
    assert all(target in line["event"] and "insecure" in line["event"] for line in logs[:3])
    assert {line["log_level"] for line in logs[:3]} == {"warning"}
