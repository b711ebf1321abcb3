"""Drives a tiny MLX model below the backend: batches of rows, and mlx-lm's own caches."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import QuantizedKVCache
from numpy.typing import NDArray

from backends.mlx import adapter
from backends.mlx.adapter import AdaptedModel, Layers
from backends.mlx.kv_batch import KvBatch, KvLayout, capacity_for
from backends.mlx.kv_types import find_kv_type
from backends.mlx.step_cache import Group, StepCaches

Logits = NDArray[np.float32]
MAX_STEP_TOKENS = 64


class TinyModel:
    """A model of a folder, with KV of one type."""

    def __init__(self, folder: Path, kv_type: str, group_size: int = 32) -> None:
        self._model = adapter.load_weights(folder)
        self.layers: Layers = adapter.layers_of(self._model, folder.name, {"model_type": "llama"})
        found = find_kv_type(kv_type, group_size, self.layers.shapes)
        self.layout = KvLayout(self.layers.shapes, found, MAX_STEP_TOKENS, self.layers.dtypes)
        self._adapted = AdaptedModel(self._model)
        self._caches = StepCaches(self.layout)

    def run(self, groups: Sequence[Group], token_ids: Sequence[int]) -> Logits:
        """One call of the model; logits (tokens, vocabulary) after each token."""
        self._caches.begin(groups)
        logits = self._adapted(token_ids, self._caches.layers, range(len(token_ids)))
        mx.eval(logits, [part for group in groups for part in group.batch.arrays()])
        for group in groups:
            for row in group.rows:
                group.batch.lengths[row] += group.num_tokens
        return np.array(logits)

    def row(self, token_ids: Sequence[int], chunk: int = MAX_STEP_TOKENS) -> KvBatch:
        """A batch of one row that holds these tokens, computed in chunks."""
        batch = KvBatch.empty(self.layout)
        for start in range(0, len(token_ids), chunk):
            self.extend_row(batch, token_ids[start : start + chunk])
        return batch

    def extend_row(self, batch: KvBatch, token_ids: Sequence[int]) -> Logits:
        """More tokens of a batch of one row, in one chunk."""
        batch.reserve(capacity_for(batch.lengths[0] + len(token_ids)))
        return self.run([Group(batch, (0,), len(token_ids))], token_ids)

    def decode(self, batch: KvBatch, token_ids: Sequence[int]) -> Logits:
        """The next token of each row of a batch: logits (rows, vocabulary)."""
        batch.reserve(capacity_for(max(batch.lengths) + 1))
        return self.run([Group(batch, tuple(range(batch.num_rows)), 1)], token_ids)

    def by_mlx_lm(self, token_ids: Sequence[int]) -> Logits:
        """Logits (tokens, vocabulary) of one row with mlx-lm's own quantized caches, token by
        token."""
        kv_type = self.layout.kv_type
        assert kv_type.bits is not None, "mlx-lm's own caches are asked for quantized KV"
        caches = [
            QuantizedKVCache(group_size=kv_type.group_size, bits=kv_type.bits)
            for _ in self.layout.shapes
        ]
        rows = []
        for token_id in token_ids:
            logits = self._model(mx.array([[token_id]]), cache=caches)
            rows.append(np.array(logits[0, -1]))
        return np.stack(rows)
