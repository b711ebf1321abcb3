"""The KV types edged serves, and how many bytes a cell of a model takes in each."""

import json
from dataclasses import dataclass

from backends.llama_cpp.native import Model
from edged.errors import ModelLoadError, Reason


@dataclass(frozen=True, slots=True)
class KvType:
    """How K and V are stored; the same for both, as GPU kernels exist for equal types alone."""

    name: str
    block_values: int
    """Values quantized together; a head's size must be a multiple."""
    block_bytes: int


# Block layouts: ggml-common.h, block_q8_0 and block_q4_0 (one f16 scale for 32 values).
F16 = KvType("f16", 1, 2)
KV_TYPES = {
    kv_type.name: kv_type for kv_type in (F16, KvType("q8_0", 32, 34), KvType("q4_0", 32, 18))
}
DEVICES_WITH_ALL_TYPES = ("cpu", "cuda", "metal", "rocm", "vulkan")
"""Kinds of devices whose builds carry attention kernels for all of `KV_TYPES`, as long as K and V
have the same; of others f16 alone is sure."""

_MAX_STATE_BYTES = 48
"""Of a saved cell that are no KV: 12 (position, number of sequences, id) for each of the library's
caches, of which a model with a sliding window has two."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one token leaves behind in the KV cache."""

    kv_heads: int
    """Summed over the layers."""
    key_values: int
    """Numbers in one head's key."""
    value_values: int

    def bytes_per_cell(self, kv_type: KvType) -> int:
        numbers = self.kv_heads * (self.key_values + self.value_values)
        return numbers * kv_type.block_bytes // kv_type.block_values


def kv_shape(model: Model) -> KvShape:
    """The shape, from the file's metadata. Exact where every layer has ordinary attention; layers
    with a recurrent state or a compressed KV need less than it says."""
    facts = model.facts
    architecture = model.metadata("general.architecture") or ""
    head_size = facts.embedding_size // max(facts.num_heads, 1)
    key = model.metadata(f"{architecture}.attention.key_length")
    value = model.metadata(f"{architecture}.attention.value_length")
    return KvShape(
        kv_heads=_kv_heads(model, architecture),
        key_values=int(key) if key else head_size,
        value_values=int(value) if value else head_size,
    )


def _kv_heads(model: Model, architecture: str) -> int:
    """Heads of all layers; the metadata hold one number, or one for each layer."""
    listed = model.metadata(f"{architecture}.attention.head_count_kv")
    if listed and listed.startswith("["):
        return sum(json.loads(listed))
    return model.facts.num_layers * model.facts.num_kv_heads


def find_kv_type(name: str) -> KvType:
    """Raises ModelLoadError: no such type."""
    if name not in KV_TYPES:
        raise ModelLoadError(
            Reason.BAD_CONFIG,
            f"kv_type is {name!r}; backend llama_cpp has {', '.join(KV_TYPES)}",
        )
    return KV_TYPES[name]


def usable_types(shape: KvShape) -> list[KvType]:
    """Those into whose blocks the heads divide, largest first."""
    sizes = (shape.key_values, shape.value_values)
    return [
        kv_type
        for kv_type in KV_TYPES.values()
        if all(size % kv_type.block_values == 0 for size in sizes)
    ]


def check_device(kv_type: KvType, label: str) -> None:
    """Raises ModelLoadError: a device of this kind ("cuda:0+cuda:1") cannot compute with it."""
    for device in label.split("+"):
        kind = device.partition(":")[0]
        if kv_type is not F16 and kind not in DEVICES_WITH_ALL_TYPES:
            raise ModelLoadError(
                Reason.BAD_CONFIG,
                f"kv_type {kv_type.name} is not known to work on {device}: expected one of "
                f"{', '.join(DEVICES_WITH_ALL_TYPES)}; use kv_type f16",
            )


def check_head_size(shape: KvShape, kv_type: KvType) -> None:
    """Raises ModelLoadError: the heads do not divide into the type's blocks."""
    for what, size in (("key", shape.key_values), ("value", shape.value_values)):
        if size % kv_type.block_values:
            raise ModelLoadError(
                Reason.BAD_CONFIG,
                f"kv_type {kv_type.name} needs a {what} head size that is a multiple of "
                f"{kv_type.block_values}, this model's is {size}; use kv_type f16",
            )


def stored_type(shape: KvShape, saved_bytes: int) -> KvType | None:
    """The type whose cell takes this many bytes of a saved sequence, which also carries positions
    and ids; None if the model's layers store something else than `shape` says, as recurrent ones
    and those with a compressed KV do."""
    for kv_type in KV_TYPES.values():
        if 0 <= saved_bytes - shape.bytes_per_cell(kv_type) <= _MAX_STATE_BYTES:
            return kv_type
    return None
