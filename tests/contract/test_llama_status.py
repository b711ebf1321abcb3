"""What llama_cpp says about itself: its last log lines, and the device that holds the layers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract.cases import CONFIG
from tests.models import require_llama_cpp

require_llama_cpp()

from backends.llama_cpp.devices import default_threads, device_label  # noqa: E402  # after the skip
from backends.llama_cpp.native import (  # noqa: E402  # as above
    LOG_LEVEL_CONTINUED,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    Gpu,
)
from backends.llama_cpp.runtime_log import (  # noqa: E402  # as above
    MAX_LINE_CHARACTERS,
    MAX_LINES,
    RuntimeLog,
)

LOG_LEVEL_INFO = 2


@pytest.fixture
def log() -> Iterator[RuntimeLog]:
    log = RuntimeLog()
    yield log
    log.free()


def test_the_log_keeps_the_last_lines_only(log: RuntimeLog) -> None:
    for number in range(MAX_LINES + 5):
        log.receive(LOG_LEVEL_ERROR, f"line {number}\n")
    lines = log.take()
    assert len(lines) == MAX_LINES
    assert (lines[0], lines[-1]) == ("line 5", f"line {MAX_LINES + 4}")
    assert log.take() == []


def test_a_long_line_of_the_log_is_cut(log: RuntimeLog) -> None:
    log.receive(LOG_LEVEL_ERROR, "x" * (MAX_LINE_CHARACTERS + 1))
    log.receive(LOG_LEVEL_CONTINUED, "y" * 1000)
    (line,) = log.take()
    assert line == "x" * MAX_LINE_CHARACTERS


def test_the_log_joins_continued_lines_of_warnings_alone(log: RuntimeLog) -> None:
    log.receive(LOG_LEVEL_WARNING, "first half,")
    log.receive(LOG_LEVEL_CONTINUED, "second half\n")
    log.receive(LOG_LEVEL_INFO, "chatter")
    log.receive(LOG_LEVEL_CONTINUED, "more chatter\n")
    assert log.take() == ["first half, second half"]


@pytest.mark.parametrize(
    ("gpus", "gpu_layers", "main_gpu", "tensor_split", "expected"),
    [
        ([], -1, 0, (), "cpu"),
        (["CUDA0"], 0, 0, (), "cpu"),
        (["CUDA0"], -1, 0, (), "cuda:0"),
        (["CUDA0", "CUDA1"], -1, 0, (), "cuda:0+cuda:1"),
        (["CUDA0", "CUDA1"], 20, 1, (), "cuda:1"),
        (["CUDA0", "CUDA1"], -1, 0, (0.0, 1.0), "cuda:1"),
        (["MTL0"], -1, 0, (), "metal"),
        (["Metal"], -1, 0, (), "metal"),
        (["Vulkan0"], -1, 0, (), "vulkan:0"),
    ],
)
def test_the_device_is_named_as_operators_know_it(
    gpus: list[str],
    gpu_layers: int,
    main_gpu: int,
    tensor_split: tuple[float, ...],
    expected: str,
) -> None:
    config = replace(CONFIG, gpu_layers=gpu_layers, main_gpu=main_gpu, tensor_split=tensor_split)
    assert device_label(config, [Gpu(name, 2**30, 2**31) for name in gpus]) == expected


def test_there_is_a_thread_to_compute_on() -> None:
    assert default_threads() >= 1
