"""The host is kept awake while requests run: with programs that play systemd-inhibit."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from edged.node.service.inhibitor import MAX_LOSSES, SuspendInhibitor, Way, ways
from tests.e2e.daemon import gone, serving
from tests.e2e.reloading import reload
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask

LINGER_S = 0.3
HOLDS = 'for last; do :; done; "$last"'
"""Runs its last argument as a child, as systemd-inhibit does."""
REFUSES = 'echo "Failed to inhibit: Access denied" >&2; exit 1'
REFUSES_SLEEP = f"case $* in *--what=sleep:idle*) {REFUSES};; esac; {HOLDS}"


@dataclass
class Played:
    """A program in a folder of its own, which notes with what arguments it was started."""

    folder: Path

    def play(self, script: str, name: str = "systemd-inhibit") -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "$$ $*" >>{self.folder}/started\n{script}\n')
        program.chmod(0o755)

    @property
    def started(self) -> list[tuple[int, str]]:
        """The process and arguments of each start."""
        file = self.folder / "started"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(pid), rest) for pid, rest in (line.split(" ", 1) for line in lines)]

    @property
    def whats(self) -> list[str]:
        """Against what each was to hold."""
        words = [word for _, rest in self.started for word in rest.split()]
        return [word.removeprefix("--what=") for word in words if word.startswith("--what=")]

    @property
    def path(self) -> str:
        return f"{self.folder}:{os.environ['PATH']}"


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Played(folder)
    monkeypatch.setenv("PATH", made.path)
    return made


@dataclass
class Asked:
    """Requests that come and go as a test says."""

    busy: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def come(self) -> None:
        self.idle.clear()
        self.busy.set()

    def go(self) -> None:
        self.busy.clear()
        self.idle.set()

    async def wait_until_busy(self) -> None:
        await self.busy.wait()

    async def wait_until_idle(self) -> None:
        await self.idle.wait()


@asynccontextmanager
async def kept(asked: Asked, *given: Way) -> AsyncIterator[asyncio.Task[None]]:
    """An inhibitor at work; when it is told to end, no child of it may be left."""
    before = children()
    inhibitor = SuspendInhibitor(asked, given or ways("linux"), linger_s=LINGER_S, retry_s=0.01)
    keeping = asyncio.create_task(inhibitor.keep())
    try:
        yield keeping
    finally:
        keeping.cancel()
        await asyncio.wait((keeping,))
    assert children() <= before


def children() -> set[int]:
    """This process's own. Those of other tests' may have children that come and go."""
    return {process.pid for process in psutil.Process().children()}


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110  # other processes tell nobody
            await asyncio.sleep(0.01)


def holders() -> list[psutil.Process]:
    """Each `cat` that runs below this process: one for each inhibitor that is held."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if process.name() == "cat" else []
        except psutil.NoSuchProcess:
            continue
    return found


async def test_it_is_held_from_the_first_request_until_a_while_after_the_last(
    played: Played,
) -> None:
    played.play(HOLDS)
    asked = Asked()
    async with kept(asked):
        asked.come()
        await until(holders)
        asked.go()
        asked.come()
        asked.go()
        await until(lambda: not holders())
        assert played.whats == ["sleep:idle"], "it was held over the gap"
        asked.come()
        await until(holders)
        assert len(holders()) == 1
    (arguments, _) = (rest for _, rest in played.started)
    assert arguments == (
        "--who=edged --why=requests are running --mode=block --what=sleep:idle cat"
    )


async def test_nothing_is_started_before_there_is_work(played: Played) -> None:
    played.play(HOLDS)
    async with kept(Asked()) as keeping:
        await asyncio.sleep(0)
        assert not keeping.done()
    assert not played.started


async def test_service_that_may_not_block_sleep_blocks_idleness(played: Played) -> None:
    played.play(REFUSES_SLEEP)
    asked = Asked()
    async with kept(asked):
        asked.come()
        await until(holders)
        asked.go()
        await until(lambda: not holders())
        asked.come()
        await until(holders)
    assert played.whats == ["sleep:idle", "idle", "idle"], "what was refused is not tried again"


async def test_host_that_refuses_everything_is_asked_again_and_told_once(played: Played) -> None:
    played.play(REFUSES)
    asked = Asked()
    with capture_logs() as logs:
        async with kept(asked) as keeping:
            asked.come()
            await until(lambda: len(played.whats) >= 6)
            played.play(HOLDS)
            await until(holders)
            assert not keeping.done()
    assert played.whats[:4] == ["sleep:idle", "idle"] * 2
    assert played.whats[-1] == "sleep:idle", "nothing was given up while nobody answered"
    (line,) = [line for line in logs if line["log_level"] == "info"]
    assert "Access denied" in line["reason"]


async def test_host_without_the_program_is_left_alone() -> None:
    asked = Asked()
    asked.come()
    async with kept(asked, Way("sleep", ("edged-no-such-program",))) as keeping:
        async with asyncio.timeout(WAIT_S):
            await keeping


async def test_holder_that_dies_is_replaced_a_few_times(played: Played) -> None:
    played.play(HOLDS)
    asked = Asked()
    asked.come()
    async with kept(asked) as keeping:
        for number in range(1, MAX_LOSSES + 2):
            await until(lambda number=number: len(played.started) == number and holders())
            pid, _ = played.started[-1]
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            await keeping
    assert len(played.started) == MAX_LOSSES + 1


async def test_holder_that_does_not_end_by_itself_is_killed(played: Played) -> None:
    played.play("read line; echo $line; trap '' TERM; sleep 1000")
    asked, before = Asked(), children()
    asked.come()
    async with kept(asked):
        await until(lambda: played.started)
        asked.go()
        await until(lambda: children() <= before)


async def test_who_ends_while_it_is_started_leaves_nothing(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.play(HOLDS)
    spawn, has_spawned, goes_on = asyncio.create_subprocess_exec, asyncio.Event(), asyncio.Event()

    async def slow(*argv: str, **options: object) -> asyncio.subprocess.Process:
        child = await spawn(*argv, **options)  # type: ignore[arg-type]
        has_spawned.set()
        await goes_on.wait()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    asked = Asked()
    asked.come()
    async with kept(asked):
        await has_spawned.wait()
        await until(holders)
        asyncio.get_running_loop().call_soon(goes_on.set)  # when it has been told to end


@pytest.mark.parametrize(
    ("platform", "programs"),
    [("linux", ["systemd-inhibit"] * 2), ("darwin", ["caffeinate"])],
)
def test_each_system_has_its_own_program(platform: str, programs: list[str]) -> None:
    assert [way.argv[0] for way in ways(platform)] == programs


async def test_macos_is_kept_awake_by_caffeinate(played: Played) -> None:
    played.play(HOLDS, name="caffeinate")
    asked = Asked()
    asked.come()
    async with kept(asked, *ways("darwin")):
        await until(holders)
    assert [rest for _, rest in played.started] == ["-i cat"]


# ── In a daemon ──────────────────────────────────────────────────────────────────────────────────

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="plays logind's program")


@ON_LINUX
async def test_daemon_keeps_its_host_awake_only_while_requests_run(
    tmp_path: Path, played: Played
) -> None:
    played.play(HOLDS)
    async with serving(tmp_path, sim_tables(step_s=0.02), PATH=played.path) as daemon:
        await daemon.ready()
        assert not played.started
        running = daemon.generate(ask("running", max_tokens=None))
        await running.tokens(3)
        await until(holders)
        pid, _ = played.started[0]
        assert "NOTIFY_SOCKET" not in psutil.Process(pid).environ()
        await running.leave()
        await gone(pid)
        assert len(played.started) == 1


@ON_LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
async def test_nothing_is_held_when_the_daemon_has_ended(
    number: signal.Signals, tmp_path: Path, played: Played
) -> None:
    played.play(HOLDS)
    tables = sim_tables(server={"drain_s": 0.2}, step_s=0.02)
    async with serving(tmp_path, tables, PATH=played.path) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        await until(holders)
        (holder,) = holders()
        daemon.signal(number)
        await daemon.exit_code()
        await gone(holder.pid)


@ON_LINUX
async def test_setting_turns_it_off_and_on(tmp_path: Path, played: Played) -> None:
    played.play(HOLDS)
    off = sim_tables(server={"inhibit_suspend": False}, step_s=0.02)
    async with serving(tmp_path, off, PATH=played.path) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        assert not played.started
        await reload(daemon, sim_tables(step_s=0.02))
        await until(holders)
        await reload(daemon, off)
        await until(lambda: not holders())
        await endless.tokens(len(endless.answer.token_ids) + 3)
        await endless.leave()
