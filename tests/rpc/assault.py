"""Hostile clients on real sockets: they send bursts, or they stay and do next to nothing.

Everything here ends by itself within a bounded time, whatever the server does.
"""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from edged.v1 import inference_pb2 as pb
from tests.rpc import wire
from tests.rpc.bursts import BURSTS, Burst
from tests.rpc.wire import GENERATE, Caller, Kind

LINGER_S = 0.05
"""How long the connection of a burst waits for answers."""
CONNECT_S = 10.0
TRICKLE_S = 0.1
"""Between two bytes of a slow one."""
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60)
"""The beginning of a TLS handshake."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    caller: Caller = field(default_factory=Caller)

    @classmethod
    def at(cls, listener: str) -> "Target":
        host, _, port = listener.rpartition(":")
        return cls(host, int(port))

    async def connect(self, *, is_plain: bool = False) -> Connection:
        """Raises OSError or TimeoutError: nobody let it in."""
        async with asyncio.timeout(CONNECT_S):
            tls = None if is_plain else self.tls
            return await asyncio.open_connection(self.host, self.port, ssl=tls)


@dataclass
class Tally:
    """What became of an attack."""

    num_frames: int = 0
    num_connections: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """"refused": not let in; "closed": by the server; "left": by the attacker."""


async def attack(
    target: Target,
    name: str,
    *,
    num_frames: int,
    seed: int = 1,
    num_connections: int = 8,
    linger_s: float = LINGER_S,
) -> Tally:
    """Bursts of one kind until so many frames have been sent, on so many connections at once."""
    draw = Random(f"{name} {seed}")
    tally = Tally()

    async def go_on() -> None:
        while tally.num_frames < num_frames:
            burst = BURSTS[name](draw, target.caller)
            tally.num_frames += burst.num_frames
            tally.num_connections += 1
            tally.ends[await _send(target, burst, linger_s)] += 1

    await asyncio.gather(*(go_on() for _ in range(num_connections)))
    return tally


async def _send(target: Target, burst: Burst, linger_s: float) -> str:
    """How the one connection ended."""
    try:
        reader, writer = await target.connect()
    except (OSError, TimeoutError):
        return "refused"
    try:
        async with asyncio.timeout(linger_s):
            writer.write(burst.content)
            await writer.drain()
            while await reader.read(65536):
                pass
    except TimeoutError:
        return "left"
    except OSError:
        return "closed"
    finally:
        writer.transport.abort()
    return "closed"


@dataclass(frozen=True, slots=True)
class Slow:
    """A connection that stays: what it sends at once, what byte by byte, and how it goes on."""

    at_once: bytes = b""
    trickled: bytes = b""
    is_plain: bool = False
    """It has no TLS, whatever the server expects."""
    reads: bool = True
    """It takes what comes, and answers pings, as a client does that is only idle."""
    half_closes: bool = False


def slow(kind: str, caller: Caller) -> Slow:
    """One of `SLOW_KINDS`."""
    request = wire.message(pb.GenerateRequest(prompt=pb.Prompt(text="x" * 300)).SerializeToString())
    begun = wire.opening() + caller.call(GENERATE, 1)
    endless = pb.GenerateRequest(
        prompt=pb.Prompt(text="endless"), sampling=pb.Sampling(logprobs=20), client="hostile"
    )
    answered = caller.whole_call(GENERATE, 1, endless.SerializeToString())
    kinds = {
        "silent": Slow(is_plain=True),
        "half a TLS handshake": Slow(CLIENT_HELLO, is_plain=True),
        "slow preface": Slow(trickled=wire.PREFACE + wire.settings()),
        "slow headers": Slow(wire.opening(), caller.call(GENERATE, 1)),
        "slow message": Slow(begun, wire.data(request, 1)),
        "slow content": Slow(begun + wire.data(request[:9], 1, is_last=False)),
        "half-closed": Slow(begun, half_closes=True),
        "idle": Slow(wire.opening()),
        "not reading": Slow(wire.opening((wire.INITIAL_WINDOW_SIZE, 0)) + answered, reads=False),
    }
    return kinds[kind]


SLOW_KINDS = (
    *("silent", "half a TLS handshake", "slow preface", "slow headers", "slow message"),
    *("slow content", "half-closed", "idle", "not reading"),
)


class Stayers:
    """Connections of one kind that are held open."""

    def __init__(self, target: Target, kind: str) -> None:
        self._target = target
        self._slow = slow(kind, target.caller)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.num_refused = 0
        self.refusal = ""
        """Of the last one."""
        self.num_closed = 0
        """By the server, so far."""
        self._changed = asyncio.Event()

    @property
    def num_held(self) -> int:
        """Those that are open still."""
        return len(self._writers) - self.num_closed

    async def add(self, count: int, *, at_once: int = 32) -> None:
        for start in range(0, count, at_once):
            size = min(at_once, count - start)
            await asyncio.gather(*(self._open() for _ in range(size)))

    async def until_closed(self, count: int, within_s: float) -> None:
        """Wait until the server has closed so many."""
        async with asyncio.timeout(within_s):
            while self.num_closed + self.num_refused < count:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _open(self) -> None:
        try:
            reader, writer = await self._target.connect(is_plain=self._slow.is_plain)
        except (OSError, TimeoutError) as error:
            self.num_refused += 1
            self.refusal = repr(error)
            return
        self._writers.append(writer)
        self._tasks.append(asyncio.create_task(self._stay(reader, writer)))

    async def _stay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sending = asyncio.create_task(self._send(writer))
        try:
            if self._slow.reads:
                await _answer_pings(reader, writer)
            else:
                await sending
                await asyncio.Event().wait()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            sending.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sending
        self.num_closed += 1
        self._changed.set()
        writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._slow.at_once)
        await writer.drain()
        for byte in self._slow.trickled:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(TRICKLE_S)
        if self._slow.half_closes and writer.can_write_eof():
            writer.write_eof()


async def _answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the server closes: IncompleteReadError."""
    while True:
        header = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(header[:3]))
        if header[3] == Kind.PING and not header[4] & wire.ACK:
            writer.write(wire.frame(Kind.PING, payload, flags=wire.ACK))


@asynccontextmanager
async def staying(target: Target, kind: str, count: int) -> AsyncIterator[Stayers]:
    """So many connections of that kind for as long as the block."""
    stayers = Stayers(target, kind)
    try:
        await stayers.add(count)
        yield stayers
    finally:
        await stayers.close()
