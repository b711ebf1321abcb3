"""The contract between an engine and a runtime.

Theory of operation: a backend holds one model and one KV cache of `num_slots` sequences. The engine
thread is the only caller of every method here, but for `interrupt` and the tokenizer's, which any
thread may call. A backend decides nothing: the scheduler says which tokens go to which slot, the
backend runs them and draws the tokens it is asked for. It is found by name through the entry points
`edged.backends`, so nothing in `edged` imports one; a name with a colon
(`my_package.module:create`) is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from edged.clock import ManualClock
from edged.core.memory import MemoryReport
from edged.core.plan import Chunk
from edged.core.types import KvGeometry, SampledToken, SeqId, SlotId
from edged.errors import ModelLoadError, Reason

ENTRY_POINT_GROUP = "edged.backends"
SIMULATED_GROUP = "edged.simulated_backends"

LoadProgress = Callable[[float], None]
"""Called on the loading thread with the fraction loaded, 0 … 1."""


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """How to load one model. Every backend understands these fields or says that it does not."""

    model_path: str
    kv_type: str = "q8_0"
    context_tokens: int | None = 16384
    """KV cells in all, shared by the sequences; None lets the backend choose (`choose_kv`)."""
    max_sequences: int = 16
    max_step_tokens: int = 512
    """Most tokens that one `step` is ever asked for."""
    num_threads: int | None = None
    """CPU threads; None lets the backend choose."""
    gpu_layers: int = -1
    """Layers to offload; −1 offloads all where there is a GPU."""
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    kv_unified: bool = True
    """One pool of cells for all slots, or `context_tokens / max_sequences` for each."""
    cached_sequences: int = 0
    """Further ones whose KV is kept for others that begin like them; a backend that cannot let
    slots share cells keeps none."""
    kv_bytes: int | None = None
    """Most bytes of KV; None is what is free."""
    reserved_bytes: Mapping[str, int] = field(default_factory=dict)
    """Of each pool of memory, what others may still take of what is free; by `Pool.name`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of one backend; an unknown one is a `ModelLoadError`."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What was loaded."""

    backend: str
    model_description: str
    """For a person: architecture, size and file type."""
    model_bytes: int
    device: str
    """Where the layers are: "cpu", "cuda:0", "metal"."""
    vocab_size: int
    train_context_tokens: int
    kv: KvGeometry
    eog_token_ids: frozenset[int]
    """Tokens that end an answer."""
    chat_template: str | None
    """Jinja source from the model; None when the model has none."""
    bos_token: str
    eos_token: str
    can_swap: bool
    """Whether `save_kv` and `restore_kv` work for this model."""
    can_copy_prefix: bool
    can_cut_snapshot: bool
    """Whether `restore_kv` can put the first tokens of a snapshot alone into a slot."""
    can_interrupt: bool
    """Whether `interrupt` does anything."""
    runtime: str
    """Library and version; saved KV is read by no other."""
    warnings: tuple[str, ...] = ()
    """What an operator is to know, though the model serves: sentences."""
    memory: MemoryReport | None = None
    """What of which memory it takes; None where there is nothing to tell."""


class KvSnapshot(Protocol):
    """The KV of one sequence, in host memory. Belongs to the backend that made it."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def data(self) -> memoryview:
        """What is written to disk; `Backend.load_snapshot` reads it. May be read by any thread."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back. Thread-safe and without state."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of `text`. `add_special` puts the model's BOS/EOS; `parse_special` reads control
        tokens written in the text, which only a rendered chat template may do."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes a token stands for; b"" for control tokens. May be part of a character."""
        ...


class Backend(Protocol):
    @property
    def info(self) -> BackendInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def step(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        """Run every chunk through the model, all in one forward pass where the runtime can, and
        draw a token for each chunk with a `sampling`; keyed by `seq_id`.

        Σ len(chunk.token_ids) ≤ `max_step_tokens`; one chunk per slot; `chunk.start` equals the
        number of cells the slot holds.

        The draw for a sequence is a pure function of (logits, `sampling.params`,
        `sampling.token_ids`): the same after a swap, a recompute and in another process.

        Raises:
            BackendStepError: no token was drawn. Each slot of `chunks` holds the cells it held
                before, but for those in `lost`, which hold none.
            StepInterruptedError: `interrupt` was called. Each slot holds the cells it held before.
        """
        ...

    def interrupt(self) -> None:
        """Cut short the step that is running or, if none is, the next one. It comes too late for a
        step that is nearly over, which then ends as if nothing had happened."""
        ...

    def save_kv(self, slot: SlotId) -> KvSnapshot:
        """Copy a slot's KV to host memory; the slot is unchanged.

        Raises:
            KvTransferError: there is no snapshot; the slot is unchanged all the same.
        """
        ...

    def restore_kv(self, slot: SlotId, snapshot: KvSnapshot, num_tokens: int | None = None) -> None:
        """Put a snapshot into an empty slot of this or another index; the snapshot stays valid.
        Fewer than all of its tokens, the first ones, where `can_cut_snapshot`; even then there
        must be room for all.

        Raises:
            KvTransferError: the slot is empty.
        """
        ...

    def load_snapshot(self, num_tokens: int, data: bytearray) -> KvSnapshot:
        """A snapshot from `KvSnapshot.data`, of this model, KV type and `runtime`."""
        ...

    def copy_prefix(self, source: SlotId, target: SlotId, num_tokens: int) -> None:
        """Make the first `num_tokens` cells of `source` those of the empty slot `target` too. They
        are free again when neither holds them. Where there are cache slots this costs no cell;
        elsewhere it costs as many as are copied.

        Raises:
            KvTransferError: the slot is empty.
        """
        ...

    def clear(self, slot: SlotId) -> None:
        """Free every cell of a slot and forget its sampling state; an empty slot is left alone."""
        ...

    def close(self) -> None:
        """Free everything. Nothing may be called afterwards."""
        ...


AnswerLength = Callable[[Sequence[int]], int | None]
"""Tokens an answer to this prompt has before its EOS; None leaves the end to the request."""


class SimulatedBackend(Backend, Protocol):
    """A backend whose steps move a manual clock instead of taking time."""

    def interrupt_at(self, at_s: float) -> None:
        """`interrupt` at a moment of the next step, if it lasts that long."""
        ...


CreateSimulated = Callable[[BackendConfig, ManualClock, AnswerLength], SimulatedBackend]
"""The entry point of a simulated backend; `options` of the configuration say how fast it is."""

CreateBackend = Callable[[BackendConfig, LoadProgress], Backend]
"""A backend's entry point: loads the model on the calling thread.

Raises:
    ModelLoadError: with a reason the operator understands; nothing is left allocated.
"""


def find_backend(name: str) -> CreateBackend:
    """The `create` of a backend, by entry-point name or as `module:function`.

    Raises:
        ModelLoadError: there is none of that name, or its import fails (a missing runtime).
    """
    return cast(CreateBackend, _find(name, ENTRY_POINT_GROUP))


def find_simulated(name: str) -> CreateSimulated:
    """As `find_backend`, for backends on a manual clock."""
    return cast(CreateSimulated, _find(name, SIMULATED_GROUP))


def _find(name: str, group: str) -> object:
    try:
        if ":" in name:
            module, _, function = name.partition(":")
            found: object = getattr(import_module(module), function)
            return found
        points = {point.name: point for point in entry_points(group=group)}
        if name in points:
            return cast(object, points[name].load())
    except (ImportError, AttributeError, OSError) as error:
        raise ModelLoadError(
            Reason.MODEL_FAILED,
            f"backend {name!r} cannot be imported: {error}; install its runtime "
            f"(pip install 'edged[llama]' for llama_cpp, 'edged[mlx]' for mlx on Apple Silicon, "
            "'edged[mlx-cpu]' for mlx on Linux)",
        ) from error
    raise ModelLoadError(
        Reason.MODEL_FAILED, f"there is no backend {name!r}; installed are: {sorted(points)}"
    )
