"""The installed daemon on an address that other hosts can reach: TLS, tokens, and what it logs."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from edged.cli.exits import ExitCode
from edged.core.types import SloTier
from edged.errors import Reason
from edged.node.trust.grant import Grant
from edged.node.trust.identity import IdentitySource
from edged.node.trust.tokens import TOKENS_FILE, TokenStore
from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from edged.v1.admin_pb2_grpc import AdminServiceStub
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.cli.program import Program
from tests.e2e.daemon import (
    CHANNEL_OPTIONS,
    Daemon,
    environment_of,
    serve_arguments,
    serving,
    socket_of,
)
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask, reason_of

EVERYWHERE = ("--listen", "0.0.0.0:0")
"""Comes after the address that the tests' daemons have otherwise, and so in its place."""
NOW_S = 1_780_000_000.0
Metadata = tuple[tuple[str, str], ...]


def state_of(folder: Path) -> Path:
    return folder / ".local" / "state" / "edged"


def store_of(folder: Path) -> TokenStore:
    return TokenStore(state_of(folder) / TOKENS_FILE)


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def port_of(daemon: Daemon) -> int:
    listeners = (await daemon.logged("listening"))["listeners"]
    [tcp] = [one for one in listeners if not one.startswith("unix:")]
    return int(tcp.rpartition(":")[2])


@asynccontextmanager
async def over_tls(daemon: Daemon, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """As a client that knows the daemon's certificate."""
    certificate = (state_of(folder) / "certificate.pem").read_bytes()
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "edged"))
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{await port_of(daemon)}",
        grpc.ssl_channel_credentials(certificate),
        options=options,
    ) as channel:
        yield channel


async def generated(channel: grpc.aio.Channel, metadata: Metadata, **fields: object) -> str:
    """How a request ends: "finished", or the reason why not."""
    request = ask("Hello", max_tokens=4)
    request.MergeFrom(pb.GenerateRequest(**fields))
    call = InferenceServiceStub(channel).Generate(request, metadata=metadata, timeout=WAIT_S)
    try:
        return [event.WhichOneof("event") async for event in call][-1]
    except grpc.aio.AioRpcError as error:
        return reason_of(error)


def edged(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    program = Program("edged", environment_of(folder))
    return program.run(*serve_arguments(folder, sim_tables()), *flags)


async def test_a_request_across_the_network_is_answered_and_others_are_refused(
    tmp_path: Path,
) -> None:
    token, _ = store_of(tmp_path).create(Grant("laptop"), NOW_S)
    night, _ = store_of(tmp_path).create(Grant("night", SloTier.BATCH), NOW_S)
    old, _ = store_of(tmp_path).create(Grant("old"), NOW_S)
    store_of(tmp_path).revoke("old", NOW_S)
    wrong = token[:15] + "W" * 43
    async with serving(tmp_path, sim_tables(), *EVERYWHERE) as daemon:
        await daemon.ready()
        async with over_tls(daemon, tmp_path) as channel:
            assert await generated(channel, bearer(token)) == "finished"
            assert await generated(channel, ()) == Reason.TOKEN_MISSING
            assert await generated(channel, bearer(wrong)) == Reason.TOKEN_INVALID
            assert await generated(channel, bearer(old)) == Reason.TOKEN_REVOKED
            refused = await generated(channel, bearer(night), tier=pb.TIER_STANDARD)
            assert refused == Reason.TIER_NOT_ALLOWED
            drain = AdminServiceStub(channel).Drain(
                admin_pb2.DrainRequest(), metadata=bearer(token)
            )
            assert await drain.code() == grpc.StatusCode.PERMISSION_DENIED
            store_of(tmp_path).revoke("laptop", NOW_S)
            assert await generated(channel, bearer(token)) == Reason.TOKEN_REVOKED
        assert (await daemon.logged("request finished"))["client"] == "token:laptop"
        status = await daemon.status()
        assert list(status.warnings) == []
    log = str(daemon.log)
    for secret in (token, night, old, wrong):
        assert secret.split("_", 2)[2] not in log
    assert {line["reason"] for line in daemon.lines("caller refused")} == {
        "TOKEN_MISSING",
        "TOKEN_INVALID",
        "TOKEN_REVOKED",
        "ADMIN_ONLY",
    }


async def test_plaintext_and_a_changed_certificate_get_nowhere_and_nothing_into_the_log(
    tmp_path: Path,
) -> None:
    store_of(tmp_path).create(Grant("laptop"), NOW_S)
    async with serving(tmp_path, sim_tables(), *EVERYWHERE) as daemon:
        target = f"127.0.0.1:{await port_of(daemon)}"
        other = IdentitySource(tmp_path / "other", "desk").load(NOW_S)
        stranger = grpc.aio.secure_channel(
            target,
            grpc.ssl_channel_credentials(other.certificate_pem),
            options=(*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "edged")),
        )
        plaintext = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        for channel in (stranger, plaintext):
            async with channel:
                status = AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
                assert await status.code() == grpc.StatusCode.UNAVAILABLE
        await daemon.status()
        assert [line for line in daemon.log if line.get("level") != "info"] == []


async def test_the_daemon_keeps_its_certificate(tmp_path: Path) -> None:
    token, _ = store_of(tmp_path).create(Grant("laptop"), NOW_S)
    async with serving(tmp_path, sim_tables(), *EVERYWHERE):
        before = (state_of(tmp_path) / "certificate.pem").read_bytes()
    async with serving(tmp_path, sim_tables(), *EVERYWHERE) as daemon:
        await daemon.ready()
        assert (state_of(tmp_path) / "certificate.pem").read_bytes() == before
        async with over_tls(daemon, tmp_path) as channel:
            assert await generated(channel, bearer(token)) == "finished"


async def test_a_daemon_for_other_hosts_without_token_does_not_start(tmp_path: Path) -> None:
    done = await asyncio.to_thread(edged, tmp_path, *EVERYWHERE)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "Traceback" not in done.stderr
    assert "0.0.0.0:0 (server.listen) can be reached by other hosts" in done.stderr
    command = f"`edgectl token create NAME --file {state_of(tmp_path) / TOKENS_FILE}`"
    assert command in done.stderr
    assert not socket_of(tmp_path).exists()


async def test_an_insecure_daemon_starts_and_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(), *EVERYWHERE, "--insecure") as daemon:
        await daemon.ready()
        [warning] = (await daemon.status()).warnings
        assert "server.insecure is on" in warning
        assert (await daemon.logged(warning))["level"] == "warning"
        shown = await daemon.edgectl("status")
        assert f"warning: {warning}" in shown.stdout
        target = f"127.0.0.1:{await port_of(daemon)}"
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            assert await generated(channel, ()) == "finished"


async def test_a_damaged_file_of_tokens_is_told_at_the_start(tmp_path: Path) -> None:
    store_of(tmp_path).create(Grant("laptop"), NOW_S)
    path = state_of(tmp_path) / TOKENS_FILE
    path.write_text("{")
    done = await asyncio.to_thread(edged, tmp_path, *EVERYWHERE)
    assert done.returncode == ExitCode.CONFIGURATION
    assert f"{path} is no file of tokens" in done.stderr
    assert "Traceback" not in done.stderr
