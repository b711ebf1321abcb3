"""A connection that is dead and does not know, a local network that cannot be looked at, and a way
that is given twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from edged.client.connect.link import Link
from edged.client.connect.target import Pinned, Plaintext, Target
from edged.client.errors import ConnectionLostError, DeadlineExceededError, UnreachableError
from edged.errors import EdgedError, Reason
from tests.client.certificates import certified
from tests.client.scripted import admitted, is_silent, playing, refuses, says, then
from tests.client.servers import free_port
from tests.rpc.fakes import GATE_TIMEOUT_S

SHORT_S = 0.2
ANSWER = admitted().SerializeToString()


@dataclass
class Router:
    """On the way to a daemon."""

    address: str = ""
    num_connections: int = 0
    num_forgotten: int = 0
    """Nothing arrives any more on so many connections, the first ones."""
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Before that nothing arrives either, but waits."""


@asynccontextmanager
async def routed(address: str) -> AsyncIterator[Router]:
    router, tasks = Router(), set[asyncio.Task[None]]()
    writers: list[asyncio.StreamWriter] = []
    router.is_open.set()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, number: int) -> None:
        await router.is_open.wait()
        with suppress(OSError):
            while data := await source.read(65536):
                if number >= router.num_forgotten:
                    sink.write(data)
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, router.num_connections = router.num_connections, router.num_connections + 1
        host, _, port = address.rpartition(":")
        back, there = await asyncio.open_connection(host, int(port))
        writers.extend((writer, there))
        for source, sink in ((reader, there), (back, writer)):
            tasks.add(asyncio.create_task(carry(source, sink, number)))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    router.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield router
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop


def at(address: str) -> Target:
    return Target(address, address, Plaintext())


@asynccontextmanager
async def linked(link: Link) -> AsyncIterator[Link]:
    try:
        yield link
    finally:
        await link.close()


async def read_one(link: Link, limit_s: float) -> bytes | None:
    reading = await link.stream("/a/B", b"", limit_s=limit_s, idle_timeout_s=GATE_TIMEOUT_S)
    return await reading.next()


async def test_a_way_whose_name_is_looked_up_may_be_given_twice() -> None:
    async with playing(says(admitted())) as daemon:
        way = at(daemon.address.replace("127.0.0.1", "localhost"))
        async with linked(Link([way, way], GATE_TIMEOUT_S)) as link:
            assert await read_one(link, GATE_TIMEOUT_S) == ANSWER


async def test_a_method_that_nobody_answered_leaves_the_connection() -> None:
    async with (
        playing(says(admitted())) as daemon,
        routed(daemon.address) as router,
        linked(Link([at(router.address)], GATE_TIMEOUT_S)) as link,
    ):
        assert await link.unary("/a/B", b"", GATE_TIMEOUT_S) == ANSWER
        router.num_forgotten = 1
        with pytest.raises(ConnectionLostError, match=r"has said nothing for 0\.2 s"):
            await link.unary("/a/B", b"", SHORT_S)
        assert await link.unary("/a/B", b"", GATE_TIMEOUT_S) == ANSWER
        assert router.num_connections == 2


async def test_a_method_that_a_new_connection_does_not_answer_is_late() -> None:
    async with (
        playing(is_silent()) as daemon,
        linked(Link([at(daemon.address)], GATE_TIMEOUT_S)) as link,
    ):
        with pytest.raises(DeadlineExceededError):
            await link.unary("/a/B", b"", SHORT_S)


async def test_an_answer_of_which_nothing_came_leaves_the_connection() -> None:
    async with (
        playing(says(admitted())) as daemon,
        routed(daemon.address) as router,
        linked(Link([at(router.address)], GATE_TIMEOUT_S)) as link,
    ):
        assert await read_one(link, GATE_TIMEOUT_S) == ANSWER
        router.num_forgotten = 1
        with pytest.raises(DeadlineExceededError):
            await read_one(link, SHORT_S)
        assert await read_one(link, GATE_TIMEOUT_S) == ANSWER
        assert router.num_connections == 2


async def test_a_deadline_that_a_living_daemon_does_not_keep_leaves_nothing() -> None:
    late = refuses(EdgedError(Reason.DEADLINE_EXCEEDED, "late"))
    begun = then(says(admitted()), is_silent())
    async with (
        playing(late, late, begun, says(admitted())) as daemon,
        routed(daemon.address) as router,
        linked(Link([at(router.address)], GATE_TIMEOUT_S)) as link,
    ):
        with pytest.raises(DeadlineExceededError):
            await link.unary("/a/B", b"", GATE_TIMEOUT_S)
        with pytest.raises(DeadlineExceededError):
            await read_one(link, GATE_TIMEOUT_S)
        reading = await link.stream("/a/B", b"", limit_s=2.0, idle_timeout_s=GATE_TIMEOUT_S)
        assert await reading.next() == ANSWER
        with pytest.raises(DeadlineExceededError):
            await reading.next()
        assert await read_one(link, GATE_TIMEOUT_S) == ANSWER
        assert router.num_connections == 1


async def test_a_network_that_cannot_be_looked_at_does_not_hide_a_daemon() -> None:
    async with playing(says(admitted())) as daemon, routed(daemon.address) as router:
        router.is_open.clear()

        async def find() -> Sequence[Target]:
            router.is_open.set()
            raise OSError("no netlink here")

        async with linked(Link([at(router.address)], GATE_TIMEOUT_S, find)) as link:
            assert await read_one(link, GATE_TIMEOUT_S) == ANSWER


async def test_nobody_and_a_network_that_cannot_be_looked_at_are_both_told() -> None:
    seen: list[OSError] = [OSError("no netlink here")]

    async def find() -> Sequence[Target]:
        """At first it cannot be looked at."""
        for error in seen:
            raise error
        return ()

    nowhere = f"127.0.0.1:{free_port()}"
    peer = Target("box", nowhere, Pinned(certified("edged").pem, "box"))
    async with linked(Link([peer], GATE_TIMEOUT_S, find)) as link:
        with pytest.raises(UnreachableError) as raised:
            await read_one(link, GATE_TIMEOUT_S)
        why = f"no daemon answers at {nowhere}: Connection refused"
        not_looked = "the local network could not be looked at: no netlink here"
        assert raised.value.detail == f"{why}; {not_looked}"
        seen.clear()
        with pytest.raises(UnreachableError) as again:
            await read_one(link, GATE_TIMEOUT_S)
        assert again.value.detail == why


async def test_the_address_that_was_found_is_known_from_then_on() -> None:
    async with playing(says(admitted())) as daemon, routed(daemon.address) as router:
        seen = [at(router.address)]

        async def find() -> Sequence[Target]:
            """Once: later it cannot be seen."""
            return [seen.pop()] if seen else []

        known = at(f"127.0.0.1:{free_port()}")
        async with linked(Link([known], GATE_TIMEOUT_S, find)) as link:
            assert await read_one(link, GATE_TIMEOUT_S) == ANSWER
            router.num_forgotten = 1
            with pytest.raises(DeadlineExceededError):
                await read_one(link, SHORT_S)
            assert await read_one(link, GATE_TIMEOUT_S) == ANSWER
            assert [way.address for way in link._ways] == [router.address, known.address]
        assert router.num_connections == 2
