"""edged as a service of a booted host: configured, started, asked, and looked at."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc

from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.e2e.daemon import CHANNEL_OPTIONS
from tests.e2e.settings import Tables, write_config
from tests.e2e.streams import WAIT_S, Stream, ask
from tests.host.booted import BootedHost

UNIT = "edged.service"
SOCKET = "/run/edged/edged.sock"
CONFIG = "/etc/edged/config.toml"
ADDRESS = {"EDGED_HOST": f"unix:{SOCKET}"}


@dataclass(frozen=True, slots=True)
class Service:
    host: BootedHost
    inference: InferenceServiceStub
    """Called by root, through the socket."""
    cursor: str
    """Where the journal was when it was started."""

    def shown(self, name: str) -> str:
        """A property of the unit."""
        return shown(self.host, name)

    @property
    def pid(self) -> int:
        """Of the daemon, as the booted host numbers it."""
        return int(self.shown("MainPID"))

    def generate(self, prompt: str, max_tokens: int) -> Stream:
        return Stream(self.inference, ask(prompt, max_tokens=max_tokens))

    def configure(self, tables: Tables) -> None:
        write_config(self.host.path(CONFIG), tables)

    def lines(self) -> list[str]:
        """Of the journal since it was started: the daemon's, and those of systemd about it."""
        since = ("--unit", UNIT, f"--after-cursor={self.cursor}")
        return self.host.check("journalctl", *since, "--output=cat").splitlines()

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, is_so, what)


@asynccontextmanager
async def running(host: BootedHost, tables: Tables) -> AsyncIterator[Service]:
    """Freshly started with this configuration; stopped afterwards."""
    write_config(host.path(CONFIG), tables)
    host.run("systemctl", "reset-failed", UNIT)
    shown_cursor = host.check("journalctl", "--lines=1", "--show-cursor", "--output=cat")
    cursor = shown_cursor.rpartition("-- cursor: ")[2].strip()
    target = f"unix:{host.path(SOCKET)}"
    try:
        started = host.run("systemctl", "restart", UNIT)
        log = host.check("journalctl", "--unit", UNIT, f"--after-cursor={cursor}", "--output=cat")
        assert started.returncode == 0, log
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            yield Service(host, InferenceServiceStub(channel), cursor)
    finally:
        host.run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", UNIT)
        host.run("systemctl", "stop", UNIT)


@contextmanager
def dropped_in(host: BootedHost, text: str) -> Iterator[None]:
    """With a drop-in, as `systemctl edit` would write it, until the next boot."""
    folder = host.path(f"/run/systemd/system/{UNIT}.d")
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text(text)
    host.check("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(folder)
        host.check("systemctl", "daemon-reload")


def shown(host: BootedHost, name: str) -> str:
    return host.check("systemctl", "show", f"--property={name}", "--value", UNIT).strip()


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """systemd has no way to wait for this, so it is asked again and again."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"it never came to be: {what}"
        time.sleep(0.05)
