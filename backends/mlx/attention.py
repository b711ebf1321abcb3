"""Attention of a few sequences over the KV of a batch, as it is stored.

Few queries multiply quantized K and V as they are (`mx.quantized_matmul`), which reads the fewest
bytes; many queries have K and V dequantized once, for the fused kernel that needs no matrix of
scores. Where there is no such kernel, on a CPU and for some sizes of heads, the queries attend
block by block, so that the scores take bounded memory.
"""

import mlx.core as mx

from backends.mlx.kv_batch import LayerKv, Parts
from backends.mlx.kv_types import KvType

QUERY_BLOCK = 128
"""Queries of a row that attend together, where scores are held."""
_KERNEL_SIZES = (64, 80, 128)
"""Of heads, that MLX 0.32 has a fused kernel for (scaled_dot_product_attention.cpp)."""
_FEW_QUERIES = 8
"""Of a row: from more on, K and V are better dequantized."""


def attend(
    queries: mx.array,
    kv: LayerKv,
    kv_type: KvType,
    *,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None,
) -> mx.array:
    """Rows of queries over rows of KV.

    `queries`: (rows, heads, queries, size). `mask`: true where a query sees a cell, (rows or 1, 1,
    queries, cells); "causal" for the last cells; None: all cells. `sinks`: (heads,), a logit of
    each head that takes a part of its attention and gives nothing. Returns (rows, heads, queries,
    value size).
    """
    if kv_type.bits is None:
        keys, values = kv.keys[0], kv.values[0]
    elif queries.shape[2] <= _FEW_QUERIES and not isinstance(mask, str):
        return _attend_quantized(queries, kv, kv_type, scale=scale, mask=mask, sinks=sinks)
    else:
        keys, values = _numbers(kv.keys, kv_type), _numbers(kv.values, kv_type)
    num_queries = queries.shape[2]
    if num_queries <= QUERY_BLOCK or has_kernel(queries.shape[3]):
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )
    blocks = []
    for first in range(0, num_queries, QUERY_BLOCK):
        end = min(first + QUERY_BLOCK, num_queries)
        # "causal" means the last cells, so a block of queries sees none behind its own.
        num_cells = keys.shape[2] - (num_queries - end if mask == "causal" else 0)
        block = mx.fast.scaled_dot_product_attention(
            queries[:, :, first:end],
            keys[:, :, :num_cells],
            values[:, :, :num_cells],
            scale=scale,
            mask=mask[:, :, first:end] if isinstance(mask, mx.array) else mask,
            sinks=sinks,
        )
        blocks.append(block)
    return mx.concatenate(blocks, axis=2)


def has_kernel(head_size: int) -> bool:
    """Whether many queries attend without a matrix of scores."""
    return mx.default_device() == mx.Device(mx.gpu) and head_size in _KERNEL_SIZES


def _numbers(parts: Parts, kv_type: KvType) -> mx.array:
    words, scales, biases = parts
    return mx.dequantize(words, scales, biases, group_size=kv_type.group_size, bits=kv_type.bits)


def _product(numbers: mx.array, parts: Parts, kv_type: KvType, *, transpose: bool) -> mx.array:
    words, scales, biases = parts
    return mx.quantized_matmul(
        numbers,
        words,
        scales,
        biases,
        transpose=transpose,
        group_size=kv_type.group_size,
        bits=kv_type.bits,
    )


def _attend_quantized(
    queries: mx.array,
    kv: LayerKv,
    kv_type: KvType,
    *,
    scale: float,
    mask: mx.array | None,
    sinks: mx.array | None,
) -> mx.array:
    num_rows, num_heads, num_queries, size = queries.shape
    num_kv_heads = kv.keys[0].shape[1]
    num_shared = num_heads // num_kv_heads
    # The heads that share K and V are so many more queries of them.
    grouped = (queries * scale).reshape(num_rows, num_kv_heads, num_shared * num_queries, size)
    scores = _product(grouped, kv.keys, kv_type, transpose=True)
    scores = scores.reshape(num_rows, num_kv_heads, num_shared, num_queries, -1)
    if mask is not None:
        scores = mx.where(mx.expand_dims(mask, 1), scores, mx.finfo(scores.dtype).min)
    if sinks is not None:
        sink = sinks.reshape(1, num_kv_heads, num_shared, 1, 1).astype(scores.dtype)
        sink = mx.broadcast_to(sink, (*scores.shape[:-1], 1))
        scores = mx.concatenate([scores, sink], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)
    if sinks is not None:
        weights = weights[..., :-1]
    weights = weights.reshape(num_rows, num_kv_heads, num_shared * num_queries, -1)
    out = _product(weights, kv.values, kv_type, transpose=False)
    return out.reshape(num_rows, num_heads, num_queries, -1)
