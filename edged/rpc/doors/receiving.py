"""Reads the request of every call, in the place of gRPC: within limits, and only once it is wanted.

Theory of operation: gRPC for Python reads the message of a unary request before it calls a handler,
for as long as that takes. A handler of a stream is called at once and reads by itself. So every
method is served as one of a stream, from which one message is read. This stands before all other
interceptors: a call that one of them refuses is a stream already, and its message is never read.
"""

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from edged.errors import EdgedError, Reason
from edged.rpc import status
from edged.rpc.doors.arrivals import ArrivalLimits, Arrivals
from edged.rpc.gate import CallGate

REFLECTION_PREFIX = "/grpc.reflection."
"""Of the one service with streams of requests."""
MAX_REFLECTION_CALLS = 16
"""They stay open for as long as their clients like."""
PROMPTS_PREFIX = "/edged.v1.InferenceService/"
"""Of the one service whose requests have prompts, and may have as many bytes as a message may."""
MAX_SMALL_BYTES = 64 * 1024
"""Of every other request, which anybody may be able to send."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[bytes, object]
_Requests = AsyncIterator[bytes]
_Behaviour = Callable[[object, _Context], Awaitable[object]]
_Parse = Callable[[bytes], object]
_OfStream = Callable[[AsyncIterator[object], _Context], AsyncIterable[object]]
_Answer = Callable[[_Requests, _Context], Awaitable[object]]


class RequestsAreReadHere(grpc.aio.ServerInterceptor):
    """Of one server."""

    def __init__(self, limits: ArrivalLimits) -> None:
        self._arrivals = Arrivals(limits)
        self._reflecting = CallGate("reflection", MAX_REFLECTION_CALLS)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            "Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]",
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[_Request, _Response] | None":
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        parse = cast(_Parse | None, handler.request_deserializer)
        if handler.request_streaming:
            if inspect.iscoroutinefunction(handler.stream_stream):
                return handler  # it refuses the call, and reads nothing
            assert method.startswith(REFLECTION_PREFIX), f"{method} reads by itself"
            of_stream = cast(_OfStream, handler.stream_stream)
            answer = _ending_well(self._gated(of_stream, _within(MAX_SMALL_BYTES, parse)))
            make = grpc.stream_stream_rpc_method_handler
        else:
            if not method.startswith(PROMPTS_PREFIX):
                parse = _within(MAX_SMALL_BYTES, parse)
            streams = handler.response_streaming
            behaviour = cast(_Behaviour, handler.unary_stream if streams else handler.unary_unary)
            answer = _ending_well(self._reading(behaviour, parse))
            make = (
                grpc.stream_stream_rpc_method_handler
                if streams
                else grpc.stream_unary_rpc_method_handler
            )
        wrapped: object = make(
            answer, request_deserializer=None, response_serializer=handler.response_serializer
        )
        return cast("grpc.RpcMethodHandler[_Request, _Response]", wrapped)

    def _reading(self, behaviour: _Behaviour, parse: _Parse | None) -> _Answer:
        async def read_and_answer(_: _Requests, context: _Context) -> object:
            async with self._arrivals.place(context.peer()):
                raw = await context.read()
            if not isinstance(raw, bytes):
                raise EdgedError(
                    Reason.INVALID_ARGUMENT, "the call has no request; expected one message"
                )
            return await behaviour(raw if parse is None else parse(raw), context)

        return read_and_answer

    def _gated(self, of_stream: _OfStream, parse: _Parse) -> _Answer:
        async def answer_in_turn(requests: _Requests, context: _Context) -> None:
            with self._reflecting.entered():
                parsed = (parse(raw) async for raw in requests)
                async for message in of_stream(parsed, context):
                    await context.write(message)

        return answer_in_turn


def _within(max_bytes: int, parse: _Parse | None) -> _Parse:
    """`parse`, of so many bytes at most."""

    def parse_small(raw: bytes) -> object:
        if len(raw) > max_bytes:
            raise EdgedError(
                Reason.INVALID_ARGUMENT,
                f"the request has {len(raw)} bytes; expected at most {max_bytes} for this method",
            )
        return raw if parse is None else parse(raw)

    return parse_small


def _ending_well(answer: _Answer) -> _Answer:
    """What goes wrong before a handler of edged.v1 has the request, and in the other services."""

    async def end(requests: _Requests, context: _Context) -> object:
        try:
            return await answer(requests, context)
        except EdgedError as error:
            failure = status.from_edged_error(error)
        except DecodeError as error:
            told = EdgedError(
                Reason.INVALID_ARGUMENT, f"bytes that are no request of this method: {error}"
            )
            failure = status.from_edged_error(told)
        except grpc.aio.InternalError as error:
            raise asyncio.CancelledError("the call ended under its handler") from error
        try:
            return await context.abort(failure.code, failure.detail, failure.trailers)
        except grpc.aio.InternalError as error:
            raise asyncio.CancelledError("the call ended under its handler") from error

    return end
