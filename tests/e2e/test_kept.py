"""KV that outlives its request, and the daemon: nothing is computed twice."""

import resource
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import Value, sim_tables
from tests.e2e.streams import ask

HISTORY = [10 + i * 7 % 200 for i in range(300)]
QUESTION = [5, 6, 7]


def kept_on_disk(tmp_path: Path) -> Mapping[str, Mapping[str, Value]]:
    """Computing a token takes longer than reading its KV."""
    engine: dict[str, Value] = {"disk_bytes": 10**9, "disk_directory": str(tmp_path / "kv")}
    return sim_tables(engine=engine, step_s=0.001, prefill_token_s=0.001)


async def num_cached_tokens(daemon: Daemon, prompt: list[int], client: str = "") -> int:
    answer = await daemon.generate(ask(prompt, client=client)).end()
    return answer.finished.usage.num_cached_tokens


async def stop(daemon: Daemon) -> None:
    daemon.signal(signal.SIGTERM)
    assert await daemon.exit_code() == 0
    await daemon.check_nothing_is_left()


async def test_a_second_turn_finds_the_first_one_computed(tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.001)) as daemon:
        first = await daemon.generate(ask(HISTORY)).end()
        assert first.finished.usage.num_cached_tokens == 0
        said = [*HISTORY, *first.token_ids]
        # The last token of an answer was drawn, not computed.
        assert await num_cached_tokens(daemon, [*said, *QUESTION]) == len(said) - 1
        assert await num_cached_tokens(daemon, [*said, *QUESTION], client="another") == 0
        await stop(daemon)
    assert not (tmp_path / "kv").exists(), "nothing is written that was not asked for"


async def test_a_chat_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        assert await num_cached_tokens(daemon, HISTORY) == 0
        await stop(daemon)
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        assert await num_cached_tokens(daemon, [*HISTORY, *QUESTION]) == len(HISTORY)
        await stop(daemon)
    for path in (tmp_path / "kv").rglob("*.kv"):
        path.write_bytes(path.read_bytes()[:-100])
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        assert await num_cached_tokens(daemon, [*HISTORY, *QUESTION]) == 0
        await stop(daemon)


async def test_kv_on_disk_outlives_an_engine_that_is_killed(tmp_path: Path) -> None:
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        await num_cached_tokens(daemon, HISTORY)
        await stop(daemon)
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        await daemon.model_until(lambda model: model.kv.disk_bytes > 0)
        psutil.Process(daemon.engine_pids[-1]).kill()
        await daemon.logged("engine lost")
        assert await num_cached_tokens(daemon, [*HISTORY, *QUESTION]) == len(HISTORY)


async def test_a_full_disk_ends_the_writing_with_one_warning(tmp_path: Path) -> None:
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        await daemon.ready()
        engine = psutil.Process(daemon.engine_pids[-1])
        engine.rlimit(resource.RLIMIT_FSIZE, (100, 100))
        for number in range(5):
            answer = await daemon.generate(ask([number, *HISTORY])).end()
            assert answer.finished.reason == pb.FINISH_REASON_LENGTH
        await stop(daemon)
        [warning] = daemon.lines("engine warns")
        assert "File too large" in warning["detail"]
        assert str(tmp_path / "kv") in warning["detail"]
    assert not list((tmp_path / "kv").rglob("*.kv")), "half a file is of no use"


@pytest.mark.parametrize("way", ["open", "file"])
async def test_a_directory_that_is_no_good_costs_one_warning(way: str, tmp_path: Path) -> None:
    root = tmp_path / "kv"
    if way == "file":
        root.touch()
    else:
        root.mkdir()
        root.chmod(0o777)
    async with serving(tmp_path, kept_on_disk(tmp_path)) as daemon:
        await daemon.logged("engine warns")
        assert await num_cached_tokens(daemon, HISTORY) == 0
        assert await num_cached_tokens(daemon, HISTORY) == len(HISTORY) - 1
        await stop(daemon)
        assert len(daemon.lines("engine warns")) == 1
