"""What becomes of a handler whose call has ended under it, without a server."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from edged.errors import EdgedError, Reason
from edged.rpc.interceptor import ErrorsBecomeStatus


class Lookup:
    """The details gRPC hands to an interceptor."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


async def broken_write(_request: object, _context: object) -> None:
    """Fails as a write to a client that has left fails."""
    raise grpc.aio.InternalError("the batch could not be executed")


async def refused(_request: object, _context: object) -> None:
    raise EdgedError(Reason.QUEUE_FULL, "no room")


class LeftContext:
    """Of a call whose client has left."""

    async def abort(self, *_arguments: object) -> None:
        raise grpc.aio.InternalError("the batch could not be executed")


async def found(
    method: str, behaviour: Callable[..., object] = broken_write
) -> grpc.RpcMethodHandler:
    handler = grpc.unary_stream_rpc_method_handler(behaviour, request_deserializer=bytes.decode)

    async def continuation(_details: object) -> grpc.RpcMethodHandler:
        return handler

    wrapped = await ErrorsBecomeStatus().intercept_service(continuation, Lookup(method))
    assert wrapped is not None
    return wrapped


async def test_a_write_to_a_client_that_has_left_ends_the_handler_quietly() -> None:
    handler = await found("/edged.v1.InferenceService/Generate")
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(b"request", None)


async def test_an_error_for_a_client_that_has_left_ends_the_handler_quietly() -> None:
    handler = await found("/edged.v1.InferenceService/Generate", refused)
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(b"request", LeftContext())


async def test_services_of_others_are_left_as_they_are() -> None:
    handler = await found("/grpc.health.v1.Health/Watch")
    assert handler.unary_stream is broken_write
