"""How much memory a model takes, and what of it there is.

Theory of operation. MLX takes memory as it goes, so that nothing is allocated when a model is
loaded but its weights. What KV and steps may take is therefore counted before, and MLX is told to
stay within the sum. Where a GPU shares the host's memory, as on Apple Silicon, the device's pool is
what the system recommends that one program takes of it, or what is free, if that is less.
"""

from typing import NamedTuple

import mlx.core as mx

from backends.host_memory import FreeMemory
from backends.mlx.attention import QUERY_BLOCK, has_kernel
from backends.mlx.kv_batch import BLOCK_CELLS, KvLayout
from backends.mlx.kv_types import KvType
from backends.mlx.model_folder import ModelFolder
from edged.core.memory import HOST, MemoryUse, Pool, margin_bytes

_RECOMMENDED = "max_recommended_working_set_size"
_F32_BYTES = 4
_ROW_SLACK = 8
"""A row has at most an eighth more cells than tokens (`kv_batch.capacity_for`)."""


class Device(NamedTuple):
    """Where a model is computed."""

    label: str
    """"cpu", "metal" or "cuda:0"."""
    pool: str
    memory: FreeMemory


def find_device(gpu_layers: int, host: FreeMemory) -> Device:
    """The GPU, where there is one and layers may be on it. MLX computes there from now on."""
    if gpu_layers == 0 or not mx.is_available(mx.gpu):
        mx.set_default_device(mx.cpu)
        return Device("cpu", HOST, host)
    mx.set_default_device(mx.gpu)
    label = "metal" if mx.metal.is_available() else "cuda:0"
    return Device(label, label, _gpu_memory(host))


def _gpu_memory(host: FreeMemory) -> FreeMemory:
    info = mx.device_info()
    recommended = info.get(_RECOMMENDED)
    if recommended is not None:  # of the host's own memory
        free_bytes = min(int(recommended) - mx.get_active_memory(), host.free_bytes)
        return FreeMemory(free_bytes, int(recommended))
    total_bytes = int(info.get("total_memory", 0))
    free_bytes = int(info.get("free_memory", total_bytes - mx.get_active_memory()))
    return FreeMemory(free_bytes, total_bytes)


class Needs(NamedTuple):
    """What a model takes beside its weights."""

    kv_bytes_per_token: int
    """In the layers that keep all tokens."""
    kv_fixed_bytes: int
    """In those that keep the last ones, of all sequences that run."""
    compute_bytes: int
    compute_bytes_per_token: int
    """Of KV."""


def needs(layout: KvLayout, folder: ModelFolder, vocab_size: int, num_sequences: int) -> Needs:
    """Estimated, for the largest step: a few rows of activations for each token, logits for each
    sequence, one layer's K and V as a prompt attends to them, its scores where they are held, and
    the cells that rows have beyond their ends."""
    kv_type, shapes = layout.kv_type, layout.shapes
    whole = [shape for shape in shapes if shape.window is None]
    rings = [
        (layout.cells(layer, 2**31), shape)
        for layer, shape in enumerate(shapes)
        if shape.window is not None
    ]
    per_token = kv_type.bytes_per_token(whole)
    hidden, wide = folder.number("hidden_size"), folder.number("intermediate_size")
    activations = layout.max_step_tokens * (6 * hidden + 3 * wide)
    numbers = KvType("f16", None, kv_type.group_size)
    attended = max(numbers.bytes_per_token([shape]) for shape in shapes)
    if not all(has_kernel(shape.key_size) for shape in shapes):
        num_queries = min(QUERY_BLOCK, layout.max_step_tokens) * folder.number(
            "num_attention_heads"
        )
        attended += 2 * _F32_BYTES * num_queries
    return Needs(
        kv_bytes_per_token=per_token,
        kv_fixed_bytes=num_sequences
        * sum(cells * kv_type.bytes_per_token([shape]) for cells, shape in rings),
        compute_bytes=_F32_BYTES * (activations + 2 * num_sequences * vocab_size)
        + num_sequences * BLOCK_CELLS * kv_type.bytes_per_token(shapes),
        compute_bytes_per_token=attended + per_token // _ROW_SLACK,
    )


def pool(device: Device, reserved_bytes: int, weights_bytes: int, wanted: Needs | None) -> Pool:
    """The device's memory before the model is there. None: what it needs is not known yet."""
    fixed = per_token = 0
    if wanted is not None:
        fixed = wanted.compute_bytes + wanted.kv_fixed_bytes
        per_token = wanted.compute_bytes_per_token
    return Pool(
        device.pool,
        free_bytes=device.memory.free_bytes,
        reserved_bytes=reserved_bytes,
        margin_bytes=margin_bytes(device.memory.total_bytes),
        weights_bytes=weights_bytes,
        compute_bytes=fixed,
        compute_bytes_per_token=per_token,
    )


def memory_use(device: Device, weights_bytes: int, wanted: Needs, num_tokens: int) -> MemoryUse:
    """What a model may take that has so many tokens of KV."""
    kv_bytes = num_tokens * wanted.kv_bytes_per_token + wanted.kv_fixed_bytes
    compute_bytes = wanted.compute_bytes + num_tokens * wanted.compute_bytes_per_token
    return MemoryUse(
        device.pool,
        weights_bytes=weights_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=compute_bytes,
        later_bytes=kv_bytes + compute_bytes,
    )


def stay_within(device: Device, use: MemoryUse) -> None:
    """Tell MLX what it may take: for how much it waits, what it keeps for the next step, and, on
    Apple Silicon, what is never to be swapped out by the system."""
    mx.set_memory_limit(use.num_bytes)
    mx.set_cache_limit(use.compute_bytes)
    if device.label == "metal":
        mx.set_wired_limit(min(use.num_bytes, device.memory.total_bytes))


def host_left_bytes(device: Device, host: FreeMemory, use: MemoryUse) -> int:
    """What a model that takes so much leaves of the host's memory, for saved KV; a GPU with memory
    of its own takes nothing of it."""
    is_shared = device.label in ("cpu", "metal")
    free_bytes = host.free_bytes - margin_bytes(host.total_bytes)
    return max(0, free_bytes - use.num_bytes * is_shared)
