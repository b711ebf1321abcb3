"""The relay behind the unix socket: what goes in comes out, bounded, and connections end."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from edged.clock import ManualClock
from edged.rpc.doors.relay import CHUNK_BYTES, Relay, RelayLimits
from tests.rpc.as_user import as_user, open_folder, require_root
from tests.rpc.fakes import GATE_TIMEOUT_S


@dataclass
class Ends:
    relay: Relay
    outer: Path
    accepted: "asyncio.Queue[socket.socket]"
    """What gRPC would be given."""
    opened: list[socket.socket]
    """All of a test's; closed at its end."""

    async def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of one relayed connection."""
        client = self.dial(self.outer)
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return client, await self.accepted.get()

    def dial(self, path: Path) -> socket.socket:
        end = socket.socket(socket.AF_UNIX)
        self.opened.append(end)
        end.setblocking(False)
        end.connect(str(path))
        return end


@asynccontextmanager
async def relaying(folder: Path, limits: RelayLimits | None = None) -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    outer, inner = folder / "outer", folder / "inner" / "grpc"
    inner.parent.mkdir(mode=0o700)
    listeners = []
    for path in (outer, inner):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        listeners.append(listener)
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    opened: list[socket.socket] = []

    async def accept() -> None:
        while True:
            end, _ = await loop.sock_accept(listeners[1])
            end.setblocking(False)
            opened.append(end)
            accepted.put_nowait(end)

    accepting = asyncio.create_task(accept())
    relay = Relay(listeners[0], inner, limits or RelayLimits(), ManualClock())
    relay.start()
    try:
        yield Ends(relay, outer, accepted, opened)
    finally:
        relay.close()
        accepting.cancel()
        for end in (listeners[1], *opened):
            end.close()
        assert relay.num_open == 0


async def received(end: socket.socket, num_bytes: int = CHUNK_BYTES) -> bytes:
    """What comes next; b"" is the end."""
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return await asyncio.get_running_loop().sock_recv(end, num_bytes)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        while not holds():
            await one_round()


async def one_round() -> None:
    """Lets everything that can go on go on once."""
    await asyncio.sleep(0)


def fill(end: socket.socket) -> int:
    """Send until there is no room; the number of bytes that had some."""
    num_sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            num_sent += end.send(b"x" * CHUNK_BYTES)
    return num_sent


async def test_bytes_go_both_ways(tmp_path: Path) -> None:
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        client.send(b"there")
        assert await received(server) == b"there"
        server.send(b"and back")
        assert await received(client) == b"and back"


async def test_a_large_message_comes_whole_and_in_order(tmp_path: Path) -> None:
    content = os.urandom(5_000_000)
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(client, content))
        parts = bytearray()
        while len(parts) < len(content):
            parts += await received(server)
        await sending
        assert bytes(parts) == content


async def test_the_end_of_one_direction_leaves_the_other_open(tmp_path: Path) -> None:
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        client.send(b"last")
        client.shutdown(socket.SHUT_WR)
        assert await received(server) == b"last"
        assert await received(server) == b""
        server.send(b"answer")
        assert await received(client) == b"answer"
        server.close()
        assert await received(client) == b""
        await until(lambda: ends.relay.num_open == 0)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_an_end_that_is_gone_takes_the_connection_with_it(tmp_path: Path, who: str) -> None:
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        gone, left = (client, server) if who == "client" else (server, client)
        fill(left)
        gone.close()
        with contextlib.suppress(ConnectionResetError):
            assert await received(left) == b""
        left.close()
        await until(lambda: ends.relay.num_open == 0)


async def test_who_does_not_read_stops_the_sender(tmp_path: Path) -> None:
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        num_sent = 0
        idle = 0
        while idle < 100:
            more = fill(server)
            num_sent += more
            idle = 0 if more else idle + 1
            await one_round()
        most = 16 * CHUNK_BYTES
        assert num_sent <= most, "the system's buffers and one chunk of the relay's"
        num_received = 0
        while num_received < num_sent:
            num_received += len(await received(client))
        server.send(b"on")
        assert await received(client) == b"on"


async def test_an_end_that_takes_nothing_for_too_long_is_let_go(tmp_path: Path) -> None:
    async with relaying(tmp_path, RelayLimits(stall_s=0.05)) as ends:
        _client, server = await ends.connect()
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while ends.relay.num_open:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    fill(server)
                await one_round()


async def test_an_end_that_takes_something_now_and_then_is_kept(tmp_path: Path) -> None:
    async with relaying(tmp_path, RelayLimits(stall_s=0.2)) as ends:
        client, server = await ends.connect()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 0.6
        while loop.time() < end_s:
            fill(server)
            await received(client, 4096)
        assert ends.relay.num_open == 1


async def test_the_user_of_a_connection_is_known_by_its_peer_while_it_lasts(
    tmp_path: Path,
) -> None:
    async with relaying(tmp_path) as ends:
        client, server = await ends.connect()
        peer = f"unix:{server.getpeername()}"
        assert ends.relay.user_of(peer) == os.geteuid()
        assert [one.name for one in (tmp_path / "inner").iterdir()] == ["grpc"]
        client.close()
        server.close()
        await until(lambda: ends.relay.num_open == 0)
        assert ends.relay.user_of(peer) is None


async def test_one_connection_too_many_is_closed_and_told(tmp_path: Path) -> None:
    async with relaying(tmp_path, RelayLimits(max_connections=2)) as ends:
        pairs = [await ends.connect() for _ in range(2)]
        with capture_logs() as logs:
            assert await received(ends.dial(ends.outer)) == b""
        assert [line["event"] for line in logs] == ["too many connections to the socket"]
        for end in pairs[0]:
            end.close()
        await until(lambda: ends.relay.num_open == 1)
        client, server = await ends.connect()
        client.send(b"in")
        assert await received(server) == b"in"


async def test_another_user_has_a_limit_of_its_own() -> None:
    require_root()
    limits = RelayLimits(max_connections=8, max_connections_of_user=1)
    with open_folder() as folder:
        async with relaying(folder, limits) as ends:
            ends.outer.chmod(0o666)
            async with as_user(ends.outer, 43210) as target:
                path = Path(target.removeprefix("unix:"))
                ends.dial(path)
                async with asyncio.timeout(GATE_TIMEOUT_S):
                    await ends.accepted.get()
                assert await received(ends.dial(path)) == b""
            await ends.connect()


def num_descriptors() -> int:
    return psutil.Process().num_fds()


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    num_before = num_descriptors()
    async with relaying(tmp_path) as ends:
        for _ in range(20):
            for end in await ends.connect():
                end.close()
        await until(lambda: ends.relay.num_open == 0)
    assert num_descriptors() == num_before
