"""Where the server listens, what it refuses to take over, and its limits."""

import asyncio
import socket
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from edged.clock import ManualClock
from edged.errors import ConfigError
from edged.places import MAX_SOCKET_PATH_BYTES
from edged.rpc.doors.connections import ConnectionLimits
from edged.rpc.doors.listeners import find_addresses
from edged.rpc.inference import InferenceLimits
from edged.rpc.server import RpcServer
from edged.rpc.settings import RpcSettings
from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.rpc.fakes import PlayedModels, finished, model_status
from tests.rpc.front import (
    LOOPBACK,
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

ALL_TIERS = (pb.TIER_INTERACTIVE, pb.TIER_STANDARD, pb.TIER_BATCH)


def new_server(settings: RpcSettings, folder: Path) -> RpcServer:
    view, models = Daemon().view(started_s=0.0), PlayedModels(model_status())
    return RpcServer(settings, models, TIERS, view, ManualClock(), trust=trust_in(folder))


async def failure_to_start(settings: RpcSettings) -> str:
    with tempfile.TemporaryDirectory() as folder:
        server = new_server(settings, Path(folder))
        try:
            with pytest.raises(ConfigError) as caught:
                await server.start()
            return caught.value.detail
        finally:
            await server.stop(0)


async def answers(target: str) -> bool:
    async with open_channel(target) as channel:
        request = pb.TokenizeRequest(prompt=pb.Prompt(text="Hi"))
        return list((await InferenceServiceStub(channel).Tokenize(request)).token_ids) == [1, 2, 3]


async def test_port_0_takes_a_free_port_and_tells_it(front: Front) -> None:
    host, _, port = front.target.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert await answers(front.target)


async def test_tcp_and_socket_serve_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    async with running_front(replace(LOOPBACK, socket_path=path)) as front:
        assert len(front.server.listeners) == 2
        assert front.server.listeners[1] == f"unix:{path}"
        for target in front.server.listeners:
            assert await answers(target)


async def test_a_host_name_listens_on_its_addresses() -> None:
    async with running_front(replace(LOOPBACK, listen="localhost:0")) as front:
        ports = {listener.rpartition(":")[2] for listener in front.server.listeners}
        assert len(ports) == 1
        assert await answers(front.server.listeners[0])


async def test_a_taken_port_is_an_error_that_names_it(front: Front) -> None:
    told = await failure_to_start(replace(LOOPBACK, listen=front.target))
    assert front.target in told
    assert "Address already in use" in told
    assert await answers(front.target)


async def test_nobody_can_share_the_port(front: Front) -> None:
    host, _, port = front.target.rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="already in use"):
            other.bind((host, int(port)))


async def test_an_address_of_another_host_is_an_error() -> None:
    told = await failure_to_start(replace(LOOPBACK, listen="192.0.2.1:0", insecure=True))
    assert "192.0.2.1:0" in told
    assert "assign requested address" in told


async def test_an_address_of_a_link_keeps_its_interface() -> None:
    listen = "[fe80::5%lo]:0"
    found = await find_addresses(listen)
    assert found.addresses == ((socket.AF_INET6, "fe80::5%lo"),)
    assert not found.is_loopback
    told = await failure_to_start(replace(LOOPBACK, listen=listen, insecure=True))
    assert "Invalid argument" not in told, "what this host lacks is the address alone"


async def test_a_host_without_address_is_an_error() -> None:
    told = await failure_to_start(replace(LOOPBACK, listen="no-such-host.invalid:7411"))
    assert "no address of 'no-such-host.invalid'" in told


async def test_listening_nowhere_is_an_error() -> None:
    assert "expected at least one" in await failure_to_start(RpcSettings(None, None))


async def test_the_socket_is_for_user_and_group_in_a_directory_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "made" / "e.sock"
    async with running_front(over_socket(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_no_socket_file_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    async with running_front(over_socket(path)):
        assert path.exists()
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with running_front(over_socket(path)) as front:
        assert await answers(front.target)


async def test_the_socket_of_a_daemon_that_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    async with running_front(over_socket(path)) as front:
        told = await failure_to_start(over_socket(path))
        assert f"another process listens on the socket {path}" in told
        assert await answers(front.target)
    assert not path.exists()


async def test_a_listener_too_busy_to_answer_counts_as_alive(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        assert "another process listens" in await failure_to_start(over_socket(path))


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    path.write_text("precious")
    assert "is no socket" in await failure_to_start(over_socket(path))
    assert path.read_text() == "precious"


async def test_a_link_in_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "t.sock", tmp_path / "e.sock"
    link.symlink_to(target)
    assert "is no socket" in await failure_to_start(over_socket(link))
    assert link.is_symlink()


@pytest.mark.parametrize("num_over", [0, 1])
async def test_a_socket_path_has_a_longest_length(tmp_path: Path, num_over: int) -> None:
    directory = tmp_path / "d"
    length = MAX_SOCKET_PATH_BYTES + num_over - len(str(directory)) - 1
    path = directory / ("s" * length)
    if num_over:
        told = await failure_to_start(over_socket(path))
        assert "108 bytes" in told
        assert not directory.exists()
    else:
        async with running_front(over_socket(path)) as front:
            assert await answers(front.target)


async def test_a_directory_that_keeps_the_files_of_each_user_is_taken(tmp_path: Path) -> None:
    directory = tmp_path / "like-tmp"
    directory.mkdir()
    directory.chmod(0o1777)
    if directory.stat().st_uid != 0:
        pytest.skip("needs a directory of root's: run as root")
    async with running_front(over_socket(directory / "e.sock")) as front:
        assert await answers(front.target)


@pytest.mark.parametrize("mode", [0o777, 0o770])
async def test_a_directory_of_which_others_can_replace_the_socket_is_refused(
    tmp_path: Path, mode: int
) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    told = await failure_to_start(over_socket(directory / "e.sock"))
    assert "nobody else may write to" in told


def generate_of(num_bytes: int) -> pb.GenerateRequest:
    """A request of exactly that many bytes on the wire."""
    request = text_request("x" * num_bytes)
    request = text_request("x" * (2 * num_bytes - request.ByteSize()))
    assert request.ByteSize() == num_bytes
    return request


async def test_a_message_one_byte_over_the_limit_is_refused_and_the_server_lives() -> None:
    limit_bytes = 100_000
    async with running_front(replace(LOOPBACK, max_message_bytes=limit_bytes)) as front:
        call = front.inference.Generate(generate_of(limit_bytes + 1))
        told = await told_by(call)
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{limit_bytes + 1} vs. {limit_bytes}" in told.detail
        at_the_limit = front.inference.Generate(generate_of(limit_bytes))
        stream = await front.models.next_stream()
        stream.put(finished(stream))
        assert await ended(at_the_limit) == grpc.StatusCode.OK


async def test_an_answer_over_the_limit_is_refused_and_the_server_lives() -> None:
    async with running_front(replace(LOOPBACK, max_message_bytes=10_000)) as front:
        front.models.token_ids = (7,) * 20_000
        request = pb.TokenizeRequest(prompt=pb.Prompt(text="Hi"))
        told = await told_by(front.inference.Tokenize(request))
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in told.detail
        front.models.token_ids = (1, 2, 3)
        assert await answers(front.target)


async def test_calls_over_the_limit_of_one_connection_wait_at_the_client() -> None:
    async with running_front(
        replace(LOOPBACK, connections=ConnectionLimits(max_streams=1))
    ) as front:
        first = front.inference.Generate(text_request("first"))
        first_stream = await front.models.next_stream()
        second = front.inference.Generate(text_request("second"))
        assert await answers(front.target), "another connection has a limit of its own"
        assert front.models.submitted.empty()
        first_stream.put(finished(first_stream))
        assert await ended(first) == grpc.StatusCode.OK
        second_stream = await front.models.next_stream()
        second_stream.put(finished(second_stream))
        assert await ended(second) == grpc.StatusCode.OK


async def test_calls_of_all_kinds_together_have_a_limit() -> None:
    limits = InferenceLimits(max_generate_calls=1)
    settings = replace(LOOPBACK, inference=limits, max_other_calls=1)
    async with running_front(settings) as front:
        generating = [front.inference.Generate(text_request(tier=tier)) for tier in ALL_TIERS]
        for _ in generating:
            await front.models.next_stream()
        watching = front.admin.WatchStatus(admin_pb2.WatchStatusRequest())
        told = await watching.read()
        assert told.status.models, "every tier is full, and there is room for an operator"
        refused = front.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert await refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in (watching, *generating):
            call.cancel()


async def test_stopping_lets_running_calls_end_and_takes_no_new_ones() -> None:
    async with running_front() as front:
        call = front.inference.Generate(text_request())
        stream = await front.models.next_stream()
        stopping = asyncio.create_task(front.server.stop(grace_s=60))
        stream.put(finished(stream))
        assert await ended(call) == grpc.StatusCode.OK
        await stopping
        assert not stream.cancel_details
        late = front.inference.Generate(text_request())
        assert await ended(late) == grpc.StatusCode.UNAVAILABLE


async def test_a_server_may_be_stopped_twice_and_without_a_start(tmp_path: Path) -> None:
    server = new_server(LOOPBACK, tmp_path)
    await server.stop(0)
    await server.stop(0)
