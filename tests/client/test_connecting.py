"""Connecting to a daemon that is not there leaves the others time, and is remembered."""

import random
from collections.abc import Sequence

import pytest

from edged.client import AsyncClient, RetryPolicy
from edged.client.calling import Caller
from edged.client.connect.link import Link
from edged.client.connect.peers import Peer
from edged.client.connect.target import Plaintext, Target
from edged.client.errors import UnreachableError
from edged.client.route import AVOID_S, Given, Route
from edged.clock import ManualClock
from edged.errors import Reason
from tests.client.scripted import WHOLE, playing, says
from tests.client.servers import mute_host
from tests.client.test_link import at, linked, read_one, routed
from tests.rpc.fakes import GATE_TIMEOUT_S

LIMIT_S = 30.0
SHORT_S = 0.05


def unreachable() -> UnreachableError:
    return UnreachableError(Reason.UNREACHABLE, "it is off")


class Off(Link):
    """Connecting to it takes all the time that there is."""

    def __init__(self, target: Target, clock: ManualClock) -> None:
        super().__init__([target], GATE_TIMEOUT_S, clock=clock)
        self.clock = clock
        self.waits_s: list[float] = []

    async def connect(self, within_s: float) -> None:
        self.waits_s.append(within_s)
        self.clock.advance(within_s)
        raise unreachable()


def given(name: str) -> Given:
    own = Peer(name=name, addresses=(name,), fingerprint=name, certificate_pem="")
    return Given((Target(name, name, Plaintext()),), own)


class Asked:
    """Of these all but the last are off."""

    def __init__(self, given_names: Sequence[str], other_names: Sequence[str] = ()) -> None:
        self.clock = ManualClock(100.0)
        self.links: dict[str, Off] = {}
        self.last = (*given_names, *other_names)[-1]
        self.left_s: float | None = None

        async def find_others() -> Sequence[Given]:
            return [given(name) for name in other_names]

        find = find_others if other_names else None
        self.route = Route([given(name) for name in given_names], self.link_to, self.clock, find)

    def link_to(self, one: Given) -> Link:
        link = Off(one.ways[0], self.clock)
        return self.links.setdefault(link.shown, link)

    async def within(self, limit_s: float | None) -> str:
        async def ask(link: Link, left_s: float | None) -> str:
            if link.shown != self.last:
                raise unreachable()
            self.left_s = left_s
            return link.shown

        caller = Caller(self.route, RetryPolicy(max_attempts=1), self.clock, draw=random.Random(1))
        ends_s = None if limit_s is None else self.clock.now_s() + limit_s
        _, answer = await caller.anywhere(ask, ends_s=ends_s)
        return answer

    def waits_s(self) -> list[float]:
        return [wait_s for link in self.links.values() for wait_s in link.waits_s]


async def test_each_daemon_has_its_part_of_the_time_to_be_connected_to() -> None:
    asked = Asked(["gpu-box", "attic", "nas"])
    assert await asked.within(LIMIT_S) == "nas"
    assert asked.waits_s() == [10.0, 10.0]
    assert asked.left_s == 10.0


async def test_those_who_may_take_over_have_theirs() -> None:
    asked = Asked(["gpu-box"], ["nas"])
    assert await asked.within(LIMIT_S) == "nas"
    assert asked.waits_s() == [15.0]
    assert asked.left_s == 15.0


async def test_the_only_one_has_all_of_it_when_it_is_asked() -> None:
    asked = Asked(["nas"])
    assert await asked.within(LIMIT_S) == "nas"
    assert asked.waits_s() == []
    assert asked.left_s == LIMIT_S


async def test_without_a_limit_connecting_has_its_own_alone() -> None:
    asked = Asked(["gpu-box", "nas"])
    assert await asked.within(None) == "nas"
    assert asked.waits_s() == []


async def test_what_has_run_out_of_its_part_is_asked_last_the_next_time() -> None:
    asked = Asked(["gpu-box", "nas"])
    await asked.within(LIMIT_S)
    assert [link.shown for link in asked.route.order()] == ["nas", "gpu-box"]
    asked.clock.advance(AVOID_S)
    assert [link.shown for link in asked.route.order()] == ["gpu-box", "nas"]


async def test_a_daemon_that_says_nothing_does_not_take_a_short_deadline() -> None:
    with mute_host() as silent:
        async with (
            playing(says(*WHOLE)) as other,
            AsyncClient([silent, other.address], environ={}) as client,
        ):
            answer = await client.complete("Hi", deadline_s=4.0)
            assert answer.admitted.daemon == other.address
            assert [link.shown for link in client._route.order()] == [other.address, silent]


async def test_what_takes_longer_goes_on_for_the_next_call() -> None:
    async with (
        playing(says(WHOLE[0])) as daemon,
        routed(daemon.address) as router,
        linked(Link([at(router.address)], GATE_TIMEOUT_S)) as link,
    ):
        router.is_open.clear()
        with pytest.raises(UnreachableError, match=r"not be connected to within 0\.05 s") as raised:
            await link.connect(SHORT_S)
        assert raised.value.daemon == router.address
        router.is_open.set()
        assert await read_one(link, GATE_TIMEOUT_S) == WHOLE[0].SerializeToString()
        assert router.num_connections == 1


async def test_what_could_not_be_connected_to_goes_last_whoever_has_seen_it() -> None:
    async with playing(says(WHOLE[0])) as daemon, routed(daemon.address) as router:
        clock = ManualClock(100.0)
        places = [given(router.address), given("nas")]
        route = Route(places, lambda one: Link(one.ways, SHORT_S, clock=clock), clock)
        link, _ = route.order()
        router.is_open.clear()
        with pytest.raises(UnreachableError, match="no daemon answers"):
            await link.connect(GATE_TIMEOUT_S)
        assert [one.shown for one in route.order()] == ["nas", router.address]
        router.is_open.set()
        link._connect_timeout_s = GATE_TIMEOUT_S
        await link.connect(GATE_TIMEOUT_S)
        assert [one.shown for one in route.order()] == [router.address, "nas"]
        await route.close()
