"""Health and reflection, as stock clients ask for them."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edged.rpc.health import MAX_WATCHERS, Health
from edged.rpc.server import SERVICES
from tests.rpc.fakes import GATE_TIMEOUT_S
from tests.rpc.front import Front, read_all

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def read_status(call: grpc.aio.UnaryStreamCall) -> int:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return (await call.read()).status


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_a_service_is_checked_by_its_name(front: Front, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await front.health.Check(request)).status == NOT_SERVING
    front.server.set_serving(True)
    assert (await front.health.Check(request)).status == SERVING
    front.server.set_serving(False)
    assert (await front.health.Check(request)).status == NOT_SERVING


async def test_the_health_of_an_unknown_service_is_not_found(front: Front) -> None:
    call = front.health.Check(health_pb2.HealthCheckRequest(service="edged.v1.Nope"))
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    assert "edged.v1.Nope" in (await call.details() or "")


async def test_a_long_name_is_told_cut(front: Front) -> None:
    call = front.health.Check(health_pb2.HealthCheckRequest(service="\x01" * 60_000))
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    details = await call.details() or ""
    assert details.startswith("there is no service '" + "\\x01" * 40 + "'… (60000 characters)")


async def test_health_lists_every_service(front: Front) -> None:
    front.server.set_serving(True)
    answer = await front.health.List(health_pb2.HealthListRequest())
    assert {name: one.status for name, one in answer.statuses.items()} == dict.fromkeys(
        ("", *SERVICES), SERVING
    )


async def test_a_watcher_of_health_sees_each_transition(front: Front) -> None:
    call = front.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
    assert await read_status(call) == NOT_SERVING
    front.server.set_serving(True)
    assert await read_status(call) == SERVING
    front.server.set_serving(True)
    # A call that is answered later than the watcher was woken.
    await front.health.Check(health_pb2.HealthCheckRequest())
    front.server.set_serving(False)
    assert await read_status(call) == NOT_SERVING, "an unchanged status was told again"


async def test_an_unknown_service_is_watched_as_unknown(front: Front) -> None:
    call = front.health.Watch(health_pb2.HealthCheckRequest(service="edged.v1.Nope"))
    assert await read_status(call) == SERVICE_UNKNOWN


async def test_watchers_of_health_are_told_and_let_go_when_the_server_stops(front: Front) -> None:
    front.server.set_serving(True)
    call = front.health.Watch(health_pb2.HealthCheckRequest())
    assert await read_status(call) == SERVING
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await front.server.stop(grace_s=10 * GATE_TIMEOUT_S)
    assert [one.status for one in await read_all(call)] == [NOT_SERVING]
    assert await call.code() == grpc.StatusCode.OK


async def test_one_watcher_of_health_over_the_limit_is_refused(front: Front) -> None:
    calls = [front.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(MAX_WATCHERS)]
    assert {await read_status(call) for call in calls} == {NOT_SERVING}
    refused = front.health.Watch(health_pb2.HealthCheckRequest())
    assert await read_all(refused) == []
    assert await refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


class _StuckContext:
    """Of a call whose client reads nothing."""

    def __init__(self) -> None:
        self.ended: tuple[grpc.StatusCode, str] | None = None

    async def write(self, message: object) -> None:
        await asyncio.get_running_loop().create_future()

    async def abort(self, code: grpc.StatusCode, detail: str) -> None:
        self.ended = (code, detail)


async def test_a_watcher_of_health_who_does_not_read_is_let_go() -> None:
    context = _StuckContext()
    health = Health((), write_stall_s=0.01)
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await health.Watch(health_pb2.HealthCheckRequest(), context)  # type: ignore[arg-type]
    assert context.ended is not None
    assert context.ended[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "has not read from the stream for 0.01 s" in context.ended[1]


async def test_reflection_lists_every_service(front: Front) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(front.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    assert {one.name for one in answer.list_services_response.service} == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]))
    answer = await call.read()
    assert b"GenerateRequest" in answer.file_descriptor_response.file_descriptor_proto[0]
    await call.done_writing()
