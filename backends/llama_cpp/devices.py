"""Decides which processors run a model: CPU threads, and the GPUs with their shares of it."""

import os
import sys
from collections.abc import Mapping, Sequence

import psutil

from backends.llama_cpp.native import Gpu
from edged.backend import BackendConfig
from edged.core.memory import HOST


def default_threads() -> int:
    """Physical cores that this process may use: hyperthreads do not speed up matrix products."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)


def uses_gpu(config: BackendConfig, gpus: Sequence[Gpu]) -> bool:
    return config.gpu_layers != 0 and bool(gpus)


def used_gpus(config: BackendConfig, gpus: Sequence[Gpu]) -> dict[str, tuple[Gpu, float]]:
    """Which GPUs the layers go to, by label, and how much each gets of those that go to any: as
    `tensor_split` says, all to `main_gpu`, or by free memory, as the library does."""
    if not uses_gpu(config, gpus):
        return {}
    if config.tensor_split:
        weights = [float(share) for share in config.tensor_split[: len(gpus)]]
    elif config.main_gpu > 0:
        main = min(config.main_gpu, len(gpus) - 1)
        weights = [float(index == main) for index in range(len(gpus))]
    else:
        weights = [float(max(gpu.free_bytes, 1)) for gpu in gpus]
    total = sum(weights) or 1.0
    return {
        gpu_label(gpu.name): (gpu, weight / total)
        for gpu, weight in zip(gpus, weights, strict=False)
        if weight > 0
    }


def device_label(config: BackendConfig, gpus: Sequence[Gpu]) -> str:
    """Where the layers go: "cpu", "cuda:0", "metal", "cuda:0+cuda:1"."""
    return "+".join(used_gpus(config, gpus)) or "cpu"


def layer_shares(
    config: BackendConfig, gpus: Sequence[Gpu], num_layers: int | None
) -> Mapping[str, float]:
    """Share of the layers that each pool of memory holds; None: their number is not known yet, and
    all count as offloaded that may be."""
    used = used_gpus(config, gpus)
    if not used:
        return {HOST: 1.0}
    offloaded = 1.0
    if config.gpu_layers > 0 and num_layers is not None:
        offloaded = min(1.0, config.gpu_layers / (num_layers + 1))  # the output counts as one more
    shares = {label: offloaded * share for label, (_, share) in used.items()}
    if offloaded < 1.0:
        shares[HOST] = 1.0 - offloaded
    return shares


def gpu_label(name: str) -> str:
    """ggml's "CUDA0" as "cuda:0"; a name without a number as it is."""
    kind = name.rstrip("0123456789").lower()
    kind = "metal" if kind in ("metal", "mtl") else kind
    number = name[len(name.rstrip("0123456789")) :]
    return f"{kind}:{number}" if number and kind != "metal" else kind
