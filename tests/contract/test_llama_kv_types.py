"""A KV type is used as it was asked for, or the operator is told that it is not."""

from collections.abc import Iterator

import pytest

from edged.errors import ModelLoadError, Reason
from tests.models import embedded_model, require_llama_cpp

require_llama_cpp()

from backends.llama_cpp.kv_probe import (  # noqa: E402  # after the skip where it is missing
    MOST_TIMES_F16,
    fallback_warnings,
    prefill_ratio,
)
from backends.llama_cpp.kv_types import F16, KV_TYPES, check_device  # noqa: E402  # as above
from backends.llama_cpp.native import Model  # noqa: E402  # as above


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    path = str(embedded_model())
    model = Model(path, gpu_layers=0, main_gpu=0, tensor_split=(), progress=lambda _fraction: True)
    yield model
    model.free()


@pytest.mark.model
@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_type_with_kernels_is_about_as_fast_as_f16(model: Model, kv_type: str) -> None:
    ratios = sorted(prefill_ratio(model, kv_type, threads=1) for _ in range(3))
    assert 0.3 < ratios[1] < MOST_TIMES_F16
    assert fallback_warnings(model, kv_type, 1, "cpu", lambda *_: ratios[1]) == ()


def played(_model: Model, kv_type: str, _threads: int) -> float:
    """A device without kernels for one type."""
    return {"q8_0": 1.1, "q4_0": 33.7}[kv_type]


@pytest.mark.model
def test_a_silent_fallback_is_told(model: Model) -> None:
    [warning] = fallback_warnings(model, "q4_0", 1, "cuda:0", played)
    assert warning.startswith("prompts take 33.7 times as long with q4_0 KV as with f16")
    assert "cuda:0" in warning
    assert warning.endswith("use kv_type f16")
    assert fallback_warnings(model, "q8_0", 1, "cuda:0", played) == ()
    assert fallback_warnings(model, "f16", 1, "cuda:0", played) == (), "there is nothing to compare"


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("label", ["cpu", "cuda:0", "cuda:0+cuda:1", "metal", "vulkan:0", "rocm:1"])
def test_devices_with_kernels_for_all_types_take_all(kv_type: str, label: str) -> None:
    check_device(KV_TYPES[kv_type], label)


@pytest.mark.parametrize("label", ["sycl:0", "cuda:0+opencl:0"])
def test_other_devices_take_f16_alone(label: str) -> None:
    check_device(F16, label)
    with pytest.raises(
        ModelLoadError, match=r"kv_type q8_0 is not known to work on .*use kv_type f16"
    ) as raised:
        check_device(KV_TYPES["q8_0"], label)
    assert raised.value.reason is Reason.BAD_CONFIG
