"""Measures a backend with a model: what its steps take, as a `DeviceProfile`.

Theory of operation: steps of many shapes are run on an empty engine, each a few times, and the
scheduler's own cost model is fitted to their medians. So the profile says what the scheduler would
have learned, and a simulation with it takes what the device takes.
"""

from collections.abc import Callable, Sequence
from statistics import median

from edged.backend import Backend
from edged.clock import Clock
from edged.core.cost import StepCostModel, StepShape, step_shape
from edged.core.plan import Chunk, Sampling
from edged.core.types import SamplingParams, SeqId, SlotId
from edged.simulate.profile import DeviceProfile

PROMPT_TOKENS = (16, 64, 256, 512)
STARTS = (0, 512)
"""Cells in front of a measured prompt."""
BATCHES = (1, 2, 4, 8, 16, 32)
DECODE_CELLS = (32, 256)
ROUNDS = 3
FIT_PASSES = 40
"""Times that the cost model sees every measurement; it forgets, so it has to see them in turn."""
SWAP_TOKENS = 512
_GREEDY = SamplingParams(temperature=0.0)


def fit_profile(
    backend: Backend,
    clock: Clock,
    *,
    name: str,
    max_step_tokens: int,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[DeviceProfile, float]:
    """The profile, and the median of |predicted − measured| / measured over the measured shapes.
    `told` is called with what is measured next.

    Raises:
        BackendStepError, KvTransferError: the backend cannot compute what was asked of it.
    """
    geometry = backend.info.kv
    most = min(max_step_tokens, geometry.max_cells_per_slot)
    probe = _Probe(backend, clock, most)
    measured = [*_prompts(probe, most, told), *_batches(probe, told)]
    cost = StepCostModel()
    for _ in range(FIT_PASSES):
        for shape, seconds in measured:
            cost.observe(shape, seconds)
    errors = [abs(cost.predict_s(shape) - seconds) / seconds for shape, seconds in measured]
    profile = DeviceProfile(
        name=name,
        step_s=cost.base_s,
        prefill_token_s=cost.prefill_token_s,
        decode_token_s=cost.decode_s,
        cell_s=cost.cell_s,
        prefill_cell_s=cost.prefill_cell_s,
        swap_byte_s=probe.swap_byte_s(min(SWAP_TOKENS, most)) if backend.info.can_swap else 0.0,
        bytes_per_cell=max(1, geometry.snapshot_bytes_per_cell),
        num_slots=geometry.num_slots,
        num_cells=geometry.num_cells,
        max_step_tokens=max_step_tokens,
        can_interrupt=backend.info.can_interrupt,
    )
    return profile, median(errors)


Measured = tuple[StepShape, float]


def _prompts(probe: "_Probe", most: int, told: Callable[[str], None]) -> list[Measured]:
    """Chunks of prompts, alone in their step."""
    found: list[Measured] = []
    for start in STARTS:
        for num_tokens in PROMPT_TOKENS:
            if num_tokens > most or start + num_tokens > probe.max_cells:
                continue
            told(f"{num_tokens} tokens of a prompt after {start}")
            rounds: list[Measured] = []
            for _ in range(ROUNDS):
                probe.clear()
                if start:
                    probe.fill(0, start)
                rounds.append(probe.step([(0, num_tokens)]))
            found.append(_middle(rounds))
    probe.clear()
    return found


def _batches(probe: "_Probe", told: Callable[[str], None]) -> list[Measured]:
    """Decodes together, of short and of longer sequences."""
    found: list[Measured] = []
    for num_cells in DECODE_CELLS:
        probe.clear()
        num_filled = 0
        for num_decodes in BATCHES:
            if (
                num_decodes > probe.num_slots
                or num_decodes * (num_cells + len(BATCHES) * ROUNDS) > probe.num_cells
            ):
                continue
            told(f"{num_decodes} answers of {num_cells} tokens at once")
            for slot in range(num_filled, num_decodes):
                probe.fill(slot, num_cells)
            num_filled = num_decodes
            steps = [(slot, 1) for slot in range(num_decodes)]
            found.append(_middle([probe.step(steps) for _ in range(ROUNDS)]))
    probe.clear()
    return found


def _middle(rounds: Sequence[Measured]) -> Measured:
    return sorted(rounds, key=lambda one: one[1])[len(rounds) // 2]


class _Probe:
    """An engine without a scheduler: slots that are filled and decoded by hand."""

    def __init__(self, backend: Backend, clock: Clock, max_step_tokens: int) -> None:
        self._backend = backend
        self._max_step_tokens = max_step_tokens
        self._clock = clock
        self._vocab_size = backend.info.vocab_size
        geometry = backend.info.kv
        self.num_slots = geometry.num_slots
        self.num_cells = geometry.num_cells
        self.max_cells = geometry.max_cells_per_slot
        self._known: dict[int, list[int]] = {}

    def clear(self) -> None:
        for slot in self._known:
            self._backend.clear(SlotId(slot))
        self._known.clear()

    def fill(self, slot: int, num_tokens: int) -> None:
        """Compute so many tokens more, in chunks that a step may have."""
        while num_tokens > 0:
            chunk = min(num_tokens, PROMPT_TOKENS[-1], self._max_step_tokens)
            self.step([(slot, chunk)])
            num_tokens -= chunk

    def step(self, wanted: Sequence[tuple[int, int]]) -> Measured:
        """One step: so many tokens for each slot; single ones are drawn after, as in service."""
        chunks = tuple(self._chunk(slot, num_tokens) for slot, num_tokens in wanted)
        begun_s = self._clock.now_s()
        self._backend.step(chunks)
        return step_shape(chunks), self._clock.now_s() - begun_s

    def swap_byte_s(self, num_tokens: int) -> float:
        """Seconds for each byte, one way."""
        rounds: list[float] = []
        for _ in range(ROUNDS):
            self.clear()
            self.fill(0, num_tokens)
            begun_s = self._clock.now_s()
            snapshot = self._backend.save_kv(SlotId(0))
            self._backend.clear(SlotId(0))
            self._backend.restore_kv(SlotId(0), snapshot)
            rounds.append((self._clock.now_s() - begun_s) / (2 * snapshot.num_bytes))
        self.clear()
        return median(rounds)

    def _chunk(self, slot: int, num_tokens: int) -> Chunk:
        known = self._known.setdefault(slot, [])
        start = len(known)
        known.extend((17 * (start + i) + slot) % self._vocab_size for i in range(num_tokens))
        sampling = Sampling(_GREEDY, known, 0) if num_tokens == 1 else None
        return Chunk(SeqId(slot), SlotId(slot), start, tuple(known[start:]), sampling)
