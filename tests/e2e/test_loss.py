"""Engines that are killed, stopped or taken down: no request is lost, no token is sent twice."""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from edged.v1 import admin_pb2, inference_pb2
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, Answer, ask, check_equal, work

LOST = inference_pb2.PREEMPTION_CAUSE_ENGINE_LOST
POISON = 255
"""A byte that no text contains."""


def check_events(answer: Answer, num_losses: int) -> None:
    """A pause and its end for each loss, and nothing else out of the ordinary."""
    assert answer.causes == [LOST] * num_losses
    kinds = [kind for kind in answer.kinds() if kind != "token"]
    assert kinds == ["admitted", *["preempted", "resumed"] * num_losses, "finished"]
    assert answer.finished.timings.num_engine_losses == num_losses


def has_gone_on_after(num_losses: int) -> Callable[[Answer], bool]:
    return lambda answer: bool(answer.token_ids) and answer.count("resumed") == num_losses


async def held(daemon: Daemon, count: int) -> None:
    """Wait until so many requests are held for want of an engine."""
    async with asyncio.timeout(WAIT_S):
        while True:
            states = [request.state for request in await daemon.requests()]
            if states == [admin_pb2.REQUEST_STATE_HELD] * count:
                return


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_streams_go_on_when_their_engine_is_lost(
    number: signal.Signals, tmp_path: Path
) -> None:
    tables = sim_tables(engine={"stall_s": 1.0}, step_s=0.005)
    async with serving(tmp_path, tables) as daemon:
        wanted = await daemon.answers(work(8, max_tokens=120))
        streams = [daemon.generate(request) for request in work(8, max_tokens=120)]
        for num_losses in range(2):
            for stream in streams:
                await stream.until(has_gone_on_after(num_losses))
            os.kill(daemon.engine_pids[-1], number)
            await daemon.logged("engine lost", num_losses + 1)
        answers = [await stream.end() for stream in streams]
        check_equal(answers, wanted)
        for answer in answers:
            check_events(answer, num_losses=2)
        model = await daemon.ready()
        assert model.num_engine_losses == 2
        assert model.engine_pid == daemon.engine_pids[2]
        assert len(set(daemon.engine_pids)) == 3


async def test_requests_outlive_engines_that_are_killed_while_they_load(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=0.5)) as daemon:
        streams = [daemon.generate(request) for request in work(4, max_tokens=40)]
        await held(daemon, 4)
        for num_losses in (1, 2):
            await daemon.logged("engine started", num_losses)
            os.kill(daemon.engine_pids[-1], signal.SIGKILL)
            await daemon.logged("engine lost while loading", num_losses)
            assert (await daemon.model()).state == admin_pb2.MODEL_STATE_LOADING
        answers = [await stream.end() for stream in streams]
        for answer in answers:
            check_events(answer, num_losses=0)
        check_equal(answers, await daemon.answers(work(4, max_tokens=40)))
        assert (await daemon.model()).num_engine_losses == 2


async def test_held_requests_outlive_another_loss(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(load_s=0.5, step_s=0.005)) as daemon:
        requests = work(6, max_tokens=100)
        wanted = await daemon.answers(requests)
        streams = [daemon.generate(request) for request in requests[:3]]
        for stream in streams:
            await stream.tokens(3)
        os.kill(daemon.engine_pids[-1], signal.SIGKILL)
        await daemon.logged("engine started", 2)
        streams += [daemon.generate(request) for request in requests[3:]]
        await held(daemon, 6)
        assert (await daemon.model()).state == admin_pb2.MODEL_STATE_RESTARTING
        os.kill(daemon.engine_pids[-1], signal.SIGKILL)
        await daemon.logged("engine lost while loading")
        answers = [await stream.end() for stream in streams]
        check_equal(answers, wanted)
        for number, answer in enumerate(answers):
            check_events(answer, num_losses=1 if number < 3 else 0)


async def test_request_that_takes_engines_down_ends_alone(tmp_path: Path) -> None:
    tables = sim_tables(step_s=0.005, abort_on_token=POISON)
    async with serving(tmp_path, tables) as daemon:
        innocents = work(5, max_tokens=100)
        wanted = await daemon.answers(innocents)
        streams = [daemon.generate(request) for request in innocents]
        for stream in streams:
            await stream.tokens(3)
        poison = await daemon.generate(ask([1, 2, POISON])).end()
        assert (poison.code, poison.reason) == (grpc.StatusCode.INTERNAL, "POISONED_REQUEST")
        (poison_id,) = re.findall(r"request (\w+) took the engine down twice", poison.detail)
        assert "SIGABRT" in poison.detail
        (first, _second) = daemon.lines("engine lost")
        assert poison_id in first["suspects"]
        answers = [await stream.end() for stream in streams]
        assert poison_id not in {answer.request_id for answer in answers}
        check_equal(answers, wanted)
        model = await daemon.ready()
        assert model.num_engine_losses == 2, "the innocents were not tried more than needed"


async def test_model_whose_engines_never_get_anywhere_is_given_up_until_it_is_loaded_again(
    tmp_path: Path,
) -> None:
    tables = sim_tables(engine={"max_restarts": 1}, load_s=0.3)
    async with serving(tmp_path, tables) as daemon:
        stream = daemon.generate(ask("in vain"))
        await held(daemon, 1)
        for count in (1, 2):
            await daemon.logged("engine started", count)
            os.kill(daemon.engine_pids[-1], signal.SIGKILL)
        answer = await stream.end()
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
        assert "was killed while loading from outside (SIGKILL)" in answer.detail
        assert (await daemon.status()).state == admin_pb2.DAEMON_STATE_FAILED
        check = health_pb2.HealthCheckRequest()
        health = await daemon.health.Check(check, timeout=WAIT_S)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        done = await daemon.edgectl("models", "load", "sim")
        assert (done.returncode, done.stdout) == (0, "sim is ready\n")
        health = await daemon.health.Check(check, timeout=WAIT_S)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert (await daemon.generate(ask("at last")).end()).finished
