"""Runs chunks through an MLX model and moves the KV of slots: the engine's `Backend`.

Theory of operation. A step is one call of the model with the tokens of all chunks
(`step_cache`), and one evaluation: the logits that are asked for come to host memory together, and
the tokens are drawn there, as those of every backend are (`backends.sampling`). Nothing of a step
is visible before it is evaluated; lengths are set afterwards. An exception of the runtime is not
caught: what the batches hold is then unknown, and the process is replaced.
"""

import gc
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from backends.mlx.adapter import AdaptedModel
from backends.mlx.arrangement import Arrangement
from backends.mlx.kv_batch import KvLayout
from backends.mlx.snapshot import pack, unpack
from backends.mlx.step_cache import Group, StepCaches
from backends.mlx.tokenizer import MlxTokenizer
from backends.sampling import Logits, NotFiniteError, Sampler
from backends.snapshot import HostSnapshot
from edged.backend import BackendInfo, KvSnapshot
from edged.core.plan import Chunk
from edged.core.types import SampledToken, SeqId, SlotId
from edged.errors import BackendStepError, KvTransferError


class Work(NamedTuple):
    """What steps have done so far: for benchmarks."""

    num_forwards: int = 0
    num_tokens: int = 0
    """That went through the model; none of them is padding."""
    num_cells_read: int = 0
    """By attention in layers without a window."""
    num_cells_needed: int = 0
    """Of those, that hold tokens which the row's query sees."""

    def after(self, groups: Sequence[Group]) -> "Work":
        return Work(
            self.num_forwards + 1,
            self.num_tokens + sum(group.num_all_tokens for group in groups),
            self.num_cells_read + sum(group.num_cells_read for group in groups),
            self.num_cells_needed + sum(group.num_cells_needed for group in groups),
        )


class MlxBackend:
    """One model and its KV. See `edged.backend.Backend` for what each method promises."""

    def __init__(
        self,
        info: BackendInfo,
        model: AdaptedModel,
        tokenizer: MlxTokenizer,
        layout: KvLayout,
    ) -> None:
        self._info = info
        self._model = model
        self._tokenizer = tokenizer
        self._layout = layout
        self._caches = StepCaches(layout)
        self._sampler = Sampler(info.vocab_size, info.eog_token_ids)
        self._kv = Arrangement(layout, info.kv.num_slots + info.kv.num_cache_slots)
        self.work = Work()

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def tokenizer(self) -> MlxTokenizer:
        return self._tokenizer

    # ── Steps ────────────────────────────────────────────────────────────────────────────────────

    def step(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        self._check(chunks)
        arranged = self._kv.arrange(chunks)
        groups = [group for group, _ in arranged]
        ordered = [chunk for _, among in arranged for chunk in among]
        token_ids = [token_id for chunk in ordered for token_id in chunk.token_ids]
        sampled: list[Chunk] = []
        rows: list[int] = []
        num_tokens = 0
        for chunk in ordered:
            num_tokens += len(chunk.token_ids)
            if chunk.sampling is not None:
                sampled.append(chunk)
                rows.append(num_tokens - 1)
        logits = self._compute(groups, token_ids, rows)
        self.work = self.work.after(groups)
        for group, among in arranged:
            for row, chunk in zip(group.rows, among, strict=True):
                group.batch.lengths[row] += len(chunk.token_ids)
        return self._draw(logits, sampled, chunks)

    def _stored(self) -> list[mx.array]:
        """All KV. What was moved or copied is computed with the next evaluation of it; until then
        MLX holds what it was made of, so none is left out for long."""
        return [part for batch in self._kv.batches() for part in batch.arrays()]

    def interrupt(self) -> None:
        """MLX ends what it has begun; `info.can_interrupt` says so."""

    def _check(self, chunks: Sequence[Chunk]) -> None:
        assert len({chunk.slot for chunk in chunks}) == len(chunks), "I3: two chunks of one slot"
        num_tokens = 0
        for chunk in chunks:
            held = self._kv.length(chunk.slot)
            assert chunk.token_ids, f"I3: the chunk of slot {chunk.slot} has no tokens"
            assert chunk.start == held, (
                f"I3: slot {chunk.slot} holds {held} cells, its chunk starts at {chunk.start}"
            )
            num_tokens += len(chunk.token_ids)
        most = self._layout.max_step_tokens
        assert num_tokens <= most, f"I3: a step of {num_tokens} tokens; at most {most}"
        size = self._info.vocab_size
        for chunk in chunks:
            for token_id in chunk.token_ids:
                if not 0 <= token_id < size:
                    raise BackendStepError(
                        f"sequence {chunk.seq_id} has the token {token_id}; the vocabulary is 0 "
                        f"to {size - 1}",
                        lost=(),
                    )

    def _compute(
        self, groups: Sequence[Group], token_ids: list[int], rows: list[int]
    ) -> Sequence[Logits]:
        """Logits of the rows that sample, in host memory."""
        self._caches.begin(groups)
        try:
            logits = self._model(token_ids, self._caches.layers, rows or [0])
        finally:
            self._caches.end()
        mx.eval(self._stored(), logits if rows else [])
        return list(np.array(logits)) if rows else []

    def _draw(
        self,
        logits: Sequence[Logits],
        sampled: Sequence[Chunk],
        step: Sequence[Chunk],
    ) -> Mapping[SeqId, SampledToken]:
        drawn: dict[SeqId, SampledToken] = {}
        for row, chunk in zip(logits, sampled, strict=True):
            assert chunk.sampling is not None, "a row of logits for a chunk that does not sample"
            try:
                drawn[chunk.seq_id] = self._sampler.draw(row, chunk.sampling)
            except NotFiniteError as error:
                self._kv.clear(chunk.slot)
                for other in step:
                    if other is not chunk:
                        self._kv.trim(other.slot, other.start)
                raise BackendStepError(
                    f"sequence {chunk.seq_id}: {error}", lost=(chunk.slot,)
                ) from error
        return drawn

    # ── KV ───────────────────────────────────────────────────────────────────────────────────────

    def save_kv(self, slot: SlotId) -> HostSnapshot:
        try:
            return pack(self._layout, *self._kv.place(slot))
        except (MemoryError, RuntimeError) as error:
            raise KvTransferError(f"slot {slot} was not saved: {error}") from error

    def restore_kv(self, slot: SlotId, snapshot: KvSnapshot, num_tokens: int | None = None) -> None:
        assert isinstance(snapshot, HostSnapshot), f"a snapshot of {type(snapshot).__name__}"
        num_tokens = snapshot.num_tokens if num_tokens is None else num_tokens
        is_whole = num_tokens == snapshot.num_tokens
        assert is_whole or self._info.can_cut_snapshot, "this model cannot restore a part"
        try:
            batch = unpack(self._layout, snapshot, num_tokens)
        except (ValueError, MemoryError, RuntimeError) as error:
            raise KvTransferError(f"slot {slot} was not restored: {error}") from error
        if num_tokens:
            self._kv.put(slot, batch)

    def load_snapshot(self, num_tokens: int, data: bytearray) -> HostSnapshot:
        return HostSnapshot(num_tokens, np.frombuffer(data, dtype=np.uint8))

    def copy_prefix(self, source: SlotId, target: SlotId, num_tokens: int) -> None:
        assert self._info.can_copy_prefix, "this model cannot copy a prefix"
        if num_tokens:
            batch, row = self._kv.place(source)
            self._kv.put(target, batch.extract(row, num_tokens))
            mx.eval(self._stored())

    def clear(self, slot: SlotId) -> None:
        self._kv.clear(slot)
        mx.eval(self._stored())

    def close(self) -> None:
        del self._model, self._kv, self._caches
        gc.collect()
        mx.clear_cache()

    @property
    def kv_bytes(self) -> int:
        """Of all batches, with what lies beyond the ends of their rows."""
        return sum(batch.num_bytes for batch in self._kv.batches())
