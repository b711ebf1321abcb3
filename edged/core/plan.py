"""What one step does (`StepPlan`) and what came of it (`StepResult`).

What is made in every step is a named tuple: a frozen dataclass takes three times as long to make,
and more when the model has just filled the processor's caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from edged.core.types import (
    FileId,
    PreemptMode,
    RequestId,
    SampledToken,
    SamplingParams,
    SeqId,
    SlotId,
    SloTier,
    SnapshotId,
)

YIELDS_TO_NOBODY: Final[Mapping[SloTier, float]] = MappingProxyType({})
"""Of a step that runs to its end whoever arrives."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw the next token of one sequence; made once and valid for the sequence's life."""

    params: SamplingParams
    token_ids: Sequence[int]
    """Prompt and answer so far: a live, read-only view that the scheduler appends to between
    steps. Penalties and the random draw depend on nothing else."""
    num_prompt_tokens: int


class Chunk(NamedTuple):
    """Tokens of one sequence to run through the model: cells `[start, start + len(token_ids))`."""

    seq_id: SeqId
    slot: SlotId
    start: int
    token_ids: Sequence[int]
    sampling: Sampling | None
    """None until the chunk reaches the last known token: only then is a token drawn."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Take a running sequence out of its slot."""

    seq_id: SeqId
    slot: SlotId
    mode: PreemptMode
    cause: RequestId | None


class Save(NamedTuple):
    """Copy a slot's KV to host memory."""

    slot: SlotId
    snapshot: SnapshotId


class Restore(NamedTuple):
    """Put the first tokens of a snapshot, or of a file, into a sequence's slot; it stays."""

    seq_id: SeqId
    slot: SlotId
    snapshot: SnapshotId | None
    file: FileId | None
    """Where there is no snapshot."""
    num_tokens: int

    def is_of_file(self, seq_id: SeqId) -> bool:
        """Whether that sequence is restored from a file, which may be damaged."""
        return self.seq_id == seq_id and self.file is not None


class Write(NamedTuple):
    """Write a snapshot to disk, in the background."""

    snapshot: SnapshotId
    file: FileId
    space: str | None
    tokens: tuple[int, ...]


class Share(NamedTuple):
    """Let a sequence's slot begin with what another slot holds."""

    seq_id: SeqId
    source: SlotId
    slot: SlotId
    num_tokens: int


class StepPlan(NamedTuple):
    """Executed in this order: write, read, discard, save, clear, evict, share, drop, restore,
    unlink, chunks. Slots and host memory that are freed may be reused by what comes later."""

    step: int
    clear: tuple[SlotId, ...]
    """Slots of sequences that ended, and those that were cached and are given up already."""
    discard: tuple[SnapshotId, ...]
    """Snapshots that are not needed any more, or make room for others."""
    evict: tuple[Evict, ...]
    restore: tuple[Restore, ...]
    chunks: tuple[Chunk, ...]
    yields_to: Mapping[SloTier, float] = YIELDS_TO_NOBODY
    """Tiers whose arrival cuts the step short; each with the least rest of the step for which that
    is worth what has been computed, as a part of the arrival's TTFT target."""
    drop: tuple[SlotId, ...] = ()
    """Cached slots whose cells this step needs, but for those that are shared."""
    shorten: tuple[SlotId, ...] = ()
    """Slots of running sequences whose cells this step needs, as far as they are not needed there
    yet. Only the account knows of them; nothing is executed."""
    share: tuple[Share, ...] = ()
    save: tuple[Save, ...] = ()
    """Slots of those that are swapped, cleared or dropped, as they are before all of that."""
    write: tuple[Write, ...] = ()
    unlink: tuple[FileId, ...] = ()
    """Files that are not needed any more, or make room for others."""
    read: tuple[FileId, ...] = ()
    """Files to be read into memory in the background, for somebody who waits for that."""


class Pending(NamedTuple):
    """What became due between two steps; the next plan does it."""

    clear: list[SlotId]
    discard: list[SnapshotId]
    save: list[Save]
    write: list[Write]
    unlink: list[FileId]

    def empty(self) -> None:
        for items in self:
            items.clear()

    def __bool__(self) -> bool:
        return any(self)


class StepResult(NamedTuple):
    step: int
    sampled: Mapping[SeqId, SampledToken]
    """One token for each chunk that had a `sampling`, but for lost and interrupted sequences."""
    saved_bytes: Mapping[SnapshotId, int]
    """Size of each snapshot that was made; one that is missing failed."""
    lost: frozenset[SeqId]
    """Sequences whose KV is gone (a failed restore or step); their slots are cleared."""
    interrupted: frozenset[SeqId]
    """Sequences whose chunk was not computed, because the step was cut short; they hold what they
    held before."""
    started_s: float
    finished_s: float
    compute_s: float
    """Seconds inside the backend's forward pass and draws."""
    transfer_s: float = 0.0
    """Seconds spent saving and restoring KV, without those of reading it from disk."""
    transfer_bytes: int = 0
    read_s: float = 0.0
    read_bytes: int = 0
    detail: str = ""
    """Why sequences were lost."""
    overhead_s: float = 0.0
    """Seconds from the end of the step before to the start of this one, if there was work all the
    time: those of planning it, of telling what came of the other, and of taking up requests."""
