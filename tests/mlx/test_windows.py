"""Layers that attend to the last tokens only keep a ring of cells, whose turns nobody notices."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.models import require_mlx

require_mlx()

from backends.mlx.kv_batch import KvBatch  # noqa: E402  # after the skip where it is missing
from tests.mlx.driver import MAX_STEP_TOKENS, TinyModel  # noqa: E402  # as above

TOLERANCE = 1e-4


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_chunks_of_any_size_compute_the_same(windowed_folder: Path, kv_type: str) -> None:
    model = TinyModel(windowed_folder, kv_type)
    draw = random.Random(1)
    tokens = [draw.randrange(model.layers.vocab_size) for _ in range(300)]
    whole = model.row(tokens[:-1], chunk=1)
    expected = model.decode(whole, tokens[-1:])[0]
    for chunk in (7, 33, MAX_STEP_TOKENS):
        row = model.row(tokens[:-1], chunk=chunk)
        found = model.decode(row, tokens[-1:])[0]
        close = np.abs(found - expected).max()
        assert close <= (TOLERANCE if kv_type == "f16" else 0.1), f"chunks of {chunk}: {close}"


def test_rows_on_both_sides_of_a_turn_are_batched(windowed_folder: Path) -> None:
    model = TinyModel(windowed_folder, "q8_0")
    ring = model.layout.ring(0)
    assert ring is not None
    draw = random.Random(2)
    lengths = (5, ring - 2, ring - 1, ring, ring + 1, 2 * ring + 3)
    tokens = [
        [draw.randrange(model.layers.vocab_size) for _ in range(length + 6)] for length in lengths
    ]
    alone = [model.row(row[:-6], chunk=1) for row in tokens]
    batch = KvBatch.merge([row.extract(0) for row in alone])
    for index in range(6):
        found = model.decode(batch, [row[len(row) - 6 + index] for row in tokens])
        for one, row, logits in zip(alone, tokens, found, strict=True):
            expected = model.decode(one, [row[len(row) - 6 + index]])[0]
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


def test_the_last_step_can_be_taken_back(windowed_folder: Path) -> None:
    model = TinyModel(windowed_folder, "f16")
    draw = random.Random(3)
    tokens = [draw.randrange(model.layers.vocab_size) for _ in range(260)]
    row = model.row(tokens[:200])
    copy = row.extract(0)
    expected = model.decode(copy, [tokens[200]])[0]
    for num_tokens in (1, 20, MAX_STEP_TOKENS):
        other = row.extract(0)
        other.reserve(320)
        model.extend_row(other, tokens[200 : 200 + num_tokens])
        assert other.can_trim(0, 200)
        other.trim(0, 200)
        found = model.decode(other, [tokens[200]])[0]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_what_a_window_has_forgotten_cannot_be_had_back(windowed_folder: Path) -> None:
    model = TinyModel(windowed_folder, "f16")
    row = model.row([7] * 300)
    assert not row.can_trim(0, 100)


def test_a_window_takes_a_bounded_number_of_cells(windowed_folder: Path) -> None:
    model = TinyModel(windowed_folder, "q8_0")
    kinds = [shape.window for shape in model.layers.shapes]
    assert kinds.count(32) == 5
    assert kinds.count(None) == 1
    row = model.row([7] * 1000)
    cells = [layer.keys[0].shape[2] for layer in row.layers]
    assert sorted(cells) == [128] * 5 + [1024]
