"""What the model is given as its caches for one step.

Theory of operation. All tokens of a step go through the model as so many sequences of one token,
(tokens, 1): everything but attention treats each token by itself, so nothing is padded there, and
each has its own position. Attention alone knows which of them belong together: the tokens of a
step lie *group* by group, and a group is either one token for each of some rows of a batch, or
several tokens for one row. A layer first stores the new K and V of all groups, then attends group
by group.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from backends.mlx.attention import attend
from backends.mlx.kv_batch import KvBatch, KvLayout, LayerKv, Parts, quantized


class Group(NamedTuple):
    """Tokens of a step whose attention is computed together."""

    batch: KvBatch
    """With room for the tokens; its lengths are those before the step."""
    rows: tuple[int, ...]
    """Of the batch, that take part; one only where each has several tokens."""
    num_tokens: int
    """Of each row."""

    @property
    def num_all_tokens(self) -> int:
        return len(self.rows) * self.num_tokens

    @property
    def starts(self) -> list[int]:
        """Position of the first token of each row."""
        return [self.batch.lengths[row] for row in self.rows]

    @property
    def num_cells(self) -> int:
        """Cells that attention reads of each row, in a layer without a window."""
        return max(self.starts) + self.num_tokens

    @property
    def num_cells_read(self) -> int:
        """By attention over all rows that are read."""
        num_rows = self.batch.num_rows if self.num_tokens == 1 else 1
        return num_rows * self.num_cells

    @property
    def num_cells_needed(self) -> int:
        return sum(self.starts) + self.num_all_tokens


class StepCaches:
    """The caches of all layers, for one step after the other."""

    def __init__(self, layout: KvLayout) -> None:
        self.layers = [LayerCache(layout, layer) for layer in range(len(layout.shapes))]

    def begin(self, groups: Sequence[Group]) -> None:
        """The next call of the model is about these."""
        positions = mx.array(
            [
                start + index
                for group in groups
                for start in group.starts
                for index in range(group.num_tokens)
            ]
        )
        views = [_View(group) for group in groups]
        for layer in self.layers:
            layer.begin(views, positions)

    def end(self) -> None:
        for layer in self.layers:
            layer.begin((), None)


class LayerCache:
    """One layer's cache, as mlx-lm's models use it: they read `offset`, ask for a mask, hand over
    K and V, and attend."""

    def __init__(self, layout: KvLayout, layer: int) -> None:
        self._layout = layout
        self._layer = layer
        self._views: Sequence[_View] = ()
        self.offset: mx.array | None = None
        """Position of each token of the step: (tokens,)."""

    def begin(self, views: "Sequence[_View]", positions: mx.array | None) -> None:
        self._views = views
        self.offset = positions

    def make_mask(self, _num_tokens: int, *, window_size: int | None = None, **_: object) -> None:
        """Attention makes its own.

        Raises:
            ValueError: the model has a window that its caches do not know of.
        """
        if window_size is not None and self._layout.shapes[self._layer].window is None:
            raise ValueError(f"a window of {window_size} tokens over a cache of all")

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store what a step adds: (tokens, heads, 1, size). Returned as they are: `attend` reads
        what is stored."""
        kv_type = self._layout.kv_type
        new = LayerKv(quantized(keys, kv_type), quantized(values, kv_type))
        first = 0
        for view in self._views:
            end = first + view.group.num_all_tokens
            view.store(self._layer, self._layout, new, first, end)
            first = end
        return keys, values

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None = None) -> mx.array:
        """`queries`: (tokens, heads, 1, size)."""
        outputs = []
        first = 0
        for view in self._views:
            end = first + view.group.num_all_tokens
            part = view.attend(self._layer, self._layout, queries[first:end], scale, sinks)
            outputs.append(part)
            first = end
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=0)


class _View:
    """How one group sees its batch, in each kind of layer; what layers have in common is made
    once."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._rows = mx.array(group.rows)
        self._starts = group.starts
        self._whole = len(group.rows) == group.batch.num_rows
        self._cells: dict[int | None, mx.array] = {}
        self._masks: dict[int | None, mx.array | str | None] = {}
        if not self._whole:
            self._token_of_row = _inverse(group.rows, group.batch.num_rows)

    # ── Storing ──────────────────────────────────────────────────────────────────────────────────

    def store(self, layer: int, layout: KvLayout, new: LayerKv, first: int, end: int) -> None:
        batch, ring = self.group.batch, self._turning(layer, layout)
        stored = batch.layers[layer]
        put = self._put_run if self.group.num_tokens > 1 else self._put_tokens

        def placed(parts: Parts, added: Parts) -> Parts:
            pairs = zip(parts, added, strict=True)
            return tuple(put(part, more[first:end], ring) for part, more in pairs)

        batch.layers[layer] = LayerKv(
            placed(stored.keys, new.keys), placed(stored.values, new.values)
        )

    def _turning(self, layer: int, layout: KvLayout) -> int | None:
        """The layer's ring, if some row of the group has come round it in this step."""
        ring = layout.ring(layer)
        return ring if ring is not None and self.group.num_cells > ring else None

    def _put_tokens(self, stored: mx.array, new: mx.array, ring: int | None) -> mx.array:
        """A token for each row: `new` is (rows, heads, 1, numbers)."""
        cells = self._cells.get(ring)
        if cells is None:
            starts = self._starts if ring is None else [start % ring for start in self._starts]
            cells = self._cells[ring] = mx.array(starts)
        stored[self._rows, :, cells] = new[:, :, 0]
        return stored

    def _put_run(self, stored: mx.array, new: mx.array, ring: int | None) -> mx.array:
        """Several tokens for one row: `new` is (tokens, heads, 1, numbers)."""
        row, start = self.group.rows[0], self._starts[0]
        run = new[:, :, 0].transpose(1, 0, 2)
        if ring is None:
            stored[row, :, start : start + self.group.num_tokens] = run
            return stored
        begin = start % ring
        before_turn = min(self.group.num_tokens, ring - begin)
        stored[row, :, begin : begin + before_turn] = run[:, :before_turn]
        if before_turn < self.group.num_tokens:
            stored[row, :, : self.group.num_tokens - before_turn] = run[:, before_turn:]
        return stored

    # ── Attending ────────────────────────────────────────────────────────────────────────────────

    def attend(
        self,
        layer: int,
        layout: KvLayout,
        queries: mx.array,
        scale: float,
        sinks: mx.array | None,
    ) -> mx.array:
        """`queries`: (tokens of the group, heads, 1, size); the same form comes back."""
        ring, window = self._turning(layer, layout), layout.shapes[layer].window
        num_cells = self.group.num_cells if ring is None else ring
        kv = self._read(self.group.batch.layers[layer], num_cells)
        mask = self._mask(ring, window)
        if self.group.num_tokens > 1:
            queries = queries.transpose(2, 1, 0, 3)
            out = attend(queries, kv, layout.kv_type, scale=scale, mask=mask, sinks=sinks)
            return out.transpose(2, 1, 0, 3)
        if self._whole:
            return attend(queries, kv, layout.kv_type, scale=scale, mask=mask, sinks=sinks)
        # Rows that take no part are given the query of another; what comes of it is left.
        of_rows = queries[self._token_of_row]
        out = attend(of_rows, kv, layout.kv_type, scale=scale, mask=mask, sinks=sinks)
        return out[self._rows]

    def _read(self, stored: LayerKv, num_cells: int) -> LayerKv:
        """The cells that are attended to; of a group of one row, of this row alone."""
        rows = slice(None)
        if self.group.num_tokens > 1 and self.group.batch.num_rows > 1:
            rows = slice(self.group.rows[0], self.group.rows[0] + 1)

        def cut(parts: Parts) -> Parts:
            return tuple(part[rows, :, :num_cells] for part in parts)

        return LayerKv(cut(stored.keys), cut(stored.values))

    def _mask(self, ring: int | None, window: int | None) -> mx.array | str | None:
        """Which cells each query sees: those of its row at positions (query − window, query]."""
        if window is not None and self.group.num_cells <= window:
            window = None
        key = window
        if key not in self._masks:
            self._masks[key] = self._make_mask(ring, window)
        return self._masks[key]

    def _make_mask(self, ring: int | None, window: int | None) -> mx.array | str | None:
        group = self.group
        if group.num_tokens > 1:
            if window is None:
                return "causal"
            lasts = mx.array([self._starts[0] + group.num_tokens - 1])
            queries = mx.arange(self._starts[0], self._starts[0] + group.num_tokens)[None]
        else:
            starts = [0] * group.batch.num_rows
            for row, start in zip(group.rows, self._starts, strict=True):
                starts[row] = start
            if window is None and min(starts) == max(starts):
                return None
            lasts = mx.array(starts)
            queries = lasts[:, None]
        cells = mx.arange(group.num_cells if ring is None else ring)
        if ring is None:
            positions = cells[None]
        else:
            positions = lasts[:, None] - (lasts[:, None] - cells[None]) % ring
        seen = (positions[:, None] <= queries[..., None]) & (positions[:, None] >= 0)
        if window is not None:
            seen = seen & (positions[:, None] > queries[..., None] - window)
        return mx.expand_dims(seen, 1)


def _inverse(rows: tuple[int, ...], num_rows: int) -> mx.array:
    """Of each row the index of its token; 0 for those that have none."""
    tokens = [0] * num_rows
    for token, row in enumerate(rows):
        tokens[row] = token
    return mx.array(tokens)
