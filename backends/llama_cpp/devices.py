"""Decides which processors run a model: CPU threads, and the name of the device in the status."""

import os
import sys

import psutil

from backends.llama_cpp.native import gpu_names
from edged.backend import BackendConfig


def uses_gpu(config: BackendConfig) -> bool:
    return config.gpu_layers != 0 and bool(gpu_names())


def default_threads() -> int:
    """Physical cores that this process may use: hyperthreads do not speed up matrix products."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)


def device_label(config: BackendConfig, gpus: list[str]) -> str:
    """Where the layers go: "cpu", "cuda:0", "metal", "cuda:0+cuda:1"."""
    if config.gpu_layers == 0 or not gpus:
        return "cpu"
    labels = [_gpu_label(name) for name in gpus]
    if not config.tensor_split and config.main_gpu > 0:
        return labels[min(config.main_gpu, len(labels) - 1)]
    if config.tensor_split:
        labels = [
            label for label, share in zip(labels, config.tensor_split, strict=False) if share > 0
        ]
    return "+".join(labels)


def _gpu_label(name: str) -> str:
    """ggml's "CUDA0" as "cuda:0"; a name without a number as it is."""
    kind = name.rstrip("0123456789").lower()
    kind = "metal" if kind in ("metal", "mtl") else kind
    number = name[len(name.rstrip("0123456789")) :]
    return f"{kind}:{number}" if number and kind != "metal" else kind
