"""Keeps the host from suspending while requests run, and no longer.

Theory of operation: a child of ours holds the inhibitor, as logind and macOS offer it to programs,
and runs `cat`. That ends when its standard input does, so nothing is held any more once the daemon
has ended, whatever way. `cat` is started when the inhibitor is held; so when it sends back what it
was sent, it is.

| logind says | then |
|---|---|
| yes | nobody suspends the host, not even by closing its lid |
| no to sleep, as to a service without a session | idleness does not suspend it |
| no to that too, or nothing | it is asked again, ever more rarely; said once |
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from edged.log import get_logger

LINGER_S = 5.0
"""From the end of the last request; the next one often comes soon."""
TAKE_S = 10.0
"""Longest wait for the inhibitor."""
RELEASE_S = 2.0
"""Longest wait for the child to end by itself."""
LOOK_S = 0.5
"""Whether the child is still there."""
MAX_LOSSES = 3
"""A child that dies is replaced so often, in the life of the daemon."""
RETRY_S = 10.0
"""After a child that died, and after everything was refused; there twice as long each time."""
MAX_RETRY_S = 3600.0
_ECHO = b"held\n"
_MAX_REASON_BYTES = 500


class Way(NamedTuple):
    """One way to keep the host awake."""

    against: str
    """What the host does not do meanwhile."""
    argv: tuple[str, ...]
    """What `cat` stands behind."""


class Demand(Protocol):
    async def wait_until_busy(self) -> None:
        """Returns when there is a request."""
        ...

    async def wait_until_idle(self) -> None:
        """Returns when there is none."""
        ...


def ways(platform: str) -> tuple[Way, ...]:
    """Best first. `platform` as `sys.platform` has it."""
    if platform == "darwin":
        return (Way("idle sleep", ("caffeinate", "-i")),)
    inhibit = ("systemd-inhibit", "--who=edged", "--why=requests are running", "--mode=block")
    return (
        Way("sleep, idleness", (*inhibit, "--what=sleep:idle")),
        Way("idleness", (*inhibit, "--what=idle")),
    )


class RefusedError(Exception):
    """The host does not let itself be kept awake in this way."""


class SuspendInhibitor:
    """Belongs to the event loop."""

    def __init__(
        self,
        demand: Demand,
        ways: Sequence[Way],
        *,
        linger_s: float = LINGER_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._demand = demand
        self._ways = list(ways)
        self._linger_s = linger_s
        self._retry_s = retry_s
        self._num_losses = 0
        self._has_told = False
        self._log = get_logger("inhibitor")

    async def keep(self) -> None:
        """Hold it while there is work; returns when that cannot be had. Cancelled, it lets go."""
        program = self._ways[0].argv[0]
        if shutil.which(program) is None:
            self._log.debug("the host may suspend", reason=f"there is no {program}")
            return
        retry_s = self._retry_s
        while True:
            await self._demand.wait_until_busy()
            child = await self._take()
            if child is None:
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            retry_s = self._retry_s
            try:
                is_lost = await self._hold(child)
            finally:
                await _end(child)
            if not is_lost:
                continue
            self._num_losses += 1
            if self._num_losses > MAX_LOSSES:
                self._log.warning("the host may suspend: what kept it awake ended again and again")
                return
            await asyncio.sleep(self._retry_s)

    async def _take(self) -> asyncio.subprocess.Process | None:
        """The first way that works is kept to: the host answers, and refuses those before it. Where
        none works nobody may be there to answer, for now."""
        reasons = []
        for number, way in enumerate(self._ways):
            try:
                child = await _start(way)
            except RefusedError as error:
                reasons.append(str(error))
                continue
            del self._ways[:number]
            self._log.debug("the host is kept awake", against=way.against)
            return child
        if not self._has_told:
            self._has_told = True
            self._log.info("the host may suspend while requests run", reason=reasons[-1])
        return None

    async def _hold(self, child: asyncio.subprocess.Process) -> bool:
        """Until nobody needs it any more; True: it was lost before."""
        ended = asyncio.create_task(_exit(child))
        quiet = asyncio.create_task(self._wait_until_quiet())
        try:
            await asyncio.wait((ended, quiet), return_when=asyncio.FIRST_COMPLETED)
            return not quiet.done()
        finally:
            ended.cancel()
            quiet.cancel()

    async def _wait_until_quiet(self) -> None:
        while True:
            await self._demand.wait_until_idle()
            try:
                async with asyncio.timeout(self._linger_s):
                    await self._demand.wait_until_busy()
            except TimeoutError:
                return


async def _start(way: Way) -> asyncio.subprocess.Process:
    """A child that holds it. Raises RefusedError."""
    try:
        child = await _spawn(way)
    except OSError as error:
        raise RefusedError(f"{way.argv[0]}: {error.strerror}") from error
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(TAKE_S):
            child.stdin.write(_ECHO)
            if await child.stdout.readline() == _ECHO:
                return child
            said = await child.stderr.read(_MAX_REASON_BYTES)
            reason = " ".join(said.decode(errors="replace").split())
    except TimeoutError:
        reason = f"{way.argv[0]} did not answer within {TAKE_S:g} s"
    except BaseException:
        await _end(child)
        raise
    await _end(child)
    raise RefusedError(reason)


async def _spawn(way: Way) -> asyncio.subprocess.Process:
    spawning = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *way.argv,
            "cat",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # without a terminal, so that it can ask nobody for a password
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # Cancelled itself, it kills the child alone and waits for its `cat`, which may never end.
        with contextlib.suppress(OSError):
            await _end(await spawning)
        raise


async def _end(child: asyncio.subprocess.Process) -> None:
    """Nothing of it is left."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(RELEASE_S):
            await child.communicate()  # which closes its pipes too
    except TimeoutError:
        await _kill(child)
    except asyncio.CancelledError:
        await _kill(child)
        raise


async def _kill(child: asyncio.subprocess.Process) -> None:
    """It, or the `cat` that has outlived it, is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.communicate()


async def _exit(child: asyncio.subprocess.Process) -> None:
    """Returns when it has exited; asyncio's own `wait` waits for its `cat` too."""
    while child.returncode is None:  # noqa: ASYNC110  # nothing tells it
        await asyncio.sleep(LOOK_S)
