"""The one place where an error of a handler becomes the status of its call.

Theory of operation: every method of `edged.v1` is wrapped as it is looked up, so none can forget.
The wrapper also parses the request, because gRPC answers bytes that are no message with UNKNOWN
and the name of a Python exception.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from edged.errors import EdgedError, Reason
from edged.rpc import status
from edged.rpc.access.rights import EDGED_PREFIX

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[bytes, object]
_Behaviour = Callable[[object, _Context], Awaitable[object]]
_Wrapped = Callable[[bytes, _Context], Awaitable[object]]


class ErrorsBecomeStatus(grpc.aio.ServerInterceptor):
    """Ends calls whose handler raised with the status of the error."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            "Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]",
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[_Request, _Response] | None":
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(EDGED_PREFIX):
            return handler
        assert not handler.request_streaming, f"{method}: requests of edged.v1 are not streamed"
        streams = handler.response_streaming
        behaviour = cast(_Behaviour, handler.unary_stream if streams else handler.unary_unary)
        parse = cast(Callable[[bytes], object], handler.request_deserializer)
        make = (
            grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        )
        wrapped: object = make(
            _wrap(method, behaviour, parse),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
        return cast("grpc.RpcMethodHandler[_Request, _Response]", wrapped)


def _wrap(method: str, behaviour: _Behaviour, parse: Callable[[bytes], object]) -> _Wrapped:
    async def answer(raw: bytes, context: _Context) -> object:
        try:
            return await answer_or_abort(raw, context)
        except grpc.aio.InternalError as error:
            # gRPC could not send: the client has left, or a message was larger than may be sent.
            # Either way the call has its status already, and this is the quiet way out.
            raise asyncio.CancelledError(f"{method} ended under its handler") from error

    async def answer_or_abort(raw: bytes, context: _Context) -> object:
        try:
            return await behaviour(_parsed(raw, parse), context)
        except grpc.aio.InternalError:
            raise
        except EdgedError as error:
            failure = status.from_edged_error(error)
        except Exception as error:
            failure = status.from_unexpected(error, method)
        return await context.abort(failure.code, failure.detail, failure.trailers)

    return answer


def _parsed(raw: bytes, parse: Callable[[bytes], object]) -> object:
    try:
        return parse(raw)
    except DecodeError as error:
        raise EdgedError(
            Reason.INVALID_ARGUMENT,
            f"{len(raw)} bytes that are no request of this method: {error}",
        ) from error
