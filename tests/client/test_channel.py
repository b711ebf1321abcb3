"""What gRPC is told of an address: any socket's path, and any interface's name."""

from pathlib import Path

import pytest

from edged.client.connect.channel import open_aio_channel, open_channel
from edged.client.connect.target import Plaintext, Target
from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.servers import VERSION, WAIT_S, grpc_server

REQUEST = admin_pb2.GetStatusRequest()


def at(address: str) -> Target:
    return Target("box", address, Plaintext())


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41b", "a%b", "a b", "ä", "a\udcffb"])
async def test_a_socket_may_have_any_name(tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain"
    with grpc_server(None, unix=plain):
        (tmp_path / name).symlink_to(plain)
        target = at(f"unix:{tmp_path / name}")
        with open_channel(target) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            assert stub.GetStatus(REQUEST, timeout=WAIT_S).status.version == VERSION
        async with open_aio_channel(target) as aio:
            answer = await admin_pb2_grpc.AdminServiceStub(aio).GetStatus(REQUEST, timeout=WAIT_S)
            assert answer.status.version == VERSION
