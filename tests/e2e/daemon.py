"""The installed daemon as a process of its own: started, listened to, asked, stopped, looked after.

Its log goes to a pipe as JSON, so that tests wait for what it says instead of for time to pass.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import grpc
import psutil
from grpc_health.v1.health_pb2_grpc import HealthStub

from edged.v1 import admin_pb2, inference_pb2
from edged.v1.admin_pb2_grpc import AdminServiceStub
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.cli.program import Program
from tests.e2e.settings import Tables, write_config
from tests.e2e.streams import WAIT_S, Answer, Stream

CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
LogLine = dict[str, Any]
IsWanted = Callable[[admin_pb2.Model], bool]


@dataclass
class Daemon:
    """Listening; its models may still be loading."""

    process: asyncio.subprocess.Process
    folder: Path
    environ: dict[str, str]
    channel: grpc.aio.Channel
    log: list[LogLine] = field(default_factory=list)
    """Its log lines so far."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _listening: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.inference = InferenceServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.health = HealthStub(self.channel)

    # ── The process ──────────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def socket(self) -> Path:
        return socket_of(self.folder)

    @property
    def engine_pids(self) -> list[int]:
        """Of every engine it has started."""
        return [int(line["pid"]) for line in self.lines("engine started")]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for its end, and for the last line of its log."""
        async with asyncio.timeout(WAIT_S):
            code = await self.process.wait()
            assert self._listening is not None, "the log is read from the start"
            await self._listening
        return code

    async def check_nothing_is_left(self) -> None:
        """No engine, no socket file. The daemon has ended."""
        for pid in self.engine_pids:
            await gone(pid)
        assert not self.socket.exists(), "the socket file is left behind"

    # ── The log ──────────────────────────────────────────────────────────────────────────────────

    def lines(self, event: str) -> list[LogLine]:
        return [line for line in self.log if line["event"] == event]

    async def logged(self, event: str, count: int = 1) -> LogLine:
        """Wait for the line of that event, or for so many of them; the last one."""
        async with asyncio.timeout(WAIT_S):
            while len(self.lines(event)) < count:
                ended = self._listening is not None and self._listening.done()
                assert not ended, f"it never logged {event!r}: {self.log}"
                await self._changed.wait()
        return self.lines(event)[count - 1]

    def listen_to_log(self) -> None:
        self._listening = asyncio.create_task(self._read_log())

    async def _read_log(self) -> None:
        assert self.process.stderr is not None, "stderr is a pipe"
        async for line in self.process.stderr:
            self.log.append(_parsed(line.decode()))
            self._wake()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ── Its clients ──────────────────────────────────────────────────────────────────────────────

    def generate(
        self, request: inference_pb2.GenerateRequest, timeout_s: float | None = None
    ) -> Stream:
        return Stream(self.inference, request, timeout_s)

    async def answers(self, requests: Sequence[inference_pb2.GenerateRequest]) -> list[Answer]:
        """All at once, each to its end."""
        streams = [self.generate(request) for request in requests]
        return [await stream.end() for stream in streams]

    async def status(self) -> admin_pb2.Status:
        answer = await self.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=WAIT_S)
        return answer.status

    async def model(self, name: str = "") -> admin_pb2.Model:
        """That model, or the default one."""
        return _model_in(await self.status(), name)

    async def model_until(self, is_wanted: IsWanted, name: str = "") -> admin_pb2.Model:
        """Watch the status until a model is as wanted; the default one if none is named."""
        request = admin_pb2.WatchStatusRequest(interval_s=0.1)
        watch = self.admin.WatchStatus(request, timeout=WAIT_S)
        model = None
        try:
            async for answer in watch:
                model = _model_in(answer.status, name)
                if is_wanted(model):
                    return model
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"it never came to be: {model}; {self.log}") from error
        finally:
            watch.cancel()
        raise AssertionError(f"the watch ended with {model}")

    async def ready(self, name: str = "") -> admin_pb2.Model:
        """Wait until a model serves."""
        return await self.model_until(_is_ready_or_failed, name)

    async def requests(self) -> list[admin_pb2.RequestInfo]:
        request = admin_pb2.ListRequestsRequest()
        answer = await self.admin.ListRequests(request, timeout=WAIT_S)
        return list(answer.requests)

    def program(self, name: str) -> Program:
        """`edged` or `edgectl` in the daemon's own environment, set up to find it."""
        return Program(name, {**self.environ, "EDGED_HOST": f"unix:{self.socket}"})

    async def edgectl(self, *arguments: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(self.program("edgectl").run, *arguments)


@asynccontextmanager
async def serving(
    folder: Path, tables: Tables, *flags: str, within: Sequence[str] = (), **environ: str
) -> AsyncIterator[Daemon]:
    """A daemon on a socket of its own and a free port, configured by `tables`, flags and variables.

    `within` is a command that runs another, as `ip netns exec NAME`.
    Handed over when it listens. At the end it is asked to stop at once, if it still runs; unless a
    signal ended it, nothing may be left of it.
    """
    environment = environment_of(folder) | environ
    process = await asyncio.create_subprocess_exec(
        *within,
        Program("edged").path,
        *serve_arguments(folder, tables),
        *flags,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
        env=environment,
    )
    target = f"unix:{socket_of(folder)}"
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        daemon = Daemon(process, folder, environment, channel)
        daemon.listen_to_log()
        try:
            await daemon.logged("listening")
            yield daemon
        finally:
            with contextlib.suppress(ProcessLookupError):
                daemon.signal(signal.SIGINT)
                daemon.signal(signal.SIGINT)
            try:
                code = await daemon.exit_code()
            except TimeoutError:
                process.kill()
                raise
    if code >= 0:
        assert code == 0, f"exit code {code}: {daemon.log}"
        await daemon.check_nothing_is_left()


def socket_of(folder: Path) -> Path:
    return folder / "edged.sock"


def serve_arguments(folder: Path, tables: Tables) -> list[str]:
    """`edged serve` with a configuration file that is written here."""
    config = write_config(folder / "config.toml", tables)
    address = ("--listen", "127.0.0.1:0", "--socket", str(socket_of(folder)))
    return ["serve", "--config", str(config), *address]


def environment_of(folder: Path) -> dict[str, str]:
    """Of a user without settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


async def gone(pid: int) -> None:
    """Wait until a process has ended, whoever its parent is."""
    try:
        process = psutil.Process(pid)
        await asyncio.to_thread(process.wait, WAIT_S)
    except psutil.NoSuchProcess:
        return


def _parsed(line: str) -> LogLine:
    """A line that is no JSON is somebody else's."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return {"event": "", "line": line}
    assert isinstance(parsed, dict), line
    return parsed


def _model_in(status: admin_pb2.Status, name: str) -> admin_pb2.Model:
    return next(m for m in status.models if m.name == name or (m.is_default and not name))


def _is_ready_or_failed(model: admin_pb2.Model) -> bool:
    assert model.state != admin_pb2.MODEL_STATE_FAILED, model.failure
    return model.state == admin_pb2.MODEL_STATE_READY
