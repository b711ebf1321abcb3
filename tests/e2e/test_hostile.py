"""Hostile clients of the installed daemon: it lives, its memory and log stay small, others go on.

`scripts/bench_hostile` does the same with a hundred thousand frames, and has the figures.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from edged.core.types import SloTier
from edged.node.trust.grant import Grant
from edged.node.trust.tokens import TokenStore
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask
from tests.rpc.assault import SLOW_KINDS, Target, attack, staying
from tests.rpc.bursts import BURSTS
from tests.rpc.flowing import NearlyWhole
from tests.rpc.wire import Caller

STEP_S = 0.02
NUM_FRAMES = 200
"""Of each kind of burst."""
NUM_SLOW, NUM_IDLE = 10, 300
NUM_CONNECTIONS = 3000
MIB = 2**20
MAX_GROWTH_BYTES = 100 * MIB
SPARE_DESCRIPTORS = 4
"""Of clients that the test itself has meanwhile."""
USUAL_EVENTS = {"request finished", "caller refused"}


def descriptors(daemon: Daemon) -> int:
    return psutil.Process(daemon.pid).num_fds()


def resident_bytes(daemon: Daemon) -> int:
    return psutil.Process(daemon.pid).memory_info().rss


@asynccontextmanager
async def unharmed(daemon: Daemon) -> AsyncIterator[None]:
    """While the block runs a stream goes on; after it nothing is left of what the block did."""
    await daemon.generate(ask("warm up")).end()
    num_descriptors, num_bytes = descriptors(daemon), resident_bytes(daemon)
    num_lines = len(daemon.log)
    stream = daemon.generate(ask("goes on", max_tokens=None, client="good"))
    await stream.tokens(2)
    yield
    await stream.tokens(len(stream.answer.token_ids) + 10)
    assert (await daemon.generate(ask("a new one"), timeout_s=WAIT_S).end()).finished
    await stream.leave()
    async with asyncio.timeout(WAIT_S):
        while descriptors(daemon) > num_descriptors + SPARE_DESCRIPTORS:
            await daemon.status()
    assert resident_bytes(daemon) - num_bytes < MAX_GROWTH_BYTES
    unusual = [one for one in daemon.log[num_lines:] if one["event"] not in USUAL_EVENTS]
    assert not unusual


async def loopback(daemon: Daemon) -> Target:
    return Target.at((await daemon.status()).listeners[0])


async def test_bursts_of_every_kind_harm_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon, unharmed(daemon):
        target = await loopback(daemon)
        for name in BURSTS:
            tally = await attack(target, name, num_frames=NUM_FRAMES)
            assert not tally.ends["refused"]


async def test_connections_that_stay_harm_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon, unharmed(daemon):
        target = await loopback(daemon)
        for kind in SLOW_KINDS:
            async with staying(target, kind, NUM_SLOW) as slow:
                assert (await daemon.generate(ask("meanwhile"), timeout_s=WAIT_S).end()).finished
                assert slow.num_refused == 0
        async with staying(target, "idle", NUM_IDLE) as idle:
            async with asyncio.timeout(WAIT_S):
                while descriptors(daemon) < NUM_IDLE:
                    await daemon.status()
            assert (await daemon.generate(ask("meanwhile"), timeout_s=WAIT_S).end()).finished
            assert (idle.num_refused, idle.num_closed) == (0, 0)


async def test_messages_that_never_become_whole_have_a_most_size(tmp_path: Path) -> None:
    """Two connections offer 400 MiB; four messages of each are read at once."""
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon:
        await daemon.generate(ask("warm up")).end()
        before = resident_bytes(daemon)
        target = await loopback(daemon)
        offers = [NearlyWhole(target, num_calls=13, message_bytes=16 * MIB - 64) for _ in range(2)]
        sending = asyncio.gather(*(offer.send(for_s=2.0) for offer in offers))
        most = before
        while not sending.done():
            assert (await daemon.generate(ask("meanwhile"), timeout_s=WAIT_S).end()).finished
            most = max(most, resident_bytes(daemon))
        await sending
        assert sum(offer.num_bytes for offer in offers) > 64 * MIB, "it let too little come"
        assert most - before < 250 * MIB


def network_tables(folder: Path) -> tuple[dict[str, dict[str, object]], str]:
    """A daemon that other hosts can reach, and a token for it."""
    token, _ = TokenStore(folder / "tokens.json").create(Grant("guest", SloTier.BATCH), 0.0)
    return sim_tables(server={"state_directory": str(folder)}, step_s=STEP_S), token


async def test_thousands_of_connections_to_the_door_for_other_hosts_harm_nobody(
    tmp_path: Path,
) -> None:
    """Each made gRPC take another certificate, and free what other threads were using."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    tables, _ = network_tables(state)
    async with (
        serving(tmp_path, tables, "--listen", "0.0.0.0:0") as daemon,
        unharmed(daemon),
    ):
        _, _, port = (await daemon.status()).listeners[0].rpartition(":")
        in_plaintext = Target("127.0.0.1", int(port))
        tally = await attack(in_plaintext, "bad_preface", num_frames=NUM_CONNECTIONS, linger_s=0.02)
        assert tally.num_connections >= NUM_CONNECTIONS
        assert not tally.ends["refused"]


@pytest.mark.parametrize("has_token", [False, True], ids=["no token", "token"])
async def test_bursts_at_the_door_for_other_hosts_harm_nobody(
    tmp_path: Path, has_token: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    tables, token = network_tables(state)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_alpn_protocols(["h2"])
    more = (("authorization", f"Bearer {token}"),) if has_token else ()
    async with (
        serving(tmp_path, tables, "--listen", "0.0.0.0:0") as daemon,
        unharmed(daemon),
    ):
        _, _, port = (await daemon.status()).listeners[0].rpartition(":")
        target = Target("127.0.0.1", int(port), tls, Caller(more))
        for name in BURSTS:
            await attack(target, name, num_frames=NUM_FRAMES // 2)
        for kind in ("silent", "half a TLS handshake", "slow message"):
            async with staying(target, kind, NUM_SLOW) as slow:
                assert slow.num_refused == 0, f"{kind}: {slow.refusal}"
        if not has_token:
            assert daemon.lines("caller refused")
