"""Backends whose loading or stepping goes wrong in ways that the simulated one does not."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from backends.sim import SimBackend, StepFault
from backends.sim.profile import StepProfile
from edged.backend import BackendConfig, BackendInfo, KvSnapshot, LoadProgress
from edged.clock import MonotonicClock
from edged.core.memory import MemoryReport
from edged.core.plan import Chunk
from edged.core.types import SampledToken, SeqId, SlotId


class _BreakAnInvariant:
    """A runtime that finds itself in an impossible state on the first step of a request."""

    def step(self, chunks: Sequence[Chunk]) -> StepFault | None:
        assert chunks[0].seq_id < 0, "I99: nothing holds any more"
        return None

    def save_fails(self, slot: SlotId) -> bool:
        return False

    def restore_fails(self, slot: SlotId) -> bool:
        return False


def create_broken(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    return SimBackend(config, MonotonicClock(), faults=_BreakAnInvariant())


def create_without_memory(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    raise MemoryError


def create_unreadable(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    raise PermissionError(13, "Permission denied", "/secret/path")


def create_with_a_bug(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    raise KeyError("a bug of the backend")


HOST_LEFT_BYTES = 5 * 2**20


class _Scarce(SimBackend):
    """Says that it leaves little host memory, and something else that an operator is to know."""

    @property
    def info(self) -> BackendInfo:
        memory = MemoryReport(
            (), (), 2**20, is_kv_limit_given=False, host_left_bytes=HOST_LEFT_BYTES
        )
        return replace(super().info, memory=memory, warnings=("the device is slow",))


def create_scarce(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    return _Scarce(config, MonotonicClock())


class _FailingTokenizer:
    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raise KeyError("a bug of the tokenizer")

    def piece(self, token_id: int) -> bytes:
        return b""


class _WithFailingTokenizer:
    """Loads; does nothing but to calibrate."""

    def __init__(self, sim: SimBackend) -> None:
        self._sim = sim
        self.tokenizer = _FailingTokenizer()

    def interrupt(self) -> None:
        self._sim.interrupt()

    @property
    def info(self) -> BackendInfo:
        return self._sim.info

    def step(self, chunks: Sequence[Chunk]) -> Mapping[SeqId, SampledToken]:
        return self._sim.step(chunks)

    def save_kv(self, slot: SlotId) -> KvSnapshot:
        return self._sim.save_kv(slot)

    def restore_kv(self, slot: SlotId, snapshot: KvSnapshot, num_tokens: int | None = None) -> None:
        self._sim.restore_kv(slot, snapshot, num_tokens)

    def clear(self, slot: SlotId) -> None:
        self._sim.clear(slot)


def create_with_a_failing_tokenizer(
    config: BackendConfig, progress: LoadProgress
) -> _WithFailingTokenizer:
    return _WithFailingTokenizer(SimBackend(config, MonotonicClock()))


def create_lean(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    """Loads only where nothing was imported that an engine process does not need."""
    unwanted = {"pydantic", "grpc", "rich", "typer", "structlog"} & set(sys.modules)
    assert not unwanted, f"an engine process imports {unwanted}"
    return SimBackend(config, MonotonicClock())


class _EndlessProfile(StepProfile):
    """An hour for a step with the token of "~"."""

    def seconds(self, chunks: Iterable[Chunk]) -> float:
        return 3600.0 if any(ord("~") in chunk.token_ids for chunk in chunks) else 0.001


def create_endless(config: BackendConfig, progress: LoadProgress) -> SimBackend:
    return SimBackend(config, MonotonicClock(), _EndlessProfile())
