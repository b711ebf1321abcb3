"""The KV of sequences of similar length, stored together so that they are computed together.

Theory of operation. A batch has a row for each of its sequences and, for each layer, arrays of the
shape (rows, heads, cells, …): one for K and one for V, or three each where they are quantized
(packed words, scales, biases). A row begins at cell 0 and has a length of its own; what lies beyond
it is never attended to, so a row is trimmed by making its length smaller, and a row that takes no
part in a step costs nothing but the reading of it. Rows come and go without being dequantized:
`extend` puts batches together, `filter` keeps some rows, `split` lets some leave, `extract` copies
one. MLX computes none of that until it is asked to, and holds what it is made of until then:
whoever moves rows sees to it that all batches are evaluated soon (`MlxBackend`).

A layer that attends to a window only has at most `ring` cells, where token p is in cell p mod ring;
a ring has room for the window and the longest step, so that a step can be taken back.

Arrays are replaced, not changed, wherever MLX does not find that it alone holds them; so nobody
else may keep one.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx

from backends.mlx.kv_types import KvType, LayerShape

BLOCK_CELLS = 64
"""Rows grow by whole blocks."""
_GROWTH = 8
"""What part of its cells a row grows by where that is more than a block: an eighth."""

Parts = tuple[mx.array, ...]
"""K or V of a layer: (rows, heads, cells, numbers), or words, scales and biases of those."""


class LayerKv(NamedTuple):
    keys: Parts
    values: Parts


class KvLayout(NamedTuple):
    """What is stored of each layer, and how."""

    shapes: tuple[LayerShape, ...]
    kv_type: KvType
    max_step_tokens: int
    dtypes: tuple[mx.Dtype, ...]
    """Of what each layer's model computes."""

    def ring(self, layer: int) -> int | None:
        """Cells of a row in a layer with a window; None where all tokens stay."""
        window = self.shapes[layer].window
        return None if window is None else in_blocks(window + self.max_step_tokens)

    def cells(self, layer: int, capacity: int) -> int:
        """That a row for `capacity` tokens has in this layer."""
        ring = self.ring(layer)
        return capacity if ring is None else min(capacity, ring)

    @property
    def has_windows(self) -> bool:
        return any(shape.window is not None for shape in self.shapes)

    def describe(self) -> str:
        """What is really stored, for a person; by kind of layer where there are several."""
        kinds: dict[str, list[str]] = {}
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stored = self.kv_type.describe(str(dtype).removeprefix("mlx.core."))
            kinds.setdefault(stored, [])
            if shape.window is not None:
                kinds[stored].append(f"{shape.window}")
        return "; ".join(
            f"{stored}, {len(windows)} layers of the last {'/'.join(sorted(set(windows)))} tokens"
            if windows
            else stored
            for stored, windows in kinds.items()
        )


def in_blocks(num_cells: int) -> int:
    return -(-num_cells // BLOCK_CELLS) * BLOCK_CELLS


def capacity_for(num_tokens: int) -> int:
    """Cells of the rows among which a sequence of this length belongs: 64, 128, 192, … and about
    an eighth more each from 512 on, so that what lies beyond a row's end is a small part of it."""
    capacity = BLOCK_CELLS
    while capacity < num_tokens:
        capacity += max(BLOCK_CELLS, capacity // _GROWTH // BLOCK_CELLS * BLOCK_CELLS)
    return capacity


class KvBatch:
    """Mutable; owned by the backend."""

    def __init__(
        self, layout: KvLayout, layers: list[LayerKv], capacity: int, lengths: list[int]
    ) -> None:
        self._layout = layout
        self.layers = layers
        self.capacity = capacity
        """Tokens that each row has room for."""
        self.lengths = lengths
        """Tokens that each row holds."""

    @classmethod
    def empty(cls, layout: KvLayout) -> "KvBatch":
        """One row that holds nothing."""
        return cls(layout, [], 0, [0])

    @classmethod
    def merge(cls, batches: Sequence["KvBatch"]) -> "KvBatch":
        """The rows of all, in order; what was merged is used up."""
        first, *others = batches
        first.extend(*others)
        return first

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.arrays())

    def arrays(self) -> Iterable[mx.array]:
        for layer in self.layers:
            yield from layer.keys
            yield from layer.values

    # ── Rows ─────────────────────────────────────────────────────────────────────────────────────

    def extend(self, *others: "KvBatch") -> None:
        """Take over the rows of other batches, which are used up."""
        if not others:
            return
        all_batches = (self, *others)
        capacity = max(batch.capacity for batch in all_batches)
        for batch in all_batches:
            batch.reserve(capacity)
        self.layers = [
            LayerKv(_joined([one.keys for one in layers]), _joined([one.values for one in layers]))
            for layers in zip(*(batch.layers for batch in all_batches), strict=True)
        ]
        for batch in others:
            self.lengths += batch.lengths
            batch.layers = []

    def filter(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self.layers = self._taken(rows, self.capacity)
        self.lengths = [self.lengths[row] for row in rows]

    def split(self, rows: Sequence[int]) -> "KvBatch":
        """Let some of the rows, not all of them, leave for a batch of their own."""
        layers, lengths = self._taken(rows, self.capacity), [self.lengths[row] for row in rows]
        self.filter([row for row in range(self.num_rows) if row not in rows])
        return KvBatch(self._layout, layers, self.capacity, lengths)

    def extract(self, row: int, num_tokens: int | None = None) -> "KvBatch":
        """A copy of one row, or of its first tokens alone; the row stays."""
        held = self.lengths[row]
        length = held if num_tokens is None else num_tokens
        assert self.can_trim(row, length), f"the first {length} tokens of row {row} of {held}"
        if length == 0:
            return KvBatch.empty(self._layout)
        # Of a ring that has turned all cells belong to the row, wherever its end is.
        least = max((self._ring(layer) for layer in self._turned(held)), default=0)
        capacity = min(max(in_blocks(length), least), self.capacity)
        return KvBatch(self._layout, self._taken([row], capacity), capacity, [length])

    def _turned(self, num_tokens: int) -> list[int]:
        """Layers of which a row of so many tokens has forgotten some."""
        rings = ((layer, self._layout.ring(layer)) for layer in range(len(self.layers)))
        return [layer for layer, ring in rings if ring is not None and num_tokens > ring]

    def _ring(self, layer: int) -> int:
        ring = self._layout.ring(layer)
        assert ring is not None, f"layer {layer} has no window"
        return ring

    def can_trim(self, row: int, num_tokens: int) -> bool:
        """Whether what is left is all that is needed of it."""
        held = self.lengths[row]
        return 0 <= num_tokens <= held and all(
            held - num_tokens <= self._ring(layer) - (self._layout.shapes[layer].window or 0)
            for layer in self._turned(held)
        )

    def trim(self, row: int, num_tokens: int) -> None:
        """Forget all but the first tokens of a row."""
        assert self.can_trim(row, num_tokens), f"row {row} of {self.lengths[row]} to {num_tokens}"
        self.lengths[row] = num_tokens

    def reserve(self, capacity: int) -> None:
        """Give each row room for so many tokens."""
        if capacity <= self.capacity:
            return
        layout = self._layout
        if not self.layers:
            self.layers = [
                _zeros(layout, layer, self.num_rows, capacity)
                for layer in range(len(layout.shapes))
            ]
        else:
            for layer, (keys, values) in enumerate(self.layers):
                more = layout.cells(layer, capacity) - layout.cells(layer, self.capacity)
                if more:
                    self.layers[layer] = LayerKv(_grown(keys, more), _grown(values, more))
        self.capacity = capacity

    def _taken(self, rows: Sequence[int], capacity: int) -> list[LayerKv]:
        """The first cells of some rows, copied, so that the others are not held by them."""
        index = mx.array(list(rows))
        return [
            LayerKv(
                _picked(keys, index, self._layout.cells(layer, capacity)),
                _picked(values, index, self._layout.cells(layer, capacity)),
            )
            for layer, (keys, values) in enumerate(self.layers)
        ]


def quantized(numbers: mx.array, kv_type: KvType) -> Parts:
    """K or V as it is stored."""
    if kv_type.bits is None:
        return (numbers,)
    return tuple(mx.quantize(numbers, group_size=kv_type.group_size, bits=kv_type.bits))


def stored_as(layout: KvLayout, layer: int) -> list[tuple[int, mx.Dtype]]:
    """Numbers of one head of one token, and their type, in each of a layer's arrays: those of K,
    then those of V."""
    shape, dtype, kv_type = layout.shapes[layer], layout.dtypes[layer], layout.kv_type
    found: list[tuple[int, mx.Dtype]] = []
    for size in (shape.key_size, shape.value_size):
        if kv_type.bits is None:
            found.append((size, dtype))
            continue
        scales = (size // kv_type.group_size, dtype)
        found += [(size * kv_type.bits // 32, mx.uint32), scales, scales]
    return found


def _zeros(layout: KvLayout, layer: int, num_rows: int, capacity: int) -> LayerKv:
    form = (num_rows, layout.shapes[layer].num_heads, layout.cells(layer, capacity))
    parts = [mx.zeros((*form, numbers), dtype) for numbers, dtype in stored_as(layout, layer)]
    half = len(parts) // 2
    return LayerKv(tuple(parts[:half]), tuple(parts[half:]))


def _grown(parts: Parts, num_cells: int) -> Parts:
    return tuple(mx.pad(part, [(0, 0), (0, 0), (0, num_cells), (0, 0)]) for part in parts)


def _joined(all_parts: Sequence[Parts]) -> Parts:
    return tuple(mx.concatenate(list(parts), axis=0) for parts in zip(*all_parts, strict=True))


def _picked(parts: Parts, rows: mx.array, num_cells: int) -> Parts:
    return tuple(mx.take(part[:, :, :num_cells], rows, axis=0) for part in parts)
