"""`edgectl discover --watch` on a host of the network, read as it tells."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli.program import Program
from tests.e2e.daemon import environment_of
from tests.e2e.streams import WAIT_S
from tests.lan.network import Host

Told = dict[str, Any]


@dataclass
class Watcher:
    process: asyncio.subprocess.Process
    began_s: float
    told: list[Told] = field(default_factory=list)
    """Every change so far, with the seconds since the start of the program."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, is_wanted: Callable[[Told], bool], since: int = 0) -> Told:
        """The first change that is wanted, of those from number `since` on."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for change in self.told[since:]:
                    if is_wanted(change):
                        return change
                self._changed.clear()
                await self._changed.wait()

    async def listen(self) -> None:
        assert self.process.stdout is not None, "stdout is a pipe"
        async for line in self.process.stdout:
            change = json.loads(line)
            change["after_s"] = time.monotonic() - self.began_s
            change["at_s"] = time.monotonic()
            self.told.append(change)
            self._changed.set()


@asynccontextmanager
async def watching(host: Host, folder: Path, *options: str) -> AsyncIterator[Watcher]:
    began_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *host.within,
        Program("edgectl").path,
        *("discover", "--watch", "--json", *options),
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
        env=environment_of(folder),
    )
    watcher = Watcher(process, began_s)
    listening = asyncio.create_task(watcher.listen())
    try:
        yield watcher
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await listening


def is_change(kind: str, name: str) -> Callable[[Told], bool]:
    return lambda change: change["change"] == kind and change["name"] == name
