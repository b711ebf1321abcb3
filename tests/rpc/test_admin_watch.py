"""AdminService's streams: WatchStatus and LoadModel, at the pace the test sets."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from edged.errors import Reason
from edged.rpc.admin import AdminLimits
from edged.rpc.view import DaemonState
from edged.supervise.model import ModelState
from edged.v1 import admin_pb2 as pb
from tests.rpc.fakes import GATE_TIMEOUT_S
from tests.rpc.front import LOOPBACK, Front, ended, read_all, running_front, told_by


class GatedPause:
    """Stands for waiting: a pause lasts until the test ends it."""

    def __init__(self) -> None:
        self.asked_s: asyncio.Queue[float] = asyncio.Queue()
        self._may_go_on = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked_s.put_nowait(seconds)
        await self._may_go_on.acquire()

    async def begun_s(self) -> float:
        """Wait until somebody pauses; how long for."""
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return await self.asked_s.get()

    def end_one(self) -> None:
        self._may_go_on.release()


@asynccontextmanager
async def paced_front(max_watch_calls: int = 64) -> AsyncIterator[tuple[Front, GatedPause]]:
    pause = GatedPause()
    limits = AdminLimits(max_watch_calls=max_watch_calls, pause=pause)
    async with running_front(replace(LOOPBACK, admin=limits)) as front:
        yield front, pause


async def read(call: grpc.aio.UnaryStreamCall) -> pb.WatchStatusResponse:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return await call.read()


async def test_a_watcher_is_told_at_once_and_after_a_change() -> None:
    async with paced_front() as (front, pause):
        call = front.admin.WatchStatus(pb.WatchStatusRequest())
        assert (await read(call)).status.models[0].state == pb.MODEL_STATE_READY
        assert await pause.begun_s() == 1.0
        pause.end_one()
        front.models.set_status("tiny", state=ModelState.RESTARTING)
        assert (await read(call)).status.models[0].state == pb.MODEL_STATE_RESTARTING


async def test_a_watcher_is_told_once_per_interval_however_much_changes() -> None:
    async with paced_front() as (front, pause):
        call = front.admin.WatchStatus(pb.WatchStatusRequest(interval_s=60))
        await read(call)
        assert await pause.begun_s() == 60.0
        for losses in range(1, 101):
            front.models.set_status("tiny", num_engine_losses=losses)
        pause.end_one()
        assert (await read(call)).status.models[0].num_engine_losses == 100
        await pause.begun_s()
        front.models.set_status("tiny", num_engine_losses=200)
        pause.end_one()
        assert (await read(call)).status.models[0].num_engine_losses == 200, "a message too many"


async def test_a_change_of_the_daemon_alone_is_told(front: Front) -> None:
    call = front.admin.WatchStatus(pb.WatchStatusRequest(interval_s=0.1))
    assert (await read(call)).status.state == pb.DAEMON_STATE_READY
    front.daemon.state = DaemonState.DRAINING
    assert (await read(call)).status.state == pb.DAEMON_STATE_DRAINING


@pytest.mark.parametrize("interval_s", [0.1, 60])
async def test_an_interval_at_its_limits_is_taken(interval_s: float) -> None:
    async with paced_front() as (front, pause):
        call = front.admin.WatchStatus(pb.WatchStatusRequest(interval_s=interval_s))
        await read(call)
        assert await pause.begun_s() == interval_s


@pytest.mark.parametrize("interval_s", [-1, 0.09, 60.5, math.inf, math.nan])
async def test_an_interval_out_of_range_is_named(front: Front, interval_s: float) -> None:
    told = await told_by(front.admin.WatchStatus(pb.WatchStatusRequest(interval_s=interval_s)))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert told.violations == {"interval_s": f"is {interval_s:g}; expected 0, or 0.1 to 60 seconds"}


async def test_one_watcher_over_the_limit_is_refused_until_one_leaves() -> None:
    async with paced_front(max_watch_calls=1) as (front, _pause):
        first = front.admin.WatchStatus(pb.WatchStatusRequest())
        await read(first)
        told = await told_by(front.admin.WatchStatus(pb.WatchStatusRequest()))
        assert (told.code, told.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.QUEUE_FULL,
        )
        first.cancel()
        async with asyncio.timeout(GATE_TIMEOUT_S):
            # The server hears of the cancelled call a moment later.
            while await ended_or_reading(front) == grpc.StatusCode.RESOURCE_EXHAUSTED:
                pass


async def ended_or_reading(front: Front) -> grpc.StatusCode | None:
    """None for a watcher that was let in."""
    call = front.admin.WatchStatus(pb.WatchStatusRequest())
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def test_loading_streams_progress_until_the_model_is_ready() -> None:
    async with paced_front() as (front, pause):
        front.models.set_status("tiny", state=ModelState.UNLOADED)
        call = front.admin.LoadModel(pb.LoadModelRequest(model="tiny"))
        first = (await read(call)).model
        assert (first.state, first.load_progress) == (pb.MODEL_STATE_LOADING, 0.0)
        await pause.begun_s()
        front.models.set_status("tiny", load_progress=0.5)
        pause.end_one()
        assert (await read(call)).model.load_progress == 0.5
        await pause.begun_s()
        front.models.set_status("tiny", state=ModelState.READY, load_progress=1.0)
        pause.end_one()
        [last] = await read_all(call)
        assert last.model.state == pb.MODEL_STATE_READY
        assert await ended(call) == grpc.StatusCode.OK


async def test_loading_that_fails_ends_with_why() -> None:
    async with paced_front() as (front, pause):
        call = front.admin.LoadModel(pb.LoadModelRequest(model="tiny"))
        await read(call)
        await pause.begun_s()
        front.models.set_status("tiny", state=ModelState.FAILED, failure="not a GGUF file")
        pause.end_one()
        [last] = await read_all(call)
        assert last.model.state == pb.MODEL_STATE_FAILED
        assert last.model.failure == "not a GGUF file"
        assert await ended(call) == grpc.StatusCode.OK


@pytest.mark.parametrize("state", [ModelState.UNLOADED, ModelState.RESTARTING])
async def test_loading_that_is_undone_ends_with_an_error(state: ModelState) -> None:
    async with paced_front() as (front, pause):
        front.models.set_status("tiny", state=state)
        call = front.admin.LoadModel(pb.LoadModelRequest(model="tiny"))
        await read(call)
        await pause.begun_s()
        front.models.set_status("tiny", state=ModelState.UNLOADED)
        pause.end_one()
        told = await told_by(call)
        assert told.reason == Reason.MODEL_UNLOADED
