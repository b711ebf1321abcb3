"""AdminService: looking at the daemon and operating it."""

# ruff: noqa: N802  methods have the names of the service

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import grpc
import psutil

from edged.clock import Clock
from edged.errors import EdgedError, InvalidRequestError, Reason, shown
from edged.rpc.access.caller import Caller, current_caller
from edged.rpc.access.own_requests import OwnRequests
from edged.rpc.access.permits import may_see, tiers_for
from edged.rpc.convert import Tiers
from edged.rpc.convert_admin import (
    DAEMON_STATES,
    request_id_of,
    to_model,
    to_requests,
    to_tier,
)
from edged.rpc.doors.network_limits import NetworkLimits
from edged.rpc.gate import DoorGates
from edged.rpc.view import DaemonView
from edged.rpc.watch import Pause, moments_to_tell
from edged.rpc.writing import WRITE_STALL_S, write_within
from edged.supervise.model import Models, ModelState, ModelStatus
from edged.v1 import admin_pb2 as pb
from edged.v1.admin_pb2_grpc import AdminServiceServicer

DEFAULT_WATCH_INTERVAL_S = 1.0
MIN_WATCH_INTERVAL_S = 0.1
MAX_WATCH_INTERVAL_S = 60.0
LOAD_INTERVAL_S = 0.1
"""Least time between two messages of LoadModel."""
MAX_DRAIN_S = 86400.0
MIN_ID_CHARACTERS = 4
MAX_ID_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class AdminLimits:
    max_watch_calls: int = 64
    """WatchStatus and LoadModel together, at each door of this host."""
    write_stall_s: float = WRITE_STALL_S
    pause: Pause = asyncio.sleep
    """How watchers wait for their interval to pass."""


class AdminFront(AdminServiceServicer):
    """Answers the calls of AdminService. Lives on the daemon's event loop."""

    def __init__(
        self,
        models: Models,
        tiers: Tiers,
        own: OwnRequests,
        view: DaemonView,
        clock: Clock,
        *,
        limits: AdminLimits,
        network: NetworkLimits,
        check_still_in: Callable[[Caller], None],
    ) -> None:
        """`check_still_in` raises TOKEN_REVOKED for a caller whose token holds no more."""
        self._check_still_in = check_still_in
        self._tiers = tiers
        self._models = models
        self._own = own
        self._view = view
        self._clock = clock
        self._limits = limits
        self._watching = DoorGates("watching", limits.max_watch_calls, network.max_watch_calls)
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._process = psutil.Process()

    def replace_tiers(self, tiers: Tiers) -> None:
        self._tiers = tiers

    async def GetStatus(
        self,
        request: pb.GetStatusRequest,
        context: grpc.aio.ServicerContext[pb.GetStatusRequest, pb.GetStatusResponse],
    ) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=self._status())

    async def WatchStatus(  # type: ignore[override]  # the stubs know no handler that writes itself
        self,
        request: pb.WatchStatusRequest,
        context: grpc.aio.ServicerContext[pb.WatchStatusRequest, pb.WatchStatusResponse],
    ) -> None:
        interval_s = _watch_interval_s(request.interval_s)
        moments = moments_to_tell(self._models, self._view.state, interval_s, self._limits.pause)
        with self._watching.entered():
            async with aclosing(moments):
                async for _ in moments:
                    self._check_still_in(current_caller())
                    message = pb.WatchStatusResponse(status=self._status())
                    await write_within(context, message, self._limits.write_stall_s)

    async def ListRequests(
        self,
        request: pb.ListRequestsRequest,
        context: grpc.aio.ServicerContext[pb.ListRequestsRequest, pb.ListRequestsResponse],
    ) -> pb.ListRequestsResponse:
        caller = current_caller()
        rows = tuple(
            row
            for row in await self._models.list_requests()
            if self._own.may_see(request_id_of(row), caller)
        )
        return pb.ListRequestsResponse(requests=to_requests(rows, self._clock.now_s()))

    async def Cancel(
        self,
        request: pb.CancelRequest,
        context: grpc.aio.ServicerContext[pb.CancelRequest, pb.CancelResponse],
    ) -> pb.CancelResponse:
        prefix = request.request_id
        if not MIN_ID_CHARACTERS <= len(prefix) <= MAX_ID_CHARACTERS:
            raise InvalidRequestError(
                "request_id",
                f"is {shown(prefix)}; expected an id or its beginning, {MIN_ID_CHARACTERS} to "
                f"{MAX_ID_CHARACTERS} characters",
            )
        named = self._own.named(prefix, current_caller())
        return pb.CancelResponse(request_id=self._models.cancel(named))

    async def ListModels(
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._visible_models())

    async def LoadModel(  # type: ignore[override]  # the stubs know no handler that writes itself
        self,
        request: pb.LoadModelRequest,
        context: grpc.aio.ServicerContext[pb.LoadModelRequest, pb.LoadModelResponse],
    ) -> None:
        name = _required_model(request.model)
        with self._watching.entered():
            await self._models.load(name)
            moments = moments_to_tell(
                self._models, self._view.state, LOAD_INTERVAL_S, self._limits.pause
            )
            async with aclosing(moments):
                async for _ in moments:
                    model = self._find(name)
                    message = pb.LoadModelResponse(model=to_model(model))
                    await write_within(context, message, self._limits.write_stall_s)
                    if model.state in (ModelState.READY, ModelState.FAILED):
                        return
                    if model.state == ModelState.UNLOADED:
                        raise EdgedError(
                            Reason.MODEL_UNLOADED, f"model {name!r} was unloaded while it loaded"
                        )

    async def UnloadModel(
        self,
        request: pb.UnloadModelRequest,
        context: grpc.aio.ServicerContext[pb.UnloadModelRequest, pb.UnloadModelResponse],
    ) -> pb.UnloadModelResponse:
        name = _required_model(request.model)
        # Once asked for, it goes on without the caller; a second caller waits for the same.
        unloading = self._unloading.get(name)
        if unloading is None:
            unloading = asyncio.ensure_future(self._models.unload(name))
            self._unloading[name] = unloading
            unloading.add_done_callback(lambda _: self._unloading.pop(name))
        await asyncio.shield(unloading)
        return pb.UnloadModelResponse(model=to_model(self._find(name)))

    async def ListTiers(
        self,
        request: pb.ListTiersRequest,
        context: grpc.aio.ServicerContext[pb.ListTiersRequest, pb.ListTiersResponse],
    ) -> pb.ListTiersResponse:
        tiers = tiers_for(current_caller().grant, self._tiers)
        return pb.ListTiersResponse(tiers=[to_tier(spec, tiers) for spec in tiers.specs])

    async def Reload(
        self,
        request: pb.ReloadRequest,
        context: grpc.aio.ServicerContext[pb.ReloadRequest, pb.ReloadResponse],
    ) -> pb.ReloadResponse:
        report = await self._view.reload()
        return pb.ReloadResponse(
            changes=report.changes, waiting=report.waiting, problems=report.problems
        )

    async def Drain(
        self,
        request: pb.DrainRequest,
        context: grpc.aio.ServicerContext[pb.DrainRequest, pb.DrainResponse],
    ) -> pb.DrainResponse:
        drain_s = request.drain_s if request.HasField("drain_s") else None
        if drain_s is not None and not 0 <= drain_s <= MAX_DRAIN_S:
            raise InvalidRequestError(
                "drain_s", f"is {drain_s:g}; expected 0 to {MAX_DRAIN_S:g} seconds"
            )
        num_requests = self._models.num_in_flight
        self._view.request_drain(drain_s)
        return pb.DrainResponse(num_requests=num_requests)

    def _status(self) -> pb.Status:
        caller = current_caller()
        return pb.Status(
            version=self._view.version,
            state=DAEMON_STATES[self._view.state()],
            uptime_s=self._clock.now_s() - self._view.started_s,
            policy=self._view.policy,
            listeners=self._view.listeners_for(caller),
            resident_bytes=self._process.memory_info().rss,
            models=self._visible_models(),
            warnings=self._view.warnings() if caller.grant.is_admin else (),
        )

    def _visible_models(self) -> list[pb.Model]:
        grant = current_caller().grant
        return [to_model(model) for model in self._models.status() if may_see(grant, model.name)]

    def _find(self, name: str) -> ModelStatus:
        found = next((model for model in self._models.status() if model.name == name), None)
        if found is None:
            raise EdgedError(Reason.UNKNOWN_MODEL, f"there is no model {shown(name)}")
        return found


def _watch_interval_s(asked_s: float) -> float:
    """Raises EdgedError: INVALID_ARGUMENT; out of range or not a number."""
    if asked_s == 0:
        return DEFAULT_WATCH_INTERVAL_S
    if not MIN_WATCH_INTERVAL_S <= asked_s <= MAX_WATCH_INTERVAL_S:
        raise InvalidRequestError(
            "interval_s",
            f"is {asked_s:g}; expected 0, or {MIN_WATCH_INTERVAL_S:g} to "
            f"{MAX_WATCH_INTERVAL_S:g} seconds",
        )
    return asked_s


def _required_model(name: str) -> str:
    if not name:
        raise InvalidRequestError("model", "is empty; expected the name of a configured model")
    return name
