"""Rows of different lengths in one batch: whatever order they join and leave in, each computes what
it computes alone, and what mlx-lm computes of it."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.models import require_mlx

require_mlx()

from backends.mlx.kv_batch import KvBatch, capacity_for  # noqa: E402  # after the skip
from backends.mlx.kv_types import GROUP_SIZES  # noqa: E402  # as above
from tests.mlx.driver import TinyModel  # noqa: E402  # as above

NUM_ROWS, NUM_ORDERS, TOLERANCE = 8, 200, 1e-4
KV_TYPES = {"q8_0": NUM_ORDERS, "q4_0": NUM_ORDERS, "f16": 50}


class _Rows:
    """Sequences that are known token by token, and what each computes alone."""

    def __init__(self, model: TinyModel, seed: int) -> None:
        draw = random.Random(seed)
        vocab_size = model.layers.vocab_size
        self.model = model
        lengths = [draw.randrange(1, 90) for _ in range(NUM_ROWS)]
        self.tokens = [
            [draw.randrange(vocab_size) for _ in range(length + 16)] for length in lengths
        ]
        self.batches = [
            model.row(tokens[:length]) for tokens, length in zip(self.tokens, lengths, strict=True)
        ]
        alone = [batch.extract(0) for batch in self.batches]
        self.expected = [
            [model.decode(batch, [tokens[batch.lengths[0]]])[0] for _ in range(16)]
            for batch, tokens in zip(alone, self.tokens, strict=True)
        ]
        self.starts = lengths

    def check(self, batch: KvBatch, names: Sequence[int]) -> None:
        """One step of a batch whose rows are those of `names`."""
        held = list(batch.lengths)
        next_tokens = [self.tokens[name][at] for name, at in zip(names, held, strict=True)]
        logits = self.model.decode(batch, next_tokens)
        for row, (name, at) in enumerate(zip(names, held, strict=True)):
            expected = self.expected[name][at - self.starts[name]]
            np.testing.assert_allclose(logits[row], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_rows_that_join_and_leave_in_any_order_compute_what_they_compute_alone(
    tiny_folder: Path, kv_type: str
) -> None:
    rows = _Rows(TinyModel(tiny_folder, kv_type), seed=1)
    draw = random.Random(2)
    for _ in range(KV_TYPES[kv_type]):
        groups = [([name], batch.extract(0)) for name, batch in enumerate(rows.batches)]
        for _ in range(4):
            draw.shuffle(groups)
            if len(groups) > 1 and draw.random() < 0.7:  # join
                names, batch = groups.pop()
                others, other = groups.pop()
                batch.extend(other)
                groups.append((names + others, batch))
            names, batch = groups.pop(draw.randrange(len(groups)))
            if len(names) > 1:  # leave, in two parts and another order
                kept = draw.sample(range(len(names)), draw.randrange(1, len(names)))
                gone = [row for row in range(len(names)) if row not in kept]
                groups += [([names[row]], batch.extract(row)) for row in gone]
                batch.filter(kept)
                names = [names[row] for row in kept]
            groups.append((names, batch))
            rows.check(batch, names)
        merged = KvBatch.merge([batch for _, batch in groups])
        rows.check(merged, [name for names, _ in groups for name in names])


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_a_batch_computes_what_mlx_lm_computes_of_each_row(
    wide_folder: Path, kv_type: str, group_size: int
) -> None:
    model = TinyModel(wide_folder, kv_type, group_size)
    assert model.layout.kv_type.group_size == group_size
    draw = random.Random(3)
    tokens = [
        [draw.randrange(model.layers.vocab_size) for _ in range(length)]
        for length in (9, 17, 40, 64, 65, 80, 90, 100)
    ]
    batch = KvBatch.merge([model.row(row[:-8], chunk=1) for row in tokens])
    expected = [model.by_mlx_lm(row) for row in tokens]
    for step in range(8):
        logits = model.decode(batch, [row[len(row) - 8 + step] for row in tokens])
        for found, wanted, row in zip(logits, expected, tokens, strict=True):
            np.testing.assert_allclose(found, wanted[len(row) - 8 + step], atol=TOLERANCE, rtol=0)


def test_rows_grow_in_blocks_and_waste_an_eighth_at_most() -> None:
    capacities = [capacity_for(num_tokens) for num_tokens in range(1, 20_000)]
    assert all(capacity % 64 == 0 for capacity in capacities)
    assert all(
        capacity - num_tokens < max(64, num_tokens / 8)
        for num_tokens, capacity in enumerate(capacities, start=1)
    )
    assert len(set(capacities)) < 50
