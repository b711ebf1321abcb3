"""Runs chunks through llama.cpp and moves the KV of slots: the engine's `Backend`.

Theory of operation: a slot is a sequence id of the library, and `_cells` mirrors how many cells
each slot holds, so that the library is asked only when something went wrong. One step is one
`llama_decode` of all chunks, but for prompts that are faster apart (`prompt_context`); rows of
logits come back in the order of the chunks that sample.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.llama_cpp.native import (
    DECODE_ABORTED,
    DECODE_OK,
    AbortFlag,
    Batch,
    Context,
    Model,
    NativeCallError,
)
from backends.llama_cpp.prompt_context import LEAST_TOKENS, PromptContext
from backends.llama_cpp.runtime_log import RuntimeLog
from backends.llama_cpp.tokenizer import LlamaTokenizer
from backends.sampling import NotFiniteError, Sampler
from backends.snapshot import HostSnapshot
from edged.backend import BackendInfo, KvSnapshot
from edged.core.plan import Chunk, Sampling
from edged.core.types import SampledToken, SeqId, SlotId
from edged.errors import BackendStepError, EdgedError, KvTransferError, StepInterruptedError

_DECODE_FAILURES = {
    1: "there are not enough free KV cells",
    DECODE_ABORTED: "the computation was aborted",
    -1: "llama.cpp refused the batch",
}


class LlamaBackend:
    """One model and one KV cache. See `edged.backend.Backend` for what each method promises."""

    def __init__(
        self,
        info: BackendInfo,
        model: Model,
        context: Context,
        prompt_context: PromptContext | None,
        *,
        abort: AbortFlag,
        max_step_tokens: int,
        unified: bool,
        log: RuntimeLog,
    ) -> None:
        num_slots = info.kv.num_slots + info.kv.num_cache_slots
        self._info = info
        self._model = model
        self._context = context
        self._prompt_context = prompt_context
        self._abort = abort
        self._tokenizer = LlamaTokenizer(model.vocabulary)
        self._sampler = Sampler(info.vocab_size, info.eog_token_ids)
        self._batch = Batch(max_step_tokens, num_slots)
        self._max_step_tokens = max_step_tokens
        self._max_decode_tokens = min(max_step_tokens, context.max_batch_tokens)
        self._unified = unified
        self._log = log
        self._cells = [0] * num_slots
        self._sharing: set[SlotId] = set()
        """Slots that may hold cells together with others: moving their KV would give them cells of
        their own."""
        self._closed = False

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def tokenizer(self) -> LlamaTokenizer:
        return self._tokenizer

    # ── Steps ────────────────────────────────────────────────────────────────────────────────────

    def step(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        drawn: dict[SeqId, SampledToken] = {}
        try:
            apart = self._better_apart(chunks)
            for chunk in apart:
                self._compute_apart(chunk, chunks, drawn)
            together = [one for one in chunks if one not in apart] if apart else chunks
            if together:
                self._compute(together, chunks, drawn)
        finally:
            self._abort.clear()
        return drawn

    def interrupt(self) -> None:
        if self._info.can_interrupt:
            self._abort.set()

    def _better_apart(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The chunks of prompts that are not to meet the others; checks all of them."""
        cells, context = self._cells, self._prompt_context
        assert len({chunk.slot for chunk in chunks}) == len(chunks), "I3: two chunks of one slot"
        apart: list[Chunk] = []
        for chunk in chunks:
            num_held = cells[chunk.slot]
            assert chunk.token_ids, f"I3: the chunk of slot {chunk.slot} has no tokens"
            assert chunk.start == num_held, (
                f"I3: slot {chunk.slot} holds {num_held} cells, its chunk starts at {chunk.start}"
            )
            if (
                len(chunk.token_ids) >= LEAST_TOKENS
                and context is not None
                and chunk.slot not in self._sharing
                and context.suits(chunk, sum(cells) - num_held)
            ):
                apart.append(chunk)
        return apart

    def _compute_apart(
        self, chunk: Chunk, step: Sequence[Chunk], drawn: dict[SeqId, SampledToken]
    ) -> None:
        """Run one chunk of a step in the prompts' context."""
        assert self._prompt_context is not None
        self._check_tokens(chunk.token_ids, step)
        try:
            code = self._prompt_context.compute(chunk, self._context)
        except (NativeCallError, MemoryError) as error:
            self.clear(chunk.slot)
            detail = f"the KV of slot {chunk.slot} was not copied: {error}"
            raise self._undo(step, detail, already_lost=chunk.slot) from error
        if code != DECODE_OK:
            raise self._decode_failure(code, step)
        self._cells[chunk.slot] += len(chunk.token_ids)
        if chunk.sampling is not None:
            logits = self._prompt_context.logits()
            self._draw([logits], [(chunk, chunk.sampling)], step, drawn)

    def _compute(
        self, chunks: Sequence[Chunk], step: Sequence[Chunk], drawn: dict[SeqId, SampledToken]
    ) -> None:
        """Run chunks of a step in one `llama_decode`."""
        if not self._unified:
            # Separate caches run together only in ascending order without gaps of the slots.
            chunks = sorted(chunks, key=lambda chunk: chunk.slot)
        sampled = self._fill(chunks, step)
        code = self._context.decode(self._batch)
        if code != DECODE_OK:
            raise self._decode_failure(code, step)
        for chunk in chunks:
            self._cells[chunk.slot] += len(chunk.token_ids)
        if sampled:
            self._draw(self._context.logits(len(sampled)), sampled, step, drawn)

    def _fill(self, chunks: Sequence[Chunk], step: Sequence[Chunk]) -> list[tuple[Chunk, Sampling]]:
        """Put the chunks into the batch; returns those that sample, in the order of their rows."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[bool] = []
        sampled: list[tuple[Chunk, Sampling]] = []
        for chunk in chunks:
            slot, start, sampling = chunk.slot, chunk.start, chunk.sampling
            count = len(chunk.token_ids)
            token_ids += chunk.token_ids
            if count == 1:
                positions.append(start)
                slots.append(slot)
            else:
                positions += range(start, start + count)
                slots += [slot] * count
                outputs += [False] * (count - 1)
            outputs.append(sampling is not None)
            if sampling is not None:
                sampled.append((chunk, sampling))
        assert len(token_ids) <= self._max_step_tokens, (
            f"I3: a step of {len(token_ids)} tokens; at most {self._max_step_tokens}"
        )
        if len(token_ids) > self._max_decode_tokens:
            # The library aborts on a batch that is larger than its cache.
            raise self._undo(step, _DECODE_FAILURES[1])
        self._check_tokens(token_ids, step)
        self._batch.fill(token_ids, positions, slots, outputs)
        return sampled

    def _check_tokens(self, token_ids: Sequence[int], step: Sequence[Chunk]) -> None:
        if min(token_ids) < 0 or max(token_ids) >= self._info.vocab_size:
            raise self._undo(step, self._foreign_token(step))

    def _draw(
        self,
        rows: Sequence[NDArray[np.float32]],
        sampled: Sequence[tuple[Chunk, Sampling]],
        step: Sequence[Chunk],
        drawn: dict[SeqId, SampledToken],
    ) -> None:
        for row, (chunk, sampling) in enumerate(sampled):
            try:
                drawn[chunk.seq_id] = self._sampler.draw(rows[row], sampling)
            except NotFiniteError as error:
                self.clear(chunk.slot)
                raise self._undo(
                    step, f"sequence {chunk.seq_id}: {error}", already_lost=chunk.slot
                ) from error

    def _foreign_token(self, chunks: Sequence[Chunk]) -> str:
        size = self._info.vocab_size
        sequence, token_id = next(
            (chunk.seq_id, token_id)
            for chunk in chunks
            for token_id in chunk.token_ids
            if not 0 <= token_id < size
        )
        return f"sequence {sequence} has the token {token_id}; the vocabulary is 0 to {size - 1}"

    def _decode_failure(self, code: int, step: Sequence[Chunk]) -> EdgedError:
        what = _DECODE_FAILURES.get(code, f"llama_decode failed with code {code}")
        failure = self._undo(step, ": ".join((what, *self._log.take())))
        if code == DECODE_ABORTED and not failure.lost:
            return StepInterruptedError()
        return failure

    def _undo(
        self, chunks: Sequence[Chunk], detail: str, already_lost: SlotId | None = None
    ) -> BackendStepError:
        """Trim every slot back to its chunk's start; the error to raise names those that cannot
        be trimmed and were cleared."""
        lost = [chunk.slot for chunk in chunks if not self._trim(chunk.slot, chunk.start)]
        if already_lost is not None and already_lost not in lost:
            lost.append(already_lost)
        return BackendStepError(detail, lost=tuple(lost))

    def _trim(self, slot: SlotId, num_tokens: int) -> bool:
        """Cut a slot to `num_tokens` cells; False if it had to be cleared instead."""
        if num_tokens > 0 and self._context.remove(slot, num_tokens):
            held = self._context.positions(slot)
            window = self._model.facts.window_tokens
            # Without a window every position is needed; with one, the last `window` of them.
            first_needed = max(0, num_tokens - window) if window else 0
            if held is not None and held[0] <= first_needed and held[1] == num_tokens - 1:
                self._cells[slot] = num_tokens
                return True
        self.clear(slot)
        return num_tokens == 0

    # ── KV ───────────────────────────────────────────────────────────────────────────────────────

    def save_kv(self, slot: SlotId) -> HostSnapshot:
        try:
            data = self._context.read_state(slot)
        except (NativeCallError, MemoryError) as error:
            raise KvTransferError(f"slot {slot} was not saved: {error}") from error
        return HostSnapshot(self._cells[slot], data)

    def restore_kv(self, slot: SlotId, snapshot: KvSnapshot, num_tokens: int | None = None) -> None:
        assert isinstance(snapshot, HostSnapshot), f"a snapshot of {type(snapshot).__name__}"
        self._assert_empty(slot)
        if snapshot.num_tokens > 0:
            self._write(slot, snapshot.num_tokens, snapshot.array)
        if num_tokens is not None and num_tokens < snapshot.num_tokens:
            assert self._info.can_cut_snapshot, "this model cannot restore a part of a snapshot"
            if not self._trim(slot, num_tokens):
                raise KvTransferError(f"slot {slot} was not cut to {num_tokens} tokens")

    def load_snapshot(self, num_tokens: int, data: bytearray) -> HostSnapshot:
        return HostSnapshot(num_tokens, np.frombuffer(data, dtype=np.uint8))

    def copy_prefix(self, source: SlotId, target: SlotId, num_tokens: int) -> None:
        assert self._info.can_copy_prefix, "this model cannot copy a prefix"
        assert 0 <= num_tokens <= self._cells[source], (
            f"slot {source} holds {self._cells[source]} cells, not {num_tokens}"
        )
        self._assert_empty(target)
        if num_tokens == 0:
            return
        if self._unified:
            self._context.share(source, target, num_tokens)
            self._sharing.update((source, target))
            self._cells[target] = num_tokens
            return
        # Between separate caches the library copies later, at the next decode, and whole caches
        # only; by then the source may hold something else. So copy now, through host memory.
        snapshot = self.save_kv(source)
        self._write(target, snapshot.num_tokens, snapshot.array)
        self._trim(target, num_tokens)

    def clear(self, slot: SlotId) -> None:
        self._context.remove(slot, 0)
        self._sharing.discard(slot)
        self._cells[slot] = 0

    def close(self) -> None:
        assert not self._closed, "close of a closed backend: the library aborts on a second free"
        self._closed = True
        if self._prompt_context is not None:
            self._prompt_context.free()
        self._context.free()
        self._model.free()
        self._log.free()

    def _write(self, slot: SlotId, num_tokens: int, data: NDArray[np.uint8]) -> None:
        try:
            self._context.write_state(slot, data)
        except NativeCallError as error:
            self.clear(slot)
            logged = "; ".join(self._log.take())
            raise KvTransferError(f"slot {slot} was not restored: {error} {logged}") from error
        held = self._context.positions(slot)
        if held is None or held[1] != num_tokens - 1:
            self.clear(slot)
            raise KvTransferError(
                f"slot {slot} was not restored: it holds positions {held}, not {num_tokens} tokens"
            )
        self._cells[slot] = num_tokens

    def _assert_empty(self, slot: SlotId) -> None:
        assert self._cells[slot] == 0, f"I1: slot {slot} holds {self._cells[slot]} cells"
