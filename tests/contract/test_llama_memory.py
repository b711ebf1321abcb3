"""What llama_cpp takes of memory: as estimated before, as its log tells, and on which device."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edged.backend import Backend, BackendConfig
from edged.core.memory import HOST, HOST_TOKENS, MemoryReport, MemoryUse
from tests.contract.cases import CONFIG
from tests.models import embedded_model, require_llama_cpp

require_llama_cpp()

from backends.host_memory import FreeMemory  # noqa: E402  # after the skip where it is missing
from backends.llama_cpp import create  # noqa: E402  # as above
from backends.llama_cpp.devices import layer_shares  # noqa: E402  # as above
from backends.llama_cpp.load import load  # noqa: E402  # as above
from backends.llama_cpp.memory import Buffer, memory_uses, read_buffer  # noqa: E402  # as above
from backends.llama_cpp.native import Gpu  # noqa: E402  # as above

GIB = 2**30
MIB = 2**20
GPUS = (Gpu("CUDA0", 6 * GIB, 8 * GIB), Gpu("CUDA1", 2 * GIB, 8 * GIB))


@pytest.fixture(scope="module")
def embedded() -> Iterator[Backend]:
    config = BackendConfig(str(embedded_model()), context_tokens=None, cached_sequences=16)
    backend = create(config, lambda _fraction: None)
    yield backend
    backend.close()


def report_of(backend: Backend) -> MemoryReport:
    report = backend.info.memory
    assert report is not None
    return report


def test_what_was_allocated_is_in_the_library_s_log(embedded: Backend) -> None:
    [use] = report_of(embedded).uses
    kv = embedded.info.kv
    assert use.pool == HOST
    assert use.kv_bytes == kv.num_cells * kv.bytes_per_cell
    assert use.weights_bytes == pytest.approx(embedded.info.model_bytes, rel=0.05)
    assert use.mapped_bytes == use.weights_bytes
    assert use.compute_bytes > 0


def test_the_estimate_is_above_what_is_taken_but_not_by_much(embedded: Backend) -> None:
    report = report_of(embedded)
    [pool], [use] = report.pools, report.uses
    tokens = embedded.info.kv.num_cells
    estimated = pool.compute_bytes + tokens * pool.compute_bytes_per_token
    assert use.compute_bytes <= estimated <= 1.5 * use.compute_bytes
    assert use.weights_bytes <= pool.weights_bytes <= 1.1 * use.weights_bytes


def test_nothing_said_is_a_modest_cache_in_host_memory(embedded: Backend) -> None:
    assert embedded.info.kv.num_cells == HOST_TOKENS
    assert not report_of(embedded).is_kv_limit_given


def test_given_bytes_are_filled() -> None:
    config = BackendConfig(str(embedded_model()), context_tokens=None, kv_bytes=40 * MIB)
    backend = create(config, lambda _fraction: None)
    try:
        kv = backend.info.kv
        assert 0.9 * 40 * MIB < kv.num_cells * kv.bytes_per_cell <= 40 * MIB
        assert report_of(backend).kv_limit_bytes == 40 * MIB
    finally:
        backend.close()


def test_what_is_left_of_the_host_is_for_saved_kv(embedded: Backend) -> None:
    config = BackendConfig(str(embedded_model()), context_tokens=None, reserved_bytes={HOST: GIB})
    backend = load(config, lambda _fraction: None, FreeMemory(3 * GIB, 4 * GIB), ())
    try:
        taken = sum(use.num_bytes for use in report_of(backend).uses)
        assert report_of(backend).host_left_bytes == 3 * GIB - GIB - 512 * MIB - taken
    finally:
        backend.close()


def test_a_buffer_is_read_from_a_line_of_the_log() -> None:
    line = "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB"
    assert read_buffer(line) == Buffer("CPU_Mapped", "model", int(92.10 * MIB))
    line = "llama_kv_cache:      CUDA0 KV buffer size =   191.25 MiB"
    assert read_buffer(line) == Buffer("CUDA0", "KV", int(191.25 * MIB))
    assert read_buffer("llama_kv_cache: size =  191.25 MiB ( 16384 cells,  30 layers") is None


def test_buffers_add_up_by_pool() -> None:
    main = [
        Buffer("CPU_Mapped", "model", 100),
        Buffer("CUDA0", "model", 1000),
        Buffer("CUDA0", "KV", 300),
        Buffer("CUDA0", "RS", 30),
        Buffer("CUDA0", "compute", 50),
        Buffer("CUDA_Host", "output", 5),
    ]
    helping = [Buffer("CPU", "KV", 7)]
    assert memory_uses(main, helping, GPUS) == (
        MemoryUse(HOST, 100, 0, 12, mapped_bytes=100),
        MemoryUse("cuda:0", 1000, 330, 50),
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"cuda:0": 0.75, "cuda:1": 0.25}),
        ({"gpu_layers": 0}, {HOST: 1.0}),
        ({"main_gpu": 1}, {"cuda:1": 1.0}),
        ({"tensor_split": (1.0, 3.0)}, {"cuda:0": 0.25, "cuda:1": 0.75}),
        ({"tensor_split": (0.0, 1.0), "gpu_layers": 8}, {"cuda:1": 0.5, HOST: 0.5}),
        ({"main_gpu": 1, "gpu_layers": 99}, {"cuda:1": 1.0}),
    ],
)
def test_layers_lie_where_the_settings_put_them(
    change: dict[str, object], expected: dict[str, float]
) -> None:
    config = replace(CONFIG, **change)  # type: ignore[arg-type]  # fields by name
    assert layer_shares(config, GPUS, num_layers=15) == pytest.approx(expected)
    assert layer_shares(config, (), num_layers=15) == {HOST: 1.0}
