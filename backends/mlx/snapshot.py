"""One sequence's KV as bytes in host memory: layer by layer, as it is stored.

Each array of a row, (heads, cells, numbers), follows the one before it. In a layer with a window
the cells are those of its ring, in the ring's order, once it has turned.
"""

from math import prod

import mlx.core as mx
import numpy as np

from backends.mlx.kv_batch import KvBatch, KvLayout, LayerKv, Parts, capacity_for, stored_as
from backends.snapshot import HostSnapshot


def pack(layout: KvLayout, batch: KvBatch, row: int) -> HostSnapshot:
    """A copy of one row."""
    num_tokens = batch.lengths[row]
    parts = [
        mx.contiguous(part[row, :, : layout.cells(layer, num_tokens)]).view(mx.uint8)
        for layer, kv in enumerate(batch.layers)
        for part in (*kv.keys, *kv.values)
    ]
    mx.eval(parts)
    flat = [np.array(part, copy=False).reshape(-1) for part in parts]
    return HostSnapshot(num_tokens, np.concatenate(flat))


def unpack(layout: KvLayout, snapshot: HostSnapshot, num_tokens: int) -> KvBatch:
    """A batch of one row, with the first tokens of the snapshot.

    Raises:
        ValueError: the bytes are not those of a snapshot of this layout.
    """
    expected_bytes = sum(
        prod((layout.shapes[layer].num_heads, layout.cells(layer, snapshot.num_tokens), numbers))
        * dtype.size
        for layer in range(len(layout.shapes))
        for numbers, dtype in stored_as(layout, layer)
    )
    if expected_bytes != snapshot.num_bytes:
        raise ValueError(
            f"{snapshot.num_tokens} tokens take {expected_bytes} bytes, not {snapshot.num_bytes}"
        )
    capacity, first = capacity_for(num_tokens), 0
    layers = []
    for layer, shape in enumerate(layout.shapes):
        parts = []
        for numbers, dtype in stored_as(layout, layer):
            form = (shape.num_heads, layout.cells(layer, snapshot.num_tokens), numbers)
            end = first + prod(form) * dtype.size
            saved = mx.array(snapshot.array[first:end]).view(dtype).reshape(form)
            kept = saved[:, : layout.cells(layer, num_tokens)]
            room = layout.cells(layer, capacity) - kept.shape[1]
            parts.append(mx.pad(kept, [(0, 0), (0, room), (0, 0)])[None])
            first = end
        half = len(parts) // 2
        keys: Parts = tuple(parts[:half])
        layers.append(LayerKv(keys, tuple(parts[half:])))
    batch = KvBatch(layout, layers, capacity, [num_tokens])
    mx.eval(list(batch.arrays()))
    return batch
