"""Makes gRPC servers that a call of an unknown method cannot end.

Theory of operation: the loop in which gRPC for Python takes all calls decodes the name of a method
that it does not know (1.85.1, `_server_main_loop`). Bytes that are no UTF-8 end that loop, and with
it the server: one packet of anybody's, and the port is closed and every stream over. So calls of
unknown methods are kept from that loop. They are taken here and answered by gRPC's own code, under
no name, in tasks of their own. The methods that are served have queues of their own and are not
concerned.

It also writes a traceback for each header that is no UTF-8, with the bytes, which may be most of a
token; then it takes them as Latin-1. That is nothing for a log.

This leans on what gRPC keeps to itself. Where that has changed, a usual server is made and told of;
the tests fail then.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from edged.log import get_logger
from edged.rpc.doors.connections import Options

MAX_REFUSALS = 256
"""Calls of unknown methods that are being refused; more wait in gRPC, which has its own limit."""

_OF_CLIENTS = "Invalid encoding on"

_log = get_logger("rpc")


def steady_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Options, max_calls: int
) -> grpc.aio.Server:
    """A server for this event loop."""
    logging.getLogger(cygrpc.__name__).addFilter(_is_no_complaint)
    try:
        return cast(grpc.aio.Server, _Server(tuple(interceptors), options, max_calls))
    except (AttributeError, TypeError) as error:
        _log.error("gRPC is not as expected: a client can end this server", error=str(error))
        return grpc.aio.server(
            interceptors=interceptors, options=options, maximum_concurrent_rpcs=max_calls
        )


def _is_no_complaint(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's is of something else than what a client sent."""
    return not str(record.msg).startswith(_OF_CLIENTS)


class _Server(Server):
    """gRPC's, around another core."""

    def __init__(
        self, interceptors: tuple[grpc.aio.ServerInterceptor, ...], options: Options, max_calls: int
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), interceptors, options, max_calls)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # has no type information
    """Asked for the next call of no registered method, it never has one: see above."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: Any) -> None:
        super().__init__(loop, *rest)
        self._own_loop = loop
        self._nothing = cygrpc._MethodResolver([], {})
        self._refusing: set[asyncio.Task[None]] = set()
        self._may_refuse = asyncio.Semaphore(MAX_REFUSALS)
        # What is leaned on; a name that is gone is noticed here and not with the first call.
        self._parts = (cygrpc._handle_rpc, cygrpc._schedule_rpc_coro, self._request_call)

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        if method is not None:
            found: asyncio.Future[Any] = super()._make_request_call_future(method)
            return found
        return self._own_loop.create_task(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        """Goes on until gRPC has no further call to give, because the server stops."""
        handle, schedule, request_call = self._parts
        while True:
            await self._may_refuse.acquire()
            state = await request_call()
            refusing = handle("", self._nothing, (), state, self._own_loop, False)
            task = self._own_loop.create_task(schedule(refusing, state, self._own_loop, "unknown"))
            self._refusing.add(task)
            task.add_done_callback(self._refused)

    def _refused(self, task: "asyncio.Task[None]") -> None:
        self._refusing.discard(task)
        self._may_refuse.release()
