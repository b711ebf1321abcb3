"""The KV types edged serves as MLX stores them, and what a layer keeps of each token."""

from collections.abc import Sequence
from dataclasses import dataclass

from edged.errors import ModelLoadError, Reason

GROUP_SIZES = (128, 64, 32)
"""Numbers that share a scale and a bias; MLX's affine quantization knows these."""
DEFAULT_GROUP_SIZE = 64
BITS = {"f16": None, "q8_0": 8, "q4_0": 4}
"""By the name in the configuration; None stores what the model computes."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of one token."""

    num_heads: int
    """Of keys and values."""
    key_size: int
    value_size: int
    number_bytes: int
    """Of a number as the model computes it."""
    window: int | None
    """Tokens that are attended to; None: all."""


@dataclass(frozen=True, slots=True)
class KvType:
    """How K and V of a model are stored, in all of its layers."""

    name: str
    bits: int | None
    group_size: int

    def head_bytes(self, size: int, number_bytes: int) -> int:
        """Of one head of one token."""
        if self.bits is None:
            return size * number_bytes
        return size * self.bits // 8 + size // self.group_size * 2 * number_bytes

    def bytes_per_token(self, shapes: Sequence[LayerShape]) -> int:
        """In all layers, of a token that none has forgotten."""
        return sum(
            shape.num_heads
            * (
                self.head_bytes(shape.key_size, shape.number_bytes)
                + self.head_bytes(shape.value_size, shape.number_bytes)
            )
            for shape in shapes
        )

    def describe(self, number_name: str) -> str:
        """For a person: what is really stored."""
        if self.bits is None:
            return number_name
        return f"{self.bits} bits in groups of {self.group_size}"


def find_kv_type(name: str, group_size: int, shapes: Sequence[LayerShape]) -> KvType:
    """The type of that name; its groups are smaller than wanted where heads ask for that.

    Raises:
        ModelLoadError: BAD_CONFIG, the heads do not divide into groups.
    """
    bits = BITS[name]
    sizes = {size for shape in shapes for size in (shape.key_size, shape.value_size)}
    for smaller in GROUP_SIZES:
        if smaller <= group_size and not any(size % smaller for size in sizes):
            return KvType(name, bits, smaller)
    if bits is None:
        return KvType(name, None, group_size)
    raise ModelLoadError(
        Reason.BAD_CONFIG,
        f"kv_type {name} needs head sizes that are multiples of {GROUP_SIZES[-1]}, this model's "
        f"are {', '.join(map(str, sorted(sizes)))}; use kv_type f16",
    )


def usable_types(group_size: int, shapes: Sequence[LayerShape]) -> list[KvType]:
    """Those into whose groups the heads divide, largest first."""
    found = []
    for name in BITS:
        try:
            found.append(find_kv_type(name, group_size, shapes))
        except ModelLoadError:
            continue
    return found
