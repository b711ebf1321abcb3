"""The table of who may call what is complete, and every method is held to it at every door."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from edged.errors import Reason
from edged.node.trust.grant import Grant
from edged.rpc.access.caller import Door
from edged.rpc.access.rights import RIGHTS, Right, right_of
from edged.v1 import access_pb2, admin_pb2, inference_pb2
from tests.rpc.fakes import GATE_TIMEOUT_S
from tests.rpc.front import LOOPBACK, NETWORK, Front, Metadata, running_front, told_by

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for protocol in (inference_pb2, admin_pb2, access_pb2)
    for service in protocol.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
ACCESS_REASONS = {
    Reason.TOKEN_MISSING,
    Reason.TOKEN_INVALID,
    Reason.TOKEN_REVOKED,
    Reason.ADMIN_ONLY,
}
LAPTOP, BOSS = Grant("laptop"), Grant("boss", is_admin=True)
CLOSED = sorted(method for method, right in RIGHTS.items() if right is not Right.OPEN)
FOR_ADMINISTRATORS = sorted(method for method, right in RIGHTS.items() if right is Right.ADMIN)


async def reason_of(front: Front, name: str, metadata: Metadata = ()) -> str | None:
    """Why a call of that method, with an empty request, is not let in; None if it is."""
    method = METHODS[name]
    channel = front.channel
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        name,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )(GetMessageClass(method.input_type)(), metadata=metadata)
    if method.server_streaming and await first_message(call):
        call.cancel()
        return None
    told = await told_by(call)
    return told.reason if told.reason in ACCESS_REASONS else None


async def first_message(call: grpc.aio.UnaryStreamCall) -> bool:
    """Whether there is one."""
    try:
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return await call.read() is not grpc.aio.EOF
    except grpc.aio.AioRpcError:
        return False


def test_the_table_has_every_method_and_no_other() -> None:
    assert set(RIGHTS) == set(METHODS)


def test_a_method_that_the_table_lacks_is_closed() -> None:
    for door in Door:
        assert right_of("/edged.v1.NewService/Do", door) is Right.ADMIN


def test_health_and_reflection_are_open_on_this_host_and_the_check_everywhere() -> None:
    for method in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.Any/Thing"):
        assert right_of(method, Door.UNIX) is Right.OPEN
        assert right_of(method, Door.LOOPBACK) is Right.OPEN
        assert right_of(method, Door.NETWORK) is Right.USE
    assert right_of("/grpc.health.v1.Health/Check", Door.NETWORK) is Right.OPEN


async def test_without_a_token_the_network_gets_nothing_of_edged_but_pairing() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        for method, right in RIGHTS.items():
            expected = None if right is Right.OPEN else Reason.TOKEN_MISSING
            assert await reason_of(front, method) == expected, method


async def test_who_is_no_administrator_operates_nothing() -> None:
    async with running_front(NETWORK, LAPTOP) as front:
        for method in CLOSED:
            expected = Reason.ADMIN_ONLY if method in FOR_ADMINISTRATORS else None
            assert await reason_of(front, method, front.bearer("laptop")) == expected, method


async def test_an_administrator_may_call_everything() -> None:
    async with running_front(NETWORK, BOSS) as front:
        for method in RIGHTS:
            assert await reason_of(front, method, front.bearer("boss")) is None, method


@pytest.mark.parametrize(
    ("access", "use", "administer"),
    [
        ("use", None, Reason.ADMIN_ONLY),
        ("admin", None, None),
        ("token", Reason.TOKEN_MISSING, Reason.TOKEN_MISSING),
    ],
)
async def test_loopback_callers_may_do_what_the_setting_says(
    access: Any, use: Reason | None, administer: Reason | None
) -> None:
    async with running_front(replace(LOOPBACK, loopback_access=access)) as front:
        for method in CLOSED:
            expected = administer if method in FOR_ADMINISTRATORS else use
            assert await reason_of(front, method) == expected, method
