"""Node.js with the packages of tests/interop/package.json, and what a client in it saw."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.rpc
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INSTALL_LIMIT_S = 100.0
WAIT_S = 40.0
"""Longest life of a client; reached only by a test that fails."""
OLDEST_NODE = 18
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "ECONNRESET")
GOOGLE_PROTOS = str(Path(next(iter(google.rpc.__path__))).parents[1])
"""A folder with google/rpc/status.proto in it, as Google publishes it."""

Seen = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """The program, with its packages installed in a folder."""

    program: str
    packages: Path

    @asynccontextmanager
    async def running(self, *arguments: str, **environ: str) -> AsyncIterator["Running"]:
        """`node` with arguments, in the root of the tree; it is killed if it has not ended."""
        process = await asyncio.create_subprocess_exec(
            self.program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(self.packages), **environ},
            limit=2**20,
        )
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def client(self, scenario: str, address: str, **task: Any) -> list[Seen]:
        """All that the client of this folder saw in a scenario, to its end."""
        async with self.starting(scenario, address, **task) as running:
            return await running.rest()

    def starting(
        self, scenario: str, address: str, **task: Any
    ) -> AbstractAsyncContextManager["Running"]:
        """The client of this folder, in a scenario."""
        given = {"scenario": scenario, "address": address, "google": GOOGLE_PROTOS, **task}
        return self.running(str(HERE / "client.js"), json.dumps(given))


@dataclass
class Running:
    process: asyncio.subprocess.Process
    seen: list[Seen] = field(default_factory=list)

    async def output(self) -> str:
        """What it prints to its successful end."""
        async with asyncio.timeout(WAIT_S):
            output, errors = await self.process.communicate()
        assert (self.process.returncode, errors) == (0, b""), errors.decode()
        return output.decode()

    async def rest(self) -> list[Seen]:
        """All lines that it prints, those that were waited for among them."""
        output = await self.output()
        self.seen += [json.loads(line) for line in output.splitlines()]
        return self.seen

    async def until(self, event: str) -> Seen:
        """Wait for the next line of an event."""
        assert self.process.stdout is not None, "stdout is a pipe"
        async with asyncio.timeout(WAIT_S):
            async for line in self.process.stdout:
                self.seen.append(json.loads(line))
                if self.seen[-1].get("event") == event:
                    return self.seen[-1]
        raise AssertionError(f"there was no {event}: {self.seen}")


def install() -> Node:
    """Node with the packages of the lock file, in a folder of their own under build/, once.

    Skips the test that asks where there is no Node.js, or no registry.
    """
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("needs Node.js and npm: sudo apt-get install nodejs npm")
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if int(shown.stdout.strip("v\n").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"needs Node.js {OLDEST_NODE} or newer; this is {shown.stdout.strip()}")
    files = [HERE / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = ROOT / "build" / "interop" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not (folder / "done").exists():
            for file in files:
                shutil.copy(file, folder)
            _ci(npm, folder)
            (folder / "done").touch()
    return Node(program, folder / "node_modules")


def _ci(npm: str, folder: Path) -> None:
    flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
    try:
        done = subprocess.run(
            [npm, "ci", *flags],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end within {INSTALL_LIMIT_S:g} s: is there a registry?")
    if done.returncode and any(word in done.stderr for word in _UNREACHABLE):
        pytest.skip(f"npm's registry cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Tests that run side by side install once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
