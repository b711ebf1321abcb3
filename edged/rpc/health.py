"""grpc.health.v1: which services serve now.

Theory of operation: the servicer that the health-checking package carries answers no List, and
writes to its watchers while it holds the lock that `set` needs, so that one watcher who does not
read would keep the daemon from becoming ready. Here setting a status never waits: watchers are
woken and each reads the latest status by itself.
"""

# ruff: noqa: N802  methods have the names of the service

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from edged.errors import EdgedError, shown
from edged.rpc.writing import WRITE_STALL_S, write_within

MAX_WATCHERS = 64

_Context = grpc.aio.ServicerContext[object, object]


class Health:
    """The status of each named service; "" stands for the whole server. NOT_SERVING at first."""

    def __init__(self, services: Iterable[str], write_stall_s: float = WRITE_STALL_S) -> None:
        """A watcher who does not read for `write_stall_s` is let go."""
        not_serving = pb.HealthCheckResponse.NOT_SERVING
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), not_serving)
        self._changed = asyncio.Event()
        self._is_closed = False
        self._num_watchers = 0
        self._write_stall_s = write_stall_s

    def set_serving(self, serving: bool) -> None:
        """All services are of one daemon, so they serve together."""
        status = pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        if set(self._statuses.values()) == {status} and not self._is_closed:
            return
        self._statuses = dict.fromkeys(self._statuses, status)
        self._wake_watchers()

    def close(self) -> None:
        """NOT_SERVING for good; watchers are told, then their calls end."""
        self._is_closed = True
        self.set_serving(False)

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def Check(
        self, request: pb.HealthCheckRequest, context: _Context
    ) -> pb.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, self._unknown(request.service))
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: pb.HealthListRequest, context: _Context) -> pb.HealthListResponse:
        return pb.HealthListResponse(
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def Watch(self, request: pb.HealthCheckRequest, context: _Context) -> None:
        if self._num_watchers >= MAX_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._num_watchers} calls watch the health, the most this server takes at once",
            )
        self._num_watchers += 1
        try:
            await self._tell_changes(request.service, context)
        except EdgedError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.detail)
        finally:
            self._num_watchers -= 1

    async def _tell_changes(self, service: str, context: _Context) -> None:
        """An unknown service is told as such and watched on, as the protocol asks."""
        told: int | None = None
        while True:
            changed, is_last = self._changed, self._is_closed
            status = self._statuses.get(service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                response = pb.HealthCheckResponse(status=status)
                await write_within(context, response, self._write_stall_s)
                told = status
            if is_last:
                return
            await changed.wait()

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _unknown(self, service: str) -> str:
        return f"there is no service {shown(service)}; expected one of {sorted(self._statuses)}"
