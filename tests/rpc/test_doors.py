"""The doors: which address is of which, what the network's takes at most, and their reload."""

import asyncio
import shlex
import socket
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from edged.clock import ManualClock
from edged.core.types import SloTier
from edged.errors import ConfigError, Reason
from edged.node.trust.grant import Grant
from edged.node.trust.identity import IdentitySource
from edged.rpc.access.trust import Trust
from edged.rpc.doors.network_limits import NetworkLimits
from edged.rpc.inference import InferenceLimits
from edged.rpc.server import RpcServer
from edged.rpc.settings import RpcSettings
from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from edged.v1.admin_pb2_grpc import AdminServiceStub
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.rpc.fakes import GATE_TIMEOUT_S, PlayedModels, finished, model_status
from tests.rpc.front import (
    LOOPBACK,
    NETWORK,
    NOW_S,
    TIERS,
    Daemon,
    Front,
    ended,
    open_channel,
    over_socket,
    running_front,
    text_request,
    told_by,
    trust_in,
)

LAPTOP, BOSS = Grant("laptop"), Grant("boss", is_admin=True)
CHECK = health_pb2.HealthCheckRequest()


def limited(**limits: float) -> RpcSettings:
    return replace(NETWORK, network=replace(NetworkLimits(), **limits))


async def failure_to_start(settings: RpcSettings, trust: Trust) -> str:
    view, models = Daemon().view(started_s=0.0), PlayedModels(model_status())
    server = RpcServer(settings, models, TIERS, view, ManualClock(), trust=trust)
    try:
        with pytest.raises(ConfigError) as caught:
            await server.start()
        assert server.listeners == ()
        return caught.value.detail
    finally:
        await server.stop(0)


async def dial(front: Front) -> socket.socket:
    """A connection on which nothing is said."""
    host, _, port = front.target.rpartition(":")
    end = socket.socket()
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, (host, int(port)))
    return end


async def received(end: socket.socket) -> bytes:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return await asyncio.get_running_loop().sock_recv(end, 65536)


async def code_of(call: grpc.aio.Call | Awaitable[object]) -> grpc.StatusCode:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return await call.code()


# ── Where each address leads ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
async def test_every_address_of_the_host_is_the_networks(listen: str) -> None:
    if listen.startswith("[") and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6: enable it on this host")
    settings = RpcSettings(listen=listen, socket_path=None)
    async with running_front(settings, LAPTOP) as front:
        assert front.server.network_listeners == front.server.listeners
        port = front.target.rpartition(":")[2]
        identity = front.server.identity
        async with open_channel(f"127.0.0.1:{port}", identity) as channel:
            refused = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            assert (await told_by(refused)).reason == Reason.TOKEN_MISSING
        async with open_channel(f"127.0.0.1:{port}") as channel:
            plaintext = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            assert await code_of(plaintext) == grpc.StatusCode.UNAVAILABLE


async def test_several_addresses_each_lead_to_their_door(tmp_path: Path) -> None:
    settings = RpcSettings(
        listen="127.0.0.1:0, 127.0.0.2:0",
        network_listen="127.0.0.1:0",
        socket_path=tmp_path / "e.sock",
    )
    async with running_front(settings, LAPTOP) as front:
        first, second, network, unix = front.server.listeners
        assert front.server.network_listeners == (network,)
        for target in (first, second, unix):
            async with front.open(target) as channel:
                status = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
                assert await code_of(status) == grpc.StatusCode.OK
        async with front.open(network) as channel:
            refused = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            assert await code_of(refused) == grpc.StatusCode.UNAUTHENTICATED
            status = AdminServiceStub(channel).GetStatus(
                admin_pb2.GetStatusRequest(), metadata=front.bearer("laptop")
            )
            listeners = (await status).status.listeners
            assert not [one for one in listeners if one.startswith("unix:")]


async def test_a_socket_may_have_any_name(tmp_path: Path) -> None:
    path, plain = tmp_path / "a%41 b#?.sock", tmp_path / "plain.sock"
    async with running_front(over_socket(path)):
        plain.symlink_to(path)
        async with open_channel(f"unix:{plain}") as channel:
            status = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
            assert await code_of(status) == grpc.StatusCode.OK


# ── What is refused at the start ─────────────────────────────────────────────────────────────────


async def test_the_command_that_makes_a_token_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "my state"
    told = await failure_to_start(
        RpcSettings(listen="0.0.0.0:7411", socket_path=None), trust_in(folder)
    )
    command = told.partition("`")[2].partition("`")[0]
    assert shlex.split(command)[-1] == str(folder / "tokens.json")


@pytest.mark.parametrize("has_revoked", [False, True])
async def test_other_hosts_are_not_listened_to_without_a_token(
    tmp_path: Path, has_revoked: bool
) -> None:
    trust = trust_in(tmp_path)
    if has_revoked:
        trust.tokens.create(LAPTOP, NOW_S)
        trust.tokens.revoke("laptop", NOW_S)
    path = tmp_path / "e.sock"
    settings = RpcSettings(listen="127.0.0.1:0,0.0.0.0:7411", socket_path=path)
    told = await failure_to_start(settings, trust)
    assert "0.0.0.0:7411 (server.listen)" in told
    assert f"`edgectl token create NAME --file {tmp_path / 'tokens.json'}`" in told
    assert "--insecure" in told
    assert not path.exists(), "nothing listens"
    assert not (tmp_path / "key.pem").exists()


async def test_a_certificate_that_cannot_be_used_is_told_before_anything_listens(
    tmp_path: Path,
) -> None:
    trust = trust_in(tmp_path)
    trust.tokens.create(LAPTOP, NOW_S)
    (tmp_path / "certificate.pem").write_text("nonsense")
    path = tmp_path / "e.sock"
    told = await failure_to_start(replace(NETWORK, socket_path=path), trust)
    assert str(tmp_path / "certificate.pem") in told
    assert not path.exists()


async def test_a_front_of_this_host_alone_makes_no_certificate() -> None:
    async with running_front(LOOPBACK) as front:
        assert front.server.identity is None
        assert not (front.trust.tokens.path.parent / "key.pem").exists()


# ── What the network's door takes ────────────────────────────────────────────────────────────────


async def test_one_connection_too_many_is_closed_and_others_go_on() -> None:
    async with running_front(limited(max_connections=2), LAPTOP) as front:
        await front.health.Check(CHECK)
        async with front.open() as second, front.open() as third:
            checks = [
                channel.unary_unary("/grpc.health.v1.Health/Check") for channel in (second, third)
            ]
            assert await code_of(checks[0](b"")) == grpc.StatusCode.OK
            assert await code_of(checks[1](b"")) == grpc.StatusCode.UNAVAILABLE
            await front.health.Check(CHECK)
            await second.close()
            async with asyncio.timeout(GATE_TIMEOUT_S):
                while await checks[1](b"").code() != grpc.StatusCode.OK:
                    pass


async def test_a_flood_of_connections_leaves_this_host_alone(tmp_path: Path) -> None:
    settings = replace(limited(max_connections=1), listen="127.0.0.1:0", socket_path=tmp_path / "s")
    async with running_front(settings, LAPTOP) as front:
        loopback, network, unix = front.server.listeners
        ends = [await dial(replace(front, target=network)) for _ in range(20)]
        for target in (loopback, unix):
            async with front.open(target) as channel:
                status = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
                assert await code_of(status) == grpc.StatusCode.OK
        for end in ends:
            end.close()


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with running_front(limited(handshake_timeout_s=0.2), LAPTOP) as front:
        end = await dial(front)
        assert await received(end) == b""
        end.close()


async def test_a_connection_without_calls_is_closed_and_made_again() -> None:
    async with running_front(limited(max_idle_s=0.2), LAPTOP) as front:
        await front.health.Check(CHECK)
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while front.channel.get_state() is grpc.ChannelConnectivity.READY:
                await front.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await front.health.Check(CHECK)


async def test_metadata_has_a_most(front: Front) -> None:
    async with running_front(limited(max_metadata_bytes=2048), LAPTOP) as network:
        check = network.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await code_of(check(b"", metadata=(("x", "y" * 1024),))) == grpc.StatusCode.OK
        refused = check(b"", metadata=(("x", "y" * 4096),))
        assert await code_of(refused) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code_of(check(b"")) == grpc.StatusCode.OK


async def test_the_calls_of_the_network_leave_this_hosts_places_alone(tmp_path: Path) -> None:
    settings = replace(
        limited(max_generate_calls=1, max_tokenize_calls=1, max_watch_calls=1),
        listen="127.0.0.1:0",
        inference=InferenceLimits(max_generate_calls=1, max_tokenize_calls=1),
    )
    async with running_front(settings, LAPTOP) as front:
        _loopback, network = front.server.listeners
        async with front.open(network) as channel:
            stub, metadata = InferenceServiceStub(channel), front.bearer("laptop")
            first = stub.Generate(text_request(), metadata=metadata)
            await front.models.next_stream()
            told = await told_by(stub.Generate(text_request(), metadata=metadata))
            assert told.reason == Reason.QUEUE_FULL
            watch = AdminServiceStub(channel).WatchStatus(
                admin_pb2.WatchStatusRequest(), metadata=metadata
            )
            await watch.read()
            local = front.inference.Generate(text_request())
            stream = await front.models.next_stream()
            stream.put(finished(stream))
            assert await ended(local) == grpc.StatusCode.OK
            local_watch = front.admin.WatchStatus(admin_pb2.WatchStatusRequest())
            assert (await local_watch.read()).status.models
            for call in (first, watch, local_watch):
                call.cancel()


async def test_all_calls_of_the_network_together_have_a_most() -> None:
    settings = limited(max_generate_calls=1, max_other_calls=1)
    async with running_front(settings, LAPTOP) as front:
        metadata = front.bearer("laptop")
        calls = [
            front.inference.Generate(text_request(tier=tier), metadata=metadata)
            for tier in (pb.TIER_INTERACTIVE, pb.TIER_STANDARD, pb.TIER_BATCH)
        ]
        for _ in calls:
            await front.models.next_stream()
        watch = front.admin.WatchStatus(admin_pb2.WatchStatusRequest(), metadata=metadata)
        await watch.read()
        refused = front.health.Check(CHECK)
        assert await code_of(refused) == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in (watch, *calls):
            call.cancel()


# ── Reload ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_reload_takes_another_certificate_and_streams_go_on(tmp_path: Path) -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        state = front.trust.tokens.path.parent
        before = front.server.identity
        call = front.inference.Generate(text_request(), metadata=front.bearer("laptop"))
        stream = await front.models.next_stream()
        new = IdentitySource(tmp_path, "desk").load(NOW_S)
        (state / "key.pem").write_bytes(new.key_pem)
        (state / "certificate.pem").write_bytes(new.certificate_pem)
        assert front.server.reload_trust() == (f"the certificate is another: {new.fingerprint}",)
        assert front.server.identity == new
        assert front.server.reload_trust() == ()
        async with front.open() as channel, open_channel(front.target, before) as stale:
            for one, code in ((channel, grpc.StatusCode.OK), (stale, grpc.StatusCode.UNAVAILABLE)):
                check = one.unary_unary("/grpc.health.v1.Health/Check")
                assert await code_of(check(b"")) == code
        stream.put(finished(stream))
        assert await ended(call) == grpc.StatusCode.OK


async def test_a_reload_that_fails_changes_nothing() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        before = front.server.identity
        (front.trust.tokens.path.parent / "key.pem").write_text("nonsense")
        with pytest.raises(ConfigError, match=r"key\.pem"):
            front.server.reload_trust()
        assert front.server.identity == before


async def test_other_tiers_hold_from_now_on(front: Front) -> None:
    front.server.replace_tiers(replace(TIERS, default=SloTier.BATCH))
    listed = await front.admin.ListTiers(admin_pb2.ListTiersRequest())
    assert [one.tier for one in listed.tiers if one.is_default] == [pb.TIER_BATCH]
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    assert stream.submission.service.tier is SloTier.BATCH
    call.cancel()


# ── What an operator is warned of ────────────────────────────────────────────────────────────────


async def test_administrators_see_the_warnings_in_the_status() -> None:
    async with running_front(replace(NETWORK, insecure=True), LAPTOP, BOSS) as front:
        front.daemon.warnings = front.server.warnings
        for name, num_warnings in (("boss", 1), ("laptop", 0)):
            answer = await front.admin.GetStatus(
                admin_pb2.GetStatusRequest(), metadata=front.bearer(name)
            )
            assert len(answer.status.warnings) == num_warnings
        assert front.target in front.server.warnings[0]


async def test_a_certificate_that_is_not_valid_is_warned_of() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        assert front.server.warnings == ()
        state = front.trust.tokens.path.parent
        for name in ("key.pem", "certificate.pem"):
            (state / name).unlink()
        IdentitySource(state, "desk").load(0.0)  # of a host whose clock was at its beginning
        front.server.reload_trust()
        [warning] = front.server.warnings
        assert "expired on 1989-12-27" in warning
