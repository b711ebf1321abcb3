"""The simulated backend: cells, draws and time of a model that does not exist."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from zlib import crc32

from backends.sim.cells import CellPool
from backends.sim.draw import choose_token, draw_bits, with_logprobs
from backends.sim.faults import Faults
from backends.sim.pace import Pace
from backends.sim.profile import StepProfile
from backends.sim.tokenizer import (
    BOS_TOKEN,
    CHAT_TEMPLATE,
    EOS_ID,
    EOS_TOKEN,
    NUM_TOKENS,
    TURN_END_ID,
    ByteTokenizer,
)
from edged.backend import AnswerLength, BackendConfig, BackendInfo, KvSnapshot
from edged.clock import Clock
from edged.core.memory import HOST, KvWanted, Pool, choose_kv
from edged.core.plan import Chunk, Sampling
from edged.core.types import KvGeometry, SampledToken, SamplingParams, SeqId, SlotId
from edged.errors import BackendStepError, KvTransferError, StepInterruptedError

_ANY_ID = 65


@dataclass(frozen=True, slots=True)
class SimModel:
    """What is simulated, but for its speed."""

    vocab_size: int = NUM_TOKENS
    train_context_tokens: int = 32768
    bytes_per_cell: int = 12288
    eos_rate: float = 0.0
    """Probability that a draw is EOS, so 1 / mean length; 0 runs every answer to max_tokens."""
    length_of: AnswerLength | None = None
    can_swap: bool = True
    can_interrupt: bool = True
    has_chat_template: bool = True
    idle_cells_cost: bool = False
    draws_text: bool = True
    """Draws hash what a slot holds; else only the length of an answer matters, and each token of it
    is the same, in a fraction of the time."""

    def __post_init__(self) -> None:
        assert self.vocab_size >= NUM_TOKENS, f"vocab_size {self.vocab_size} < {NUM_TOKENS}"
        assert 0 <= self.eos_rate <= 1, f"eos_rate {self.eos_rate} is not in [0, 1]"
        assert self.draws_text or not self.eos_rate, "eos_rate of a model that draws no text"


@dataclass(frozen=True, slots=True)
class SimSnapshot:
    """The cells of one slot, and a size as if each cell had its bytes."""

    cells: tuple[int, ...]
    digest: int
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        return len(self.cells)

    @property
    def data(self) -> memoryview:
        return memoryview(_cell_bytes(self.cells))


class _Slot:
    __slots__ = ("answer_tokens", "cells", "digest", "sampling", "seed")

    def __init__(self) -> None:
        self.cells: list[int] = []
        self.digest = 0
        """CRC-32 of the cells: a rolling hash, the same however the cells were chunked."""
        self.sampling: Sampling | None = None
        """Whose seed and answer length these are."""
        self.seed = 0
        self.answer_tokens = inf


class SimBackend:
    """A `Backend`. Steps and transfers advance a `ManualClock`; on any other clock they sleep."""

    def __init__(
        self,
        config: BackendConfig,
        clock: Clock,
        profile: StepProfile | None = None,
        faults: Faults | None = None,
        model: SimModel | None = None,
    ) -> None:
        self._profile = profile or StepProfile()
        self._faults = faults
        self._model = model or SimModel()
        self._info = _describe(config, self._model)
        self._pace = Pace(clock)
        self._max_step_tokens = config.max_step_tokens
        num_slots = config.max_sequences + _num_cache_slots(config)
        self._slots = [_Slot() for _ in range(num_slots)]
        shares = num_slots > config.max_sequences
        self._pool = CellPool(self._info.kv.num_cells, num_slots, shares=shares)
        self._eos_below = int(self._model.eos_rate * 2**32)
        # Tokens are immutable values, so one object for each id serves every draw.
        self._drawn = tuple(SampledToken(token_id) for token_id in range(NUM_TOKENS))
        self._tokenizer = ByteTokenizer()
        self._is_closed = False

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def tokenizer(self) -> ByteTokenizer:
        return self._tokenizer

    def step(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        self._check(chunks)
        fault = None if self._faults is None else self._faults.step(chunks)
        if fault is not None:
            self._pace.pass_by(self._profile.step_s)
            for slot in fault.lost:
                self.clear(slot)
            raise BackendStepError(fault.detail, lost=tuple(fault.lost))
        if not self._pace.spend(self._profile.seconds(chunks)):
            raise StepInterruptedError
        drawn: dict[SeqId, SampledToken] = {}
        if not self._model.draws_text:
            return self._count(chunks)
        for chunk in chunks:
            held = self._slots[chunk.slot]
            num_tokens = len(chunk.token_ids)
            if num_tokens == 1:
                token_id = chunk.token_ids[0]
                held.cells.append(token_id)
                held.digest = crc32(token_id.to_bytes(4, "little"), held.digest)
            else:
                held.cells.extend(chunk.token_ids)
                held.digest = crc32(_cell_bytes(chunk.token_ids), held.digest)
            self._pool.grow(chunk.slot, num_tokens)
            if chunk.sampling is not None:
                drawn[chunk.seq_id] = self._draw(held, chunk.sampling, num_tokens)
        return drawn

    def interrupt(self) -> None:
        if self._model.can_interrupt:
            self._pace.interrupt()

    def interrupt_at(self, at_s: float) -> None:
        """Manual clock: `interrupt` at a moment of the next step."""
        self._pace.interrupt_at(at_s)

    def save_kv(self, slot: SlotId) -> SimSnapshot:
        assert self._model.can_swap, "save_kv of a model that cannot swap"
        held = self._slots[slot]
        assert held.cells, f"slot {slot} is empty, there is nothing to save"
        if self._faults is not None and self._faults.save_fails(slot):
            raise KvTransferError(f"an injected failure to save slot {slot}")
        num_bytes = len(held.cells) * self._model.bytes_per_cell
        self._pace.pass_by(num_bytes * self._profile.swap_byte_s)
        return SimSnapshot(tuple(held.cells), held.digest, num_bytes)

    def restore_kv(self, slot: SlotId, snapshot: KvSnapshot, num_tokens: int | None = None) -> None:
        assert isinstance(snapshot, SimSnapshot), f"a snapshot of another backend: {snapshot!r}"
        held = self._slots[slot]
        assert not held.cells, f"I1: slot {slot} holds {len(held.cells)} cells, restore needs none"
        self._pool.check_room(snapshot.num_tokens)
        if self._faults is not None and self._faults.restore_fails(slot):
            raise KvTransferError(f"an injected failure to restore slot {slot}")
        self._pace.pass_by(snapshot.num_bytes * self._profile.swap_byte_s)
        held.cells = list(snapshot.cells[:num_tokens])
        is_whole = len(held.cells) == snapshot.num_tokens
        held.digest = snapshot.digest if is_whole else crc32(_cell_bytes(held.cells))
        self._pool.grow(slot, len(held.cells))

    def load_snapshot(self, num_tokens: int, data: bytearray) -> SimSnapshot:
        cells = array("I", bytes(data))
        assert len(cells) == num_tokens, f"a snapshot of {len(cells)} cells, not {num_tokens}"
        num_bytes = num_tokens * self._model.bytes_per_cell
        return SimSnapshot(tuple(cells), crc32(data), num_bytes)

    def copy_prefix(self, source: SlotId, target: SlotId, num_tokens: int) -> None:
        cells = self._slots[source].cells
        held = self._slots[target]
        assert num_tokens <= len(cells), f"slot {source} has {len(cells)} cells, not {num_tokens}"
        assert not held.cells, f"I1: slot {target} holds {len(held.cells)} cells, a copy needs none"
        self._pool.copy(source, target, num_tokens)
        held.cells = cells[:num_tokens]
        held.digest = crc32(_cell_bytes(held.cells))

    def clear(self, slot: SlotId) -> None:
        self._pool.clear(slot, len(self._slots[slot].cells))
        self._slots[slot] = _Slot()

    def close(self) -> None:
        self._is_closed = True
        self._slots = []

    @property
    def num_used_cells(self) -> int:
        """Cells that any slot holds, each counted once: for tests of what drives this backend."""
        return self._pool.num_used

    def cells_of(self, slot: SlotId) -> tuple[int, ...]:
        """The token ids a slot holds: for tests of what drives this backend."""
        return tuple(self._slots[slot].cells)

    def _check(self, chunks: Sequence[Chunk]) -> None:
        """Hold a step to the contract before anything changes."""
        assert not self._is_closed, "step of a closed backend"
        assert chunks, "a step without chunks"
        num_tokens = 0
        max_cells = self._info.kv.max_cells_per_slot
        vocab_size = self._model.vocab_size
        for chunk in chunks:
            index, start, token_ids = chunk.slot, chunk.start, chunk.token_ids
            num_held = len(self._slots[index].cells)
            assert start == num_held, f"I3: slot {index}: {start} != {num_held} cells"
            num_chunk_tokens = len(token_ids)
            assert num_chunk_tokens > 0, f"I3: the chunk of slot {index} is empty"
            num_tokens += num_chunk_tokens
            end = start + num_chunk_tokens
            assert end <= max_cells, f"I2: {end} cells in slot {index}, at most {max_cells}"
            largest = token_ids[0] if num_chunk_tokens == 1 else max(token_ids)
            assert largest < vocab_size, f"slot {index}: token {largest} of {vocab_size}"
        slots = [chunk.slot for chunk in chunks]
        assert len(set(slots)) == len(slots), f"I3: two chunks for a slot: {slots}"
        assert num_tokens <= self._max_step_tokens, (
            f"I3: {num_tokens} tokens in a step, at most {self._max_step_tokens}"
        )
        self._pool.check_room(num_tokens)

    def _draw(self, slot: _Slot, sampling: Sampling, num_chunk_tokens: int) -> SampledToken:
        params, known, cells = sampling.params, sampling.token_ids, slot.cells
        assert len(known) == len(cells), f"a draw after {len(cells)} of {len(known)} tokens"
        # Compared whole at the end of a prefill, later each cell as the draw comes back.
        matches = known[-1] == cells[-1] if num_chunk_tokens == 1 else list(known) == cells
        assert matches, "I3: the cells are not the tokens of the sequence"
        if slot.sampling is not sampling:
            self._begin(slot, sampling)
        index = len(cells) - sampling.num_prompt_tokens
        bits = draw_bits(slot.digest, slot.seed, index)
        token_id = choose_token(cells, bits)
        if index >= slot.answer_tokens or (self._eos_below and self._is_eos(params, bits)):
            token_id = EOS_ID
        if params.logprobs is not None:
            return with_logprobs(token_id, bits, params.logprobs)
        return self._drawn[token_id]

    def _count(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        """A step of a model that draws no text."""
        ends, goes_on = self._drawn[EOS_ID], self._drawn[_ANY_ID]
        drawn: dict[SeqId, SampledToken] = {}
        for chunk in chunks:
            held, sampling = self._slots[chunk.slot], chunk.sampling
            held.cells.extend(chunk.token_ids)
            self._pool.grow(chunk.slot, len(chunk.token_ids))
            if sampling is not None:
                if held.sampling is not sampling:
                    self._begin(held, sampling)
                num_tokens = len(held.cells) - sampling.num_prompt_tokens
                drawn[chunk.seq_id] = ends if num_tokens >= held.answer_tokens else goes_on
        return drawn

    def _begin(self, slot: _Slot, sampling: Sampling) -> None:
        params, length_of = sampling.params, self._model.length_of
        num_tokens = None
        if length_of is not None and not params.ignore_eos:
            num_tokens = length_of(sampling.token_ids[: sampling.num_prompt_tokens])
        slot.sampling = sampling
        slot.seed = params.seed if params.temperature > 0 else 0
        slot.answer_tokens = inf if num_tokens is None else num_tokens

    def _is_eos(self, params: SamplingParams, bits: int) -> bool:
        return not params.ignore_eos and bits * 2_654_435_761 % 2**32 < self._eos_below


def _cell_bytes(token_ids: Sequence[int]) -> bytes:
    """Four bytes for each id, as `int.to_bytes(4, "little")` writes them."""
    words = array("I", token_ids)
    assert words.itemsize == 4, "a C unsigned int has 4 bytes wherever Python runs today"
    return words.tobytes()


def _num_cache_slots(config: BackendConfig) -> int:
    return config.cached_sequences if config.kv_unified else 0


def _num_cells(config: BackendConfig, model: SimModel) -> int:
    """As many as a real one would allocate that has all the memory it wants.

    Raises:
        ModelLoadError: they take more than `config.kv_bytes`.
    """
    per_cell = model.bytes_per_cell
    wanted = KvWanted(
        model="sim",
        kv_type=config.kv_type,
        bytes_per_token={config.kv_type: per_cell},
        kv_bytes=config.kv_bytes,
        context_tokens=config.context_tokens,
        least_tokens=config.max_step_tokens,
        most_tokens=config.max_sequences * model.train_context_tokens,
    )
    plenty = Pool(HOST, 2**60, 0, 0, 0, 0, 0)
    return choose_kv((plenty,), wanted).num_tokens


def _describe(config: BackendConfig, model: SimModel) -> BackendInfo:
    num_cells, num_slots = _num_cells(config, model), config.max_sequences
    return BackendInfo(
        backend="sim",
        model_description=f"simulated, vocabulary {model.vocab_size}",
        model_bytes=0,
        device="cpu",
        vocab_size=model.vocab_size,
        train_context_tokens=model.train_context_tokens,
        kv=KvGeometry(
            num_slots=num_slots,
            num_cells=num_cells,
            max_cells_per_slot=num_cells if config.kv_unified else num_cells // num_slots,
            bytes_per_cell=model.bytes_per_cell,
            snapshot_bytes_per_cell=model.bytes_per_cell,
            snapshot_bytes_fixed=0,
            effective_type_k=config.kv_type,
            effective_type_v=config.kv_type,
            num_cache_slots=_num_cache_slots(config),
            idle_cells_cost=model.idle_cells_cost,
        ),
        eog_token_ids=frozenset({EOS_ID, TURN_END_ID}),
        chat_template=CHAT_TEMPLATE if model.has_chat_template else None,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        can_swap=model.can_swap,
        can_copy_prefix=True,
        can_cut_snapshot=True,
        can_interrupt=model.can_interrupt,
        runtime="sim",
    )
