"""Memory of real models: what is taken is told, and what does not fit is refused with numbers."""

from pathlib import Path

import pytest

from edged.v1 import admin_pb2
from tests.e2e.daemon import serving
from tests.e2e.settings import Value
from tests.models import require_llama_cpp
from tests.tiny_gguf import write_tiny_gguf

MIB = 2**20
BYTES_PER_TOKEN = 272  # 2 layers × 2 heads × (32 + 32) numbers of q8_0


def has_failed(model: admin_pb2.Model) -> bool:
    return model.state == admin_pb2.MODEL_STATE_FAILED


async def test_models_share_one_memory_and_the_ledger_shows_it(tmp_path: Path) -> None:
    require_llama_cpp()
    path = str(write_tiny_gguf(tmp_path / "tiny.gguf"))
    engine: dict[str, Value] = {"num_threads": 1, "snapshot_bytes": 64 * MIB}
    tables = {
        "engine": engine,
        "models.first": {"path": path, "context_tokens": 1024},
        "models.second": {"path": path, "kv_memory": 4 * MIB, "max_sequences": 256},
        "models.huge": {"path": path, "context_tokens": 2**20, "kv_memory": 100 * MIB},
    }
    async with serving(tmp_path, tables) as daemon:
        first, second = [await daemon.ready(name) for name in ("first", "second")]
        [use] = first.memory
        assert use.pool == "host"
        assert use.kv_bytes == pytest.approx(1024 * BYTES_PER_TOKEN, rel=0.05)  # told in MiB
        assert use.weights_bytes > 0
        [pool] = second.pools_at_load
        assert pool.free_bytes > second.kv.max_bytes == 4 * MIB
        assert second.kv.capacity_tokens == 4 * MIB // BYTES_PER_TOKEN // 256 * 256
        # Whichever loaded first had to leave room for nobody.
        reserved = {one.pools_at_load[0].reserved_bytes for one in (first, second)}
        assert min(reserved) == 0
        assert max(reserved) >= 64 * MIB
        huge = await daemon.model_until(has_failed, "huge")
        assert "for 1048576 tokens of q8_0 KV, but kv_memory is 100 MiB" in huge.failure
        assert "what fits: context_tokens = 385280 with kv_type q8_0, or" in huge.failure
        table = (await daemon.edgectl("kv")).stdout
        assert "host  (all)" in table
        assert "second: at most 4 MiB of KV, as kv_memory says" in table


async def test_nothing_said_is_enough_for_every_sequence_at_most(tmp_path: Path) -> None:
    require_llama_cpp()
    path = str(write_tiny_gguf(tmp_path / "tiny.gguf"))
    tables = {"engine": {"num_threads": 1, "max_sequences": 2}, "models.m": {"path": path}}
    async with serving(tmp_path, tables) as daemon:
        model = await daemon.ready("m")
        assert model.kv.max_bytes_is_auto
        trained = model.kv.max_tokens_per_sequence
        assert model.kv.capacity_tokens == min(16384, max(2 * trained, 512))
