"""Those who may take over are looked for once, whoever asks meanwhile, and whoever leaves."""

import asyncio
from dataclasses import dataclass, field

import pytest

from edged.client.connect.link import Link
from edged.client.connect.peers import Peer
from edged.client.connect.target import Plaintext, Target
from edged.client.errors import MisconfiguredError, RequestCancelledError
from edged.client.route import AVOID_S, Given, Route
from edged.clock import ManualClock
from edged.errors import Reason
from tests.client.scripted import within_time
from tests.rpc.fakes import GATE_TIMEOUT_S

NOWHERE = "127.0.0.1:1"


def given(name: str) -> Given:
    own = Peer(name=name, addresses=(NOWHERE,), fingerprint=name, certificate_pem="")
    return Given((Target(name, NOWHERE, Plaintext()),), own)


@dataclass
class Looks:
    """Each of them takes until it may end."""

    error: Exception | None = None
    num_begun: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def find_others(self) -> list[Given]:
        self.num_begun += 1
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return [given("nas"), given("attic")]


def route_with(looks: Looks, clock: ManualClock) -> Route:
    return Route([], lambda one: Link(one.ways, 20.0), clock, looks.find_others)


async def asking(route: Route, looks: Looks, num_callers: int) -> list[asyncio.Task[list[str]]]:
    """All of them wait for the others when this returns."""

    async def names() -> list[str]:
        return [link.shown for link in await route.others()]

    tasks = [asyncio.create_task(names()) for _ in range(num_callers)]
    await within_time(looks.begun)
    return tasks


async def test_all_who_ask_at_once_wait_for_one_look_around() -> None:
    looks, clock = Looks(), ManualClock()
    route = route_with(looks, clock)
    tasks = await asking(route, looks, 50)
    looks.may_end.set()
    assert await asyncio.gather(*tasks) == [["nas", "attic"]] * 50
    assert looks.num_begun == 1
    clock.advance(AVOID_S)
    await route.others()
    assert looks.num_begun == 2
    await route.close()


async def test_whoever_leaves_does_not_end_it_for_the_rest() -> None:
    looks = Looks()
    route = route_with(looks, ManualClock())
    first, second = await asking(route, looks, 2)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    looks.may_end.set()
    assert await second == ["nas", "attic"]
    assert looks.num_begun == 1
    await route.close()


async def test_each_is_told_for_himself_and_the_next_looks_again() -> None:
    looks = Looks(MisconfiguredError(Reason.BAD_CONFIG, "who was paired with cannot be read"))
    route = route_with(looks, ManualClock())
    tasks = await asking(route, looks, 2)
    looks.may_end.set()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, MisconfiguredError)
    assert isinstance(second, MisconfiguredError)
    first.add_note("of one alone")
    assert not hasattr(second, "__notes__")
    looks.error = None
    assert len(await route.others()) == 2
    await route.close()


async def test_closing_ends_it() -> None:
    looks = Looks()
    route = route_with(looks, ManualClock())
    [task] = await asking(route, looks, 1)
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await route.close()
        with pytest.raises(RequestCancelledError):
            await task


async def test_who_waits_when_it_is_closed_is_told_so_and_who_is_cancelled_is_cancelled() -> None:
    looks = Looks()
    route = route_with(looks, ManualClock())
    waits, leaves = await asking(route, looks, 2)
    leaves.cancel()
    await asyncio.wait([leaves])
    await route.close()
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        await waits
    assert leaves.cancelled()
