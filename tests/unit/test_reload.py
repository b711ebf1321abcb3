"""One reload at a time, what is read beside the configuration, and what it may change."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edged.clock import MonotonicClock
from edged.config import Flag, Settings, load_settings
from edged.core.types import SloTier
from edged.errors import ConfigError
from edged.node.service.host import Host
from edged.reload import LIVE, Parts, Reloader, with_live_of
from edged.rpc.convert import Tiers
from edged.rpc.server import RpcServer
from edged.startup import model_specs, tier_specs
from edged.supervise.fleet import Fleet
from tests.rpc.front import LOOPBACK, Daemon, trust_in


def configured(**server: object) -> Settings:
    """One model, which is not loaded, and these settings of the server."""
    flags = [Flag(("models", "m", "path"), "none", "--model")]
    flags += [Flag(("models", "m", "preload"), False, "--model")]
    flags += [Flag(("server", name), value, f"--{name}") for name, value in server.items()]
    return load_settings(flags, {}, candidates=()).settings


@dataclass
class Source:
    """What is read at a reload."""

    settings: Settings = field(default_factory=configured)
    error: ConfigError | None = None
    num_reads: int = 0

    def read(self) -> Settings:
        self.num_reads += 1
        if self.error is not None:
            raise self.error
        return self.settings


def none_changed() -> tuple[str, ...]:
    return ()


@asynccontextmanager
async def reloading(
    source: Source, reload_trust: Callable[[], tuple[str, ...]] = none_changed
) -> AsyncIterator[Reloader]:
    before, clock = source.settings, MonotonicClock()
    fleet = Fleet(model_specs(before, {}), before.default_model, clock)
    tiers = Tiers(tier_specs(before), SloTier.STANDARD)
    with tempfile.TemporaryDirectory() as state:
        trust = trust_in(Path(state))
        view = Daemon().view(started_s=0.0)
        server = RpcServer(LOOPBACK, fleet, tiers, view, clock, trust=trust)
        server.reload_trust = reload_trust  # type: ignore[method-assign]
        host = Host({}, fleet, clock)
        reloader = Reloader(before, source.read)
        reloader.begin(Parts(fleet, server, host))
        try:
            yield reloader
        finally:
            await host.close()
            await server.stop(0)


async def test_signals_that_come_together_are_one_reload_or_two() -> None:
    source, done = Source(), asyncio.Event()

    def note() -> tuple[str, ...]:
        done.set()
        return ()

    async with reloading(source, note) as reloader:
        for _ in range(100):
            reloader.ask()
        await done.wait()
        await reloader.reload()
        assert source.num_reads == 2, "a hundred signals are one, and there was one call"
        done.clear()
        reloader.ask()
        await done.wait()
        assert source.num_reads == 3


async def test_calls_wait_for_their_turn_and_each_is_answered() -> None:
    source = Source()
    async with reloading(source) as reloader:
        source.settings = configured(drain_s=7.0)
        reports = await asyncio.gather(*(reloader.reload() for _ in range(5)))
        assert [report.changes for report in reports] == [
            ("server.drain_s = 7.0 (was 30.0)",),
            *[()] * 4,
        ]


async def test_caller_that_leaves_does_not_end_the_reload() -> None:
    source, done = Source(), asyncio.Event()

    def note() -> tuple[str, ...]:
        done.set()
        return ()

    async with reloading(source, note) as reloader:
        call = asyncio.create_task(reloader.reload())
        await asyncio.sleep(0)
        call.cancel()
        await done.wait()


async def test_what_is_trusted_is_read_too_and_told() -> None:
    source = Source()
    async with reloading(source, lambda: ("the certificate is another: SHA256:x",)) as reloader:
        source.settings = configured(drain_s=7.0)
        report = await reloader.reload()
        assert report.changes == (
            "server.drain_s = 7.0 (was 30.0)",
            "the certificate is another: SHA256:x",
        )


async def test_nothing_changes_if_what_is_trusted_is_wrong() -> None:
    def bad() -> tuple[str, ...]:
        raise ConfigError("the tokens cannot be read: not JSON")

    source = Source()
    async with reloading(source, bad) as reloader:
        source.settings = configured(drain_s=7.0)
        report = await reloader.reload()
        assert (report.changes, report.waiting) == ((), ())
        assert report.problems == ("the tokens cannot be read: not JSON",)
        assert reloader.settings.server.drain_s == 30.0


async def test_nothing_is_read_beside_a_configuration_that_is_wrong() -> None:
    def never() -> tuple[str, ...]:
        raise AssertionError("called")

    source = Source()
    async with reloading(source, never) as reloader:
        source.error = ConfigError("one thing\nanother thing")
        report = await reloader.reload()
        assert report.problems == ("one thing", "another thing")
        assert (report.changes, report.waiting) == ((), ())


async def test_defect_is_a_problem_and_ends_nothing() -> None:
    def broken() -> tuple[str, ...]:
        raise RuntimeError("a defect")

    async with reloading(Source(), broken) as reloader:
        assert (await reloader.reload()).problems == ("internal error: RuntimeError",)
        assert (await reloader.reload()).problems


@pytest.mark.parametrize("name", sorted(LIVE))
def test_live_settings_are_settings(name: str) -> None:
    assert hasattr(configured().server, name)


def test_all_other_settings_of_the_server_stay_as_they_were() -> None:
    running = configured()
    read = configured(listen="127.0.0.1:1", name="other", heartbeat_s=3.0, log_level="debug")
    kept = with_live_of(read, running).server
    assert kept.log_level == "debug"
    for name in type(kept).model_fields.keys() - LIVE:
        assert getattr(kept, name) == getattr(running.server, name), name
