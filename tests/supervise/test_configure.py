"""Models that are configured otherwise while they run, on stub engines."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec.structs
import pytest
from structlog.testing import capture_logs

from edged.core.types import SloTier
from edged.errors import EdgedError, Reason
from edged.supervise.fleet import Fleet
from edged.supervise.model import ModelState
from edged.supervise.spec import ModelSpec
from tests.supervise.harness import (
    TIERS,
    read,
    serving,
    spec,
    stub,
    submission,
    wait_for_state,
    wait_for_status,
)

WAIT_S = 20.0
CHANGED = tuple(replace(tier, max_waiting=7) for tier in TIERS)


def with_tiers(given: ModelSpec) -> ModelSpec:
    return replace(given, start=msgspec.structs.replace(given.start, tiers=CHANGED))


def names(fleet: Fleet) -> list[str]:
    return [status.name for status in fleet.status()]


async def until_gone(fleet: Fleet, name: str) -> None:
    while name in names(fleet):
        await fleet.wait_for_change()


async def warned(logs: list[Any], count: int) -> list[object]:
    """The first so many warnings of engines: a stub tells the tiers that it is given."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = [line["detail"] for line in logs if line["event"] == "engine warns"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_new_tiers_reach_the_engine_that_runs_and_each_once() -> None:
    with capture_logs() as logs:
        async with serving() as fleet:
            await wait_for_state(fleet, ModelState.READY)
            for _ in range(3):
                fleet.configure([with_tiers(spec())], spec().name)
            (await read(fleet.submit("", submission("r")))).check_answer("say a word", 16)
            fleet.configure([spec()], spec().name)
            found = await warned(logs, 2)
    assert found == ["tiers: [7, 7, 7]", "tiers: [4096, 4096, 4096]"]


async def test_tiers_that_change_while_it_loads_are_told_when_it_is_ready() -> None:
    with capture_logs() as logs:
        async with serving() as fleet:
            await wait_for_status(fleet, lambda status: status.load_progress > 0)
            fleet.configure([with_tiers(spec())], spec().name)
            await wait_for_state(fleet, ModelState.READY)
            assert await warned(logs, 1) == ["tiers: [7, 7, 7]"]


async def test_shorter_wait_ends_who_is_held_and_a_longer_one_lets_it_wait() -> None:
    hanging = spec(worker=stub(loads=("hang",)))

    def waiting_s(seconds: float | None) -> ModelSpec:
        tiers = tuple(replace(tier, max_queue_s=seconds) for tier in TIERS)
        start = msgspec.structs.replace(hanging.start, tiers=tiers)
        return replace(hanging, start=start)

    async with serving(waiting_s(0.5)) as fleet:
        stays = fleet.submit("", submission("stays", tier=SloTier.STANDARD))
        fleet.configure([waiting_s(None)], hanging.name)
        ends = fleet.submit("", submission("ends", tier=SloTier.STANDARD))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):
                await read(stays)
        fleet.configure([waiting_s(0.01)], hanging.name)
        assert (await read(ends)).reason is Reason.QUEUE_TIMEOUT


async def test_limit_of_held_requests_holds_at_once() -> None:
    async with serving(spec(worker=stub(loads=("hang",)))) as fleet:
        fleet.submit("", submission("first"))
        fleet.configure([spec(max_held=1)], spec().name)
        with pytest.raises(EdgedError) as raised:
            fleet.submit("", submission("second"))
        assert raised.value.reason is Reason.QUEUE_FULL


async def test_other_settings_wait_for_the_next_load() -> None:
    before, after = spec(settings={"path": "a", "threads": 2}), spec(settings={"path": "a"})
    after = replace(after, settings={"path": "b", "threads": 2}, stall_s=11.0)
    async with serving(before) as fleet:
        await wait_for_state(fleet, ModelState.READY)
        fleet.configure([after], after.name)
        assert fleet.status()[0].waiting_settings == ("path",)
        assert fleet.progress()[0].stall_s == before.stall_s
        fleet.configure([before], before.name)
        assert fleet.status()[0].waiting_settings == (), "it is as it runs again"
        fleet.configure([after], after.name)
        await fleet.unload(after.name)
        assert fleet.status()[0].waiting_settings == ()
        await fleet.load(after.name)
        await wait_for_state(fleet, ModelState.READY)
        assert fleet.status()[0].waiting_settings == ()
        assert fleet.progress()[0].stall_s == 11.0


async def test_model_that_is_gone_ends_what_it_has() -> None:
    stays, goes = spec("stays"), spec("goes", worker=stub(step_s=0.02))
    async with serving(stays, goes) as fleet:
        stream = fleet.submit("goes", submission("r", "say it", max_tokens=60))
        reading = asyncio.create_task(read(stream))
        while not fleet.status()[1].ready:
            await fleet.wait_for_change()
        fleet.configure([stays], "stays")
        with pytest.raises(EdgedError) as raised:
            fleet.submit("goes", submission("late"))
        assert raised.value.reason is Reason.UNKNOWN_MODEL
        with pytest.raises(EdgedError, match="request r exists already"):
            fleet.submit("stays", submission("r"))
        assert names(fleet) == ["stays", "goes"]
        (await reading).check_answer("say it", 60)
        await until_gone(fleet, "goes")


async def test_model_that_is_gone_has_the_time_that_holds_from_now_on() -> None:
    goes = spec("goes", worker=stub(step_s=0.02), drain_s=3600.0)
    async with serving(spec("stays"), goes) as fleet:
        endless = fleet.submit("goes", submission("r", max_tokens=None))
        fleet.configure([spec("stays", drain_s=0.05)], "stays")
        async with asyncio.timeout(WAIT_S):
            assert (await read(endless)).reason is Reason.CANCELLED


async def test_model_that_failed_is_gone_at_once() -> None:
    stays, fails = spec("stays"), spec("fails", worker=stub(loads=("refuse",)))
    async with serving(stays, fails) as fleet:
        while fleet.status()[1].state is not ModelState.FAILED:
            await fleet.wait_for_change()
        fleet.configure([stays], "stays")
        async with asyncio.timeout(WAIT_S):
            await until_gone(fleet, "fails")


async def test_model_that_comes_back_waits_for_its_namesake_to_go() -> None:
    stays, other = spec("stays"), spec("other", worker=stub(step_s=0.02))
    async with serving(stays, other) as fleet:
        reading = asyncio.create_task(
            read(fleet.submit("other", submission("r", "say it", max_tokens=60)))
        )
        while not fleet.status()[1].ready:
            await fleet.wait_for_change()
        first_pid = fleet.status()[1].engine_pid
        fleet.configure([stays], "stays")
        fleet.configure([stays, other], "stays")
        fleet.load_soon("other")
        assert names(fleet) == ["stays", "other", "other"]
        with pytest.raises(EdgedError, match="another model 'other' is being unloaded"):
            await fleet.load("other")
        (await reading).check_answer("say it", 60)
        while fleet.status()[1].state is not ModelState.READY:
            await fleet.wait_for_change()
        assert names(fleet) == ["stays", "other"]
        assert fleet.status()[1].engine_pid != first_pid


async def test_drain_waits_for_models_that_are_leaving_too() -> None:
    stays, goes = spec("stays"), spec("goes", worker=stub(step_s=0.02))
    async with serving(stays, goes) as fleet:
        reading = asyncio.create_task(
            read(fleet.submit("goes", submission("r", "say it", max_tokens=40)))
        )
        while not fleet.status()[1].ready:
            await fleet.wait_for_change()
        fleet.configure([stays], "stays")
        await fleet.drain(WAIT_S)
        (await reading).check_answer("say it", 40)
        assert names(fleet) == ["stays"]


async def test_work_is_told_when_it_begins_and_ends() -> None:
    async with serving() as fleet:
        busy = asyncio.create_task(fleet.wait_until_busy())
        await fleet.wait_until_idle()
        assert not busy.done()
        stream = fleet.submit("", submission("r"))
        async with asyncio.timeout(WAIT_S):
            await busy
            await fleet.wait_until_busy()
        idle = asyncio.create_task(fleet.wait_until_idle())
        await read(stream)
        async with asyncio.timeout(WAIT_S):
            await idle


async def test_progress_is_read_from_the_engine_itself() -> None:
    async with serving(spec(worker=stub(step_s=0.01))) as fleet:
        assert fleet.progress()[0].state is ModelState.LOADING
        await wait_for_state(fleet, ModelState.READY)
        stream = fleet.submit("", submission("r", max_tokens=20))
        before = fleet.progress()[0]
        assert before.num_in_flight == 1
        await read(stream)
        after = fleet.progress()[0]
        assert (after.num_in_flight, after.engine_pid) == (0, before.engine_pid)
        assert after.has_ready_engine
        assert before.num_steps_ended is not None
        assert after.num_steps_ended is not None
        assert after.num_steps_ended >= before.num_steps_ended + 19
