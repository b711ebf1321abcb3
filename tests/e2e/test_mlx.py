"""The daemon with a model in MLX: the urgent go first, a killed engine loses nobody, and KV that is
kept outlives the daemon."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import serving
from tests.e2e.settings import Tables, Value
from tests.e2e.streams import ask, check_equal, work
from tests.models import require_mlx
from tests.tiny_mlx import write_tiny_mlx

LOST = pb.PREEMPTION_CAUSE_ENGINE_LOST
NUM_TOKENS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_mlx()
    return write_tiny_mlx(tmp_path_factory.mktemp("mlx") / "tiny")


def tables(folder: Path, **engine: Value) -> Tables:
    """No backend is named: a folder is MLX's."""
    given: Mapping[str, Value] = {"context_tokens": 2048, **engine}
    return {"engine": given, "models.tiny": {"path": str(folder)}}


async def test_a_folder_is_served_by_mlx_and_says_what_it_stores(
    folder: Path, tmp_path: Path
) -> None:
    async with serving(tmp_path, tables(folder, kv_type="q4_0")) as daemon:
        model = await daemon.ready()
        assert (model.backend, model.device) == ("mlx", "cpu")
        assert (model.kv.effective_type, model.kv.storage) == ("q4_0", "4 bits in groups of 32")
        answers = await daemon.answers(work(6, max_tokens=40))
        assert {len(answer.token_ids) for answer in answers} == {40}
        done = await daemon.edgectl("status")
        assert "kv q4_0 (4 bits in groups of 32)" in done.stdout
        done = await daemon.edgectl("kv")
        assert done.returncode == 0
        assert "tiny" in done.stdout


async def test_an_interactive_request_takes_the_slot_of_batch_work(
    folder: Path, tmp_path: Path
) -> None:
    async with serving(tmp_path, tables(folder, max_sequences=1)) as daemon:
        request = ask("count", tier=pb.TIER_BATCH, max_tokens=300, ignore_eos=True)
        wanted = await daemon.generate(request).end()
        batch = daemon.generate(request)
        await batch.tokens(5)
        chat = ask("hello", tier=pb.TIER_INTERACTIVE, max_tokens=5, ignore_eos=True)
        urgent = await daemon.generate(chat).end()
        answer = await batch.end()
        assert answer.causes == [pb.PREEMPTION_CAUSE_SWAP]
        assert urgent.arrived_s[-1] < answer.first_at_s("resumed")
        assert answer.token_ids == wanted.token_ids
        await daemon.model_until(lambda model: model.num_swaps == 1)


async def test_streams_go_on_when_their_engine_is_killed(folder: Path, tmp_path: Path) -> None:
    async with serving(tmp_path, tables(folder)) as daemon:
        requests = work(4, max_tokens=NUM_TOKENS)
        wanted = await daemon.answers(requests)
        streams = [daemon.generate(request) for request in requests]
        for stream in streams:
            await stream.tokens(3)
        os.kill(daemon.engine_pids[-1], signal.SIGKILL)
        answers = [await stream.end() for stream in streams]
        check_equal(answers, wanted)
        assert {tuple(answer.causes) for answer in answers} == {(LOST,)}


async def test_a_client_that_leaves_frees_its_cells(folder: Path, tmp_path: Path) -> None:
    async with serving(tmp_path, tables(folder)) as daemon:
        stream = daemon.generate(ask("endless", max_tokens=1000, ignore_eos=True))
        await stream.tokens(3)
        await stream.leave()
        await daemon.model_until(lambda model: not (model.kv.used_tokens or model.kv.used_slots))


async def test_a_chat_goes_on_from_disk_after_a_restart(folder: Path, tmp_path: Path) -> None:
    """And the second turn before it from memory."""
    engine = tables(folder, disk_bytes=2**30, disk_directory=str(tmp_path / "kv"))
    history = list(range(10, 250)) * 3

    def turn(token_ids: list[int]) -> pb.GenerateRequest:
        return ask(token_ids, max_tokens=8, ignore_eos=True, client="chat")

    async with serving(tmp_path, engine) as daemon:
        first = await daemon.generate(turn(history)).end()
        history += [*first.token_ids, 5, 6]
        second = await daemon.generate(turn(history)).end()
        assert second.finished.usage.num_cached_tokens >= len(history) - 4
        history += [*second.token_ids, 7, 8]
    async with serving(tmp_path, engine) as daemon:
        await daemon.ready()
        third = await daemon.generate(turn(history)).end()
        assert third.finished.usage.num_cached_tokens >= len(history) - 4


async def test_requests_with_one_beginning_compute_it_once(folder: Path, tmp_path: Path) -> None:
    beginning = list(range(10, 250)) * 3
    async with serving(tmp_path, tables(folder, context_tokens=16384)) as daemon:
        requests = [
            ask([*beginning, 20 + number], max_tokens=8, ignore_eos=True, client="app")
            for number in range(8)
        ]
        answers = await daemon.answers(requests)
        cached = [answer.finished.usage.num_cached_tokens for answer in answers]
        assert sorted(cached) == [0] + [len(beginning)] * 7
