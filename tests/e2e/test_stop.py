"""A daemon that is asked to end, in every way: what runs finishes in time, and nothing is left."""

import os
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from edged.v1 import admin_pb2
from tests.e2e.daemon import Daemon, gone, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask

STEP_S = 0.01
"""About 80 tokens/s for one stream."""


async def ask_to_end(daemon: Daemon, way: str) -> None:
    if way == "edgectl":
        done = await daemon.edgectl("drain")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "draining: 1 request(s) to finish\n"
    else:
        daemon.signal(signal.Signals[way])
    await daemon.logged("draining")


@pytest.mark.parametrize(
    ("way", "num_tokens"),
    # A program takes longer to start than a signal to arrive.
    [("SIGTERM", 100), ("SIGINT", 100), ("edgectl", 200)],
)
async def test_draining_finishes_what_runs_and_refuses_what_comes(
    way: str, num_tokens: int, tmp_path: Path
) -> None:
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon:
        running = daemon.generate(ask("running", max_tokens=num_tokens))
        await running.tokens(3)
        await ask_to_end(daemon, way)
        assert (await daemon.status()).state == admin_pb2.DAEMON_STATE_DRAINING
        health = await daemon.health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        late = await daemon.generate(ask("too late")).end()
        assert (late.code, late.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert not running.answer.count("finished"), "the refusal came while work was running"
        assert len((await running.end()).token_ids) == num_tokens
        assert running.answer.finished.usage.num_generated_tokens == num_tokens
        assert await daemon.exit_code() == 0
        await daemon.check_nothing_is_left()


async def test_what_outlasts_the_drain_is_cancelled(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(server={"drain_s": 0.5}, step_s=STEP_S)) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        daemon.signal(signal.SIGTERM)
        answer = await endless.end()
        assert (answer.code, answer.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
        assert "shutting down" in answer.detail
        assert await daemon.exit_code() == 0
        await daemon.check_nothing_is_left()


async def test_second_signal_waits_no_longer(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(server={"drain_s": 3600.0}, step_s=STEP_S)) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        daemon.signal(signal.SIGINT)
        await daemon.logged("draining")
        num_tokens = len(endless.answer.token_ids)
        await endless.tokens(num_tokens + 3)
        daemon.signal(signal.SIGINT)
        assert (await endless.end()).code == grpc.StatusCode.CANCELLED
        assert await daemon.exit_code() == 0


async def test_drain_call_may_have_a_time_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(server={"drain_s": 3600.0}, step_s=STEP_S)) as daemon:
        endless = daemon.generate(ask("endless", max_tokens=None))
        await endless.tokens(3)
        done = await daemon.edgectl("drain", "--timeout", "0.2", "--json")
        assert done.stdout == '{"num_requests": 1}\n'
        assert (await endless.end()).code == grpc.StatusCode.CANCELLED
        assert await daemon.exit_code() == 0


async def test_daemon_ends_while_its_model_loads(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=30.0)) as daemon:
        await daemon.logged("engine started")
        daemon.signal(signal.SIGTERM)
        assert await daemon.exit_code() == 0
        await daemon.check_nothing_is_left()


async def test_engine_ends_with_a_killed_daemon_and_the_next_daemon_starts(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon:
        await daemon.generate(ask("endless", max_tokens=None)).tokens(3)
        daemon.signal(signal.SIGKILL)
        assert await daemon.exit_code() == -signal.SIGKILL
        await gone(daemon.engine_pids[0])
        assert daemon.socket.exists(), "a killed daemon cannot tidy up"
    async with serving(tmp_path, sim_tables()) as daemon:
        assert (await daemon.generate(ask("again")).end()).finished.usage.num_generated_tokens


async def test_ctrl_c_reaches_the_daemon_and_not_its_engine(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=STEP_S)) as daemon:
        running = daemon.generate(ask("running", max_tokens=100))
        await running.tokens(3)
        (engine_pid,) = daemon.engine_pids
        assert os.getpgid(engine_pid) != os.getpgid(daemon.pid), "a terminal signals one group"
        os.kill(engine_pid, signal.SIGINT)
        daemon.signal(signal.SIGINT)
        answer = await running.end()
        assert answer.finished.timings.num_engine_losses == 0
        assert len(answer.token_ids) == 100
        assert await daemon.exit_code() == 0
