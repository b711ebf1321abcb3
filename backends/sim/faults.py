"""Failures of a runtime that a test, a simulation or an operator's option asks for."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.core.plan import Chunk
from edged.core.types import SlotId


@dataclass(frozen=True, slots=True)
class StepFault:
    """A step that fails: no token is drawn, the slots in `lost` are cleared."""

    detail: str
    lost: tuple[SlotId, ...] = ()


class Faults(Protocol):
    """Asked once for each call of the backend, in the order of the calls."""

    def step(self, chunks: Sequence[Chunk]) -> StepFault | None: ...

    def save_fails(self, slot: SlotId) -> bool: ...

    def restore_fails(self, slot: SlotId) -> bool: ...


class SeededFaults:
    """Faults at random, the same for the same seed and calls. Rates are probabilities of a call."""

    def __init__(
        self,
        seed: int,
        *,
        step_rate: float = 0.0,
        lost_rate: float = 0.5,
        save_rate: float = 0.0,
        restore_rate: float = 0.0,
    ) -> None:
        """`lost_rate` is the probability that a slot of a failed step loses its cells."""
        self._random = random.Random(seed)
        self._step_rate = step_rate
        self._lost_rate = lost_rate
        self._save_rate = save_rate
        self._restore_rate = restore_rate

    def step(self, chunks: Sequence[Chunk]) -> StepFault | None:
        if self._random.random() >= self._step_rate:
            return None
        lost = tuple(chunk.slot for chunk in chunks if self._random.random() < self._lost_rate)
        return StepFault("an injected step failure", lost)

    def save_fails(self, slot: SlotId) -> bool:
        return self._random.random() < self._save_rate

    def restore_fails(self, slot: SlotId) -> bool:
        return self._random.random() < self._restore_rate


@dataclass(frozen=True, slots=True)
class Triggers:
    """Token ids that make the step which computes them go wrong."""

    abort_on_token: int | None = None
    """The process aborts (SIGABRT), as a failed assertion of a runtime does."""
    hang_on_token: int | None = None
    """The step never ends."""
    fail_step_on_token: int | None = None
    """The step fails, and the slots that were to compute the token are lost."""
    fail_step_always: bool = False
    """Each such step fails, not only the first."""
    once_file: str | None = None
    """Abort and hang only if this file can be created, so once for all processes that name it."""

    @property
    def is_empty(self) -> bool:
        return (
            self.abort_on_token is None
            and self.hang_on_token is None
            and self.fail_step_on_token is None
        )


class TriggerFaults:
    """Faults when a given token is computed: supervision is tested with them in real processes."""

    def __init__(self, triggers: Triggers) -> None:
        self._triggers = triggers
        self._num_failed_steps = 0

    def step(self, chunks: Sequence[Chunk]) -> StepFault | None:
        triggers = self._triggers
        if _slots_with(chunks, triggers.abort_on_token) and self._may_fire():
            os.abort()
        if _slots_with(chunks, triggers.hang_on_token) and self._may_fire():
            while True:
                time.sleep(3600)
        lost = _slots_with(chunks, triggers.fail_step_on_token)
        if not lost or (self._num_failed_steps and not triggers.fail_step_always):
            return None
        self._num_failed_steps += 1
        return StepFault(f"token {triggers.fail_step_on_token} makes a step fail", lost)

    def save_fails(self, slot: SlotId) -> bool:
        return False

    def restore_fails(self, slot: SlotId) -> bool:
        return False

    def _may_fire(self) -> bool:
        if self._triggers.once_file is None:
            return True
        try:
            Path(self._triggers.once_file).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _slots_with(chunks: Sequence[Chunk], token_id: int | None) -> tuple[SlotId, ...]:
    return tuple(chunk.slot for chunk in chunks if token_id in chunk.token_ids)
