"""Lets callers in, before anything of their request is read where that is possible.

Theory of operation: a call's metadata comes before its message, and an interceptor sees the one
without the other. A caller that is refused there costs no more than its headers. Only the user at
the other end of the unix socket is known later, when there is a context.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar, cast

import grpc

from edged.errors import EdgedError
from edged.rpc import status
from edged.rpc.access.caller import Caller, Door, acting_as
from edged.rpc.access.guard import Guard, Metadata
from edged.rpc.access.rights import EDGED_PREFIX, Right, right_of

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[bytes, object]
_Behaviour = Callable[[bytes, _Context], Awaitable[object]]


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Of one door. Stands before all other interceptors: what they see was let in."""

    def __init__(self, guard: Guard, door: Door) -> None:
        self._guard = guard
        self._door = door

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
        right = right_of(method, self._door)
        if handler is None or right is Right.OPEN:
            return handler
        metadata = cast(Metadata, handler_call_details.invocation_metadata or ())
        try:
            caller = self._guard.known(self._door, metadata)
            if caller is not None:
                self._guard.check(caller, right, method)
        except EdgedError as error:
            refusing: object = self._refusing(error, method, metadata)
            return cast("grpc.RpcMethodHandler[_Request, _Response]", refusing)
        if not method.startswith(EDGED_PREFIX):
            return handler
        streams = handler.response_streaming
        behaviour = cast(_Behaviour, handler.unary_stream if streams else handler.unary_unary)
        make = (
            grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        )
        known: object = make(
            self._answering_as(caller, behaviour, method, metadata),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
        return cast("grpc.RpcMethodHandler[_Request, _Response]", known)

    def _refusing(self, error: EdgedError, method: str, metadata: Metadata) -> object:
        """A handler that takes a stream is called before a message is read; this reads none."""

        async def refuse(_requests: AsyncIterator[bytes], context: _Context) -> None:
            await self._refuse(error, method, metadata, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _answering_as(
        self, known: Caller | None, behaviour: _Behaviour, method: str, metadata: Metadata
    ) -> _Behaviour:
        async def answer(raw: bytes, context: _Context) -> object:
            caller = known
            if caller is None:
                try:
                    caller = self._guard.by_user(context.peer())
                    self._guard.check(caller, right_of(method, self._door), method)
                except EdgedError as error:
                    await self._refuse(error, method, metadata, context)
                    raise AssertionError("a refusal ends the call") from error
            with acting_as(caller):
                return await behaviour(raw, context)

        return answer

    async def _refuse(
        self, error: EdgedError, method: str, metadata: Metadata, context: _Context
    ) -> None:
        self._guard.note_refusal(error, self._door, method, context.peer(), metadata)
        failure = status.from_edged_error(error)
        try:
            await context.abort(failure.code, failure.detail, failure.trailers)
        except grpc.aio.InternalError as gone:
            raise asyncio.CancelledError(f"the caller of {method} has left") from gone
