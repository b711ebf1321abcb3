"""A daemon that starts: it listens before its models are loaded, and says why when it cannot."""

import asyncio
import os
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from edged.v1 import admin_pb2
from edged.v1.admin_pb2_grpc import AdminServiceStub
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.cli.program import Program
from tests.e2e.daemon import (
    CHANNEL_OPTIONS,
    environment_of,
    serve_arguments,
    serving,
    socket_of,
)
from tests.e2e.mounts import run_with_mount
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, Stream, ask

SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_daemon_answers_on_both_listeners_while_its_model_loads(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=2.0)) as daemon:
        listeners = (await daemon.logged("listening"))["listeners"]
        assert f"unix:{daemon.socket}" in listeners
        assert len(listeners) == 2
        for target in listeners:
            async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
                request = admin_pb2.GetStatusRequest()
                answer = await AdminServiceStub(channel).GetStatus(request, timeout=WAIT_S)
                assert answer.status.state == admin_pb2.DAEMON_STATE_LOADING
                assert list(answer.status.listeners) == listeners
        seen = await daemon.model_until(lambda model: 0 < model.load_progress < 1)
        assert seen.state == admin_pb2.MODEL_STATE_LOADING
        await daemon.ready()
        assert (await daemon.status()).state == admin_pb2.DAEMON_STATE_READY


async def test_health_serves_as_soon_as_requests_are_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=3.0)) as daemon:
        watch = daemon.health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        while (await watch.read()).status != SERVING:
            pass
        assert (await daemon.model()).state == admin_pb2.MODEL_STATE_LOADING
        assert (await daemon.generate(ask("held", max_tokens=2)).end()).finished
        assert (await daemon.model()).state == admin_pb2.MODEL_STATE_READY
        watch.cancel()


async def test_requests_made_while_the_model_loads_are_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=1.0)) as daemon:
        stream = daemon.generate(ask("early", max_tokens=5))
        program = asyncio.create_task(daemon.edgectl("run", "--max-tokens", "5", "early too"))
        assert len((await stream.end()).token_ids) == 5
        done = await program
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


async def test_answers_over_tcp_are_those_of_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        (tcp,) = [one for one in daemon.log[0]["listeners"] if not one.startswith("unix:")]
        async with grpc.aio.insecure_channel(tcp, options=CHANNEL_OPTIONS) as channel:
            over_tcp = await Stream(InferenceServiceStub(channel), ask("same")).end()
        assert over_tcp.finished.usage.num_generated_tokens == 16
        assert over_tcp.token_ids == (await daemon.generate(ask("same")).end()).token_ids


async def test_second_daemon_on_a_taken_address_ends_and_the_first_lives(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        (tcp,) = [one for one in daemon.log[0]["listeners"] if not one.startswith("unix:")]
        await daemon.ready()
        edged = Program("edged", environment_of(tmp_path))
        other = tmp_path / "other.sock"
        for flags, sentence in (
            (("--socket", str(daemon.socket), "--listen", ""), "another process listens on"),
            (("--socket", str(other), "--listen", tcp), "Address already in use"),
        ):
            arguments = ("serve", "--backend", "sim", "--model", "sim=none", *flags)
            done = await asyncio.to_thread(edged.run, *arguments)
            assert done.returncode == 1, done.stderr
            (line,) = [line for line in done.stderr.splitlines() if sentence in line]
            assert line.startswith("edged: ")
            assert "Traceback" not in done.stderr
        assert not other.exists()
        answer = await daemon.generate(ask("still there?")).end()
        assert answer.finished.usage.num_generated_tokens == 16


@pytest.mark.parametrize(
    ("mount", "sentence"),
    [("ro,mode=700", "Read-only file system"), ("nr_inodes=1,mode=700", "No space left on device")],
    ids=["read_only", "full"],
)
def test_daemon_that_cannot_make_its_socket_says_why(
    mount: str, sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    arguments = serve_arguments(tmp_path, sim_tables())
    arguments[arguments.index("--socket") + 1] = str(socket_of(folder))
    done = run_with_mount(folder, mount, arguments, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edged: ")]
    assert sentence in line
    assert "(server.socket)" in line


async def test_daemon_serves_on_when_its_log_has_no_space_left(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = await asyncio.create_subprocess_exec(
        Program("edged").path,
        *serve_arguments(tmp_path, sim_tables()),
        stderr=full,
        env=environment_of(tmp_path),
    )
    os.close(full)
    target = f"unix:{socket_of(tmp_path)}"
    options = (*CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100))
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        request = admin_pb2.GetStatusRequest()
        await AdminServiceStub(channel).GetStatus(request, timeout=WAIT_S, wait_for_ready=True)
        answer = await Stream(InferenceServiceStub(channel), ask("quietly")).end()
        assert answer.finished.usage.num_generated_tokens == 16
    process.terminate()
    async with asyncio.timeout(WAIT_S):
        assert await process.wait() == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_command_on_a_full_disk_tells_it_where_it_can(stream: str, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [Program("edged").path, "version"],
            stdout=full if stream == "stdout" else subprocess.PIPE,
            stderr=full if stream == "stderr" else subprocess.PIPE,
            env=environment_of(tmp_path),
            timeout=WAIT_S,
            check=False,
        )
    if stream == "stderr":
        assert done.returncode == 0
        assert done.stdout.startswith(b"edged ")
    else:
        assert done.returncode == 1
        sentence = b"edged: the output cannot be written: No space left on device\n"
        assert done.stderr == sentence
