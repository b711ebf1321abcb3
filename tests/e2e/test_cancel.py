"""Requests that end early leave the engine within a step, in prefill too, and their KV is free."""

import asyncio
import signal
from pathlib import Path

import grpc

from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask

LONG = [n % 200 for n in range(4000)]


async def all_free(daemon: Daemon) -> admin_pb2.Model:
    """Wait until nothing holds a slot or a cell."""
    model = await daemon.model_until(lambda m: not (m.kv.used_tokens or m.kv.used_slots))
    assert await daemon.requests() == []
    return model


async def test_client_that_leaves_in_a_long_prefill_frees_its_cells_at_once(
    tmp_path: Path,
) -> None:
    # 63 steps of 0.3 s, were they all computed.
    tables = sim_tables(engine={"max_step_tokens": 64}, step_s=0.3)
    async with serving(tmp_path, tables) as daemon:
        stream = daemon.generate(ask(LONG, tier=pb.TIER_INTERACTIVE))
        before = await daemon.model_until(lambda model: model.kv.used_tokens > 0)
        (request,) = await daemon.requests()
        assert 0 < request.num_computed_tokens < len(LONG) / 2
        await stream.leave()
        after = await all_free(daemon)
        # The counters are half a second old, and a step that runs is not broken off.
        assert after.num_steps <= before.num_steps + 4
        assert stream.answer.count("token") == 0


async def test_client_that_leaves_while_tokens_come_frees_its_cells(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        stays, leaves = (daemon.generate(ask(text, max_tokens=150)) for text in ("stay", "leave"))
        await leaves.tokens(3)
        await leaves.leave()
        assert len((await stays.end()).token_ids) == 150
        await all_free(daemon)


async def test_edgectl_cancels_a_running_request(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        stream = daemon.generate(ask("endless", max_tokens=None))
        await stream.tokens(3)
        request_id = stream.answer.request_id
        done = await daemon.edgectl("cancel", request_id[:6])
        assert (done.returncode, done.stdout) == (0, f"{request_id} is cancelled\n")
        answer = await stream.end()
        assert (answer.code, answer.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
        assert "operator" in answer.detail
        await all_free(daemon)


async def test_deadline_of_the_call_reaches_the_engine(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        answer = await daemon.generate(ask("endless", max_tokens=None), timeout_s=0.7).end()
        assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert answer.token_ids
        await all_free(daemon)


async def test_deadline_of_the_request_ends_it_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        targets = pb.Targets(deadline_s=0.5)
        answer = await daemon.generate(ask("endless", max_tokens=None, targets=targets)).end()
        assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert answer.reason == "DEADLINE_EXCEEDED"
        assert answer.token_ids
        await all_free(daemon)


async def test_interrupted_edgectl_cancels_its_request(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        process = await asyncio.create_subprocess_exec(
            daemon.program("edgectl").path,
            *("run", "endless"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=daemon.program("edgectl").environ,
        )
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            await process.stdout.readexactly(3)
            process.send_signal(signal.SIGINT)
            await process.communicate()
        assert process.returncode == 130
        await all_free(daemon)
