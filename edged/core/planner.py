"""Draws up one step: who holds a slot, who yields, and how many tokens each one computes.

Theory of operation. Planning reads the scheduler's state and changes none of it: `draft_plan`,
asked twice, answers the same. It works in two passes over one order (`urgency`).

*Placement.* Running sequences must be able to grow by the tokens they know; while the free cells do
not suffice, the least urgent yields. Then the queue is walked from its head: each sequence takes a
free slot and its cells, or those of victims the policy allows, from the tail; the first one that
cannot be placed ends the walk, so nobody is overtaken while it waits. For the first of a tier that
is owed time see `_Placement.place_waiting`.

*Allocation.* Within a band decodes come first, then prefills. Each sequence that gets in lowers the
step time that those behind it may use (`Policy.tolerance`), so a prefill shrinks to what the
decodes in front of it leave, and less urgent work is parked in place when nothing is left. The
first sequence always gets in, and so does some of the first prefill of the most urgent band, so a
step always makes progress (I7) and no prompt waits for all answers.

The ladder of preemption, cheapest first: park in place, shrink the chunk, swap, recompute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from edged.core.cost import StepCostModel
from edged.core.kv import KvBudget
from edged.core.plan import YIELDS_TO_NOBODY, Chunk, Evict, Restore, StepPlan
from edged.core.policy import Policy
from edged.core.queue import WaitingQueue
from edged.core.sequence import Key, Sequence, by_rank
from edged.core.types import PreemptMode, SeqId, SlotId, SloTier

MAX_KEPT_S = 2.0
"""Longest foreseeable wait for which room is kept for a tier that is owed time."""
_OWED = 1000
"""Bands that being owed time gets a sequence ahead."""
HEADROOM_TOKENS = 16
"""Cells left free for each running sequence when another one is started, so that starting one does
not at once evict it again."""


@dataclass(frozen=True, slots=True)
class PlannerView:
    """What planning may look at: the scheduler's own objects, as they are between steps."""

    running: list[Sequence]
    """By the policy's rank."""
    queue: WaitingQueue
    kv: KvBudget
    cost: StepCostModel
    policy: Policy
    can_swap: bool
    max_step_tokens: int
    to_clear: list[SlotId]
    to_discard: list[SeqId]


def urgency(seq: Sequence, owed: frozenset[SloTier]) -> Key:
    """The one total order; smaller runs first, larger yields first."""
    band, order, seq_id = by_rank(seq)
    return (band - _OWED, order, seq_id) if seq.tier in owed else (band, order, seq_id)


def draft_plan(
    view: PlannerView, owed: frozenset[SloTier], step: int, now_s: float
) -> StepPlan | None:
    """The next step, or None if nothing is runnable and nothing is to be freed (I7)."""
    if is_steady(view, owed):
        return plan_next_tokens(view, owed, step)
    return decide(view, owed, step, now_s)


def decide(view: PlannerView, owed: frozenset[SloTier], step: int, now_s: float) -> StepPlan | None:
    """The general way: placement, then allocation."""
    placement, allocation = _place_and_allocate(view, owed, now_s)
    chunks = allocation.chunks
    if not (chunks or view.to_clear or view.to_discard):
        num_waiting = len(view.running) + len(view.queue)
        assert num_waiting == 0, f"I7: {num_waiting} sequences wait and none is planned"
        return None
    restored = placement.restored
    if restored:
        computed = {chunk.seq_id for chunk in chunks}
        restored = [one for one in restored if one.seq_id in computed]
    return StepPlan(
        step=step,
        clear=tuple(view.to_clear),
        discard=tuple(view.to_discard),
        evict=tuple(placement.evicted),
        restore=tuple(restored),
        chunks=tuple(chunks),
        yields_to=allocation.yields_to(),
    )


def _place_and_allocate(
    view: PlannerView, owed: frozenset[SloTier], now_s: float
) -> tuple["_Placement", "_Allocation"]:
    """Nobody is evicted for a sequence that then gets no token because others fill the step: it
    goes on waiting, with all behind it."""
    waits: SeqId | None = None
    while True:
        placement = _Placement(view, owed, now_s)
        placement.make_room_to_grow()
        placement.place_waiting(waits)
        allocation = _Allocation(view, owed, placement, now_s)
        allocation.run()
        computed = {chunk.seq_id for chunk in allocation.chunks} if placement.preemptors else set()
        waits = next((one for one in placement.preemptors if one not in computed), None)
        if waits is None:
            return placement, allocation


def is_steady(view: PlannerView, owed: frozenset[SloTier]) -> bool:
    """Whether nobody waits and equals decode with room for one more cell each: most steps of an
    engine are such, and there is nothing to decide in them."""
    running = view.running
    if (
        not running
        or len(view.queue)
        or len(running) > min(view.kv.free_cells, view.max_step_tokens)
    ):
        return False
    band = running[0].rank.band
    for seq in running:
        if len(seq.token_ids) - seq.num_computed_tokens != 1 or seq.rank.band != band:
            return False
    return not owed or all(seq.tier is running[0].tier for seq in running)


def plan_next_tokens(view: PlannerView, owed: frozenset[SloTier], step: int) -> StepPlan:
    """What `decide` would come to for steady decodes, in a fraction of its time."""
    chunks = []
    for seq in view.running:
        assert seq.slot is not None, f"I1: {seq.seq_id} runs without a slot"
        start = seq.num_computed_tokens
        chunks.append(Chunk(seq.seq_id, seq.slot, start, (seq.token_ids[start],), seq.sampling))
    clear, discard = tuple(view.to_clear), tuple(view.to_discard)
    yields_to = YIELDS_TO_NOBODY if owed else view.policy.yields_to(view.running[0], 0.0)
    return StepPlan(step, clear, discard, (), (), tuple(chunks), yields_to)


class _Placement:
    """Slots and cells as they will be once the plan's evictions are done; scratch of one plan."""

    def __init__(self, view: PlannerView, owed: frozenset[SloTier], now_s: float) -> None:
        self._view = view
        self._owed = owed
        self._now_s = now_s
        self._free_slots = view.kv.free_slots
        self.free_cells = view.kv.free_cells
        self._free_snapshot_bytes = view.kv.free_snapshot_bytes
        self.running = list(view.running)
        if owed:
            self._sort()
        cells = view.kv.cells
        self.growth = {
            seq.seq_id: len(seq.token_ids) - cells[seq.slot]
            for seq in self.running
            if seq.slot is not None
        }
        """Cells that each running sequence lacks for the tokens it knows."""
        self.slots: dict[SeqId, SlotId] = {}
        """Slots given to sequences that held none."""
        self.preemptors: list[SeqId] = []
        """Sequences of the queue for which somebody yielded, in order."""
        self.evicted: list[Evict] = []
        self.restored: list[Restore] = []

    def make_room_to_grow(self) -> None:
        """Evict the least urgent until every running sequence can hold the tokens it knows. Being
        owed time changes nothing here: it would take cells from the more urgent."""
        while len(self.running) > 1 and sum(self.growth.values()) > self.free_cells:
            victim = max(self.running, key=by_rank)
            self._evict(victim, cause=min(self.running, key=by_rank))

    def place_waiting(self, until: SeqId | None) -> None:
        """Give slots and cells to those that wait, from the head of the queue up to `until`.

        The first of a tier that is owed time comes before the more urgent. It evicts nobody, but
        what becomes free is kept for it: those behind it may only trade places with victims of
        their own. If its room cannot be foreseen, because answers without a near limit hold it, it
        lets the more urgent pass: they are not to wait for the end of a long answer.
        """
        if not len(self._view.queue):
            return
        is_room_kept = False
        blocked: set[SloTier] = set()
        for seq in self._view.queue.in_order(self._owed):
            if seq.tier in blocked or seq.seq_id == until:
                return
            victims = self._victims_for(seq)
            if victims is None and seq.tier in self._owed:
                blocked.add(seq.tier)
                is_room_kept = is_room_kept or self._has_room_soon(seq)
                continue
            if victims is None or (is_room_kept and not victims):
                return
            for victim in victims:
                self._evict(victim, cause=seq)
            if victims:
                self.preemptors.append(seq.seq_id)
            self._place(seq)

    def _sort(self) -> None:
        self.running.sort(key=lambda seq: urgency(seq, self._owed))

    def _victims_for(self, seq: Sequence) -> list[Sequence] | None:
        """Who must yield for `seq` to be placed: nobody, some from the tail, or None if even all
        who may be asked would not do."""
        missing_slots = 0 if self._free_slots else 1
        needed = len(seq.token_ids)
        if self.running:
            needed += sum(self.growth.values()) + HEADROOM_TOKENS * len(self.running)
        missing_cells = needed - self.free_cells
        if missing_slots <= 0 and missing_cells <= 0:
            return []
        victims: list[Sequence] = []
        for victim in reversed(self.running):
            if victim.seq_id in self.slots or urgency(seq, self._owed) >= urgency(
                victim, self._owed
            ):
                break
            if not self._view.policy.may_preempt(seq, victim, self._now_s):
                continue
            victims.append(victim)
            missing_slots -= 1
            missing_cells -= self._cells_given_back(victim)
            if missing_slots <= 0 and missing_cells <= 0:
                return victims
        return None

    def _has_room_soon(self, seq: Sequence) -> bool:
        """Whether running answers that end at their limits make room for `seq` in `MAX_KEPT_S`."""
        cost = self._view.cost
        held = [other for other in self.running if other.seq_id not in self.slots]
        step_s = cost.base_s + sum(cost.decode_cost_s(len(other.token_ids)) for other in held)
        missing_slots = 0 if self._free_slots else 1
        missing_cells = len(seq.token_ids) - self.free_cells
        for other in held:
            if (other.max_tokens - other.num_generated_tokens) * step_s <= MAX_KEPT_S:
                missing_slots -= 1
                missing_cells -= self._cells_given_back(other)
        return missing_slots <= 0 and missing_cells <= 0

    def _cells_given_back(self, victim: Sequence) -> int:
        """Its reservation, the growth it no longer needs, and its headroom."""
        assert victim.slot is not None, f"I1: {victim.seq_id} runs without a slot"
        held = self._view.kv.cells[victim.slot]
        return held + self.growth[victim.seq_id] + HEADROOM_TOKENS

    def _place(self, seq: Sequence) -> None:
        slot = self._free_slots.pop()
        self.free_cells -= len(seq.token_ids)
        self.slots[seq.seq_id] = slot
        self.running.append(seq)
        self._sort()
        if seq.snapshot_bytes:
            self.restored.append(Restore(seq.seq_id, slot))

    def _evict(self, victim: Sequence, cause: Sequence) -> None:
        assert victim.slot is not None, f"I1: {victim.seq_id} runs without a slot"
        assert by_rank(cause) < by_rank(victim), (
            f"I5: {cause.seq_id} would evict the more urgent {victim.seq_id}"
        )
        mode = self._mode(victim)
        if mode is PreemptMode.SWAP:
            self._free_snapshot_bytes -= self._snapshot_bytes(victim)
        self.running.remove(victim)
        del self.growth[victim.seq_id]
        self._free_slots.append(victim.slot)
        self.free_cells += self._view.kv.cells[victim.slot]
        self.evicted.append(Evict(victim.seq_id, victim.slot, mode, cause.request.request_id))

    def _mode(self, victim: Sequence) -> PreemptMode:
        """SWAP where it is possible, there is room, and copying twice beats computing again."""
        num_tokens = victim.num_computed_tokens
        num_bytes = self._snapshot_bytes(victim)
        if not self._view.can_swap or num_tokens == 0 or num_bytes > self._free_snapshot_bytes:
            return PreemptMode.RECOMPUTE
        cost = self._view.cost
        recompute_s = cost.recompute_s(num_tokens, self._view.max_step_tokens)
        swap = 2 * cost.transfer_s(num_bytes) < recompute_s
        return PreemptMode.SWAP if swap else PreemptMode.RECOMPUTE

    def _snapshot_bytes(self, seq: Sequence) -> int:
        geometry = self._view.kv.geometry
        num_cells = seq.num_computed_tokens
        return geometry.snapshot_bytes_fixed + num_cells * geometry.snapshot_bytes_per_cell


class _Allocation:
    """The chunks of one step, most urgent first; scratch of one plan."""

    def __init__(
        self, view: PlannerView, owed: frozenset[SloTier], placement: _Placement, now_s: float
    ) -> None:
        self._view = view
        self._owed = owed
        self._placement = placement
        self._now_s = now_s
        self.chunks: list[Chunk] = []
        self._head: Sequence | None = None
        """The most urgent sequence with a chunk."""
        self._head_s: float | None = None
        """Step seconds that its band tolerates for equals; None until others share the step."""
        self._used_s = view.cost.base_s
        self._decode_s = view.cost.decode_s
        self._cell_s = view.cost.cell_s
        self._tokens_left = view.max_step_tokens
        self._cells_left = placement.free_cells
        self._outer_s = inf
        """Step seconds that more urgent bands tolerate."""
        self._inner_s = inf
        """Step seconds that the band's sequences so far tolerate for their equals."""
        self._next_outer_s = inf
        """Step seconds that everybody so far tolerates for less urgent bands."""
        self._others_part = inf
        """What everybody so far tolerates that less urgent bands add, as a part of the step."""
        self._has_prefill = False

    def run(self) -> None:
        """In a band decodes come first, then prefills, each by urgency."""
        owed = self._owed
        bands: dict[int, tuple[list[Sequence], list[Sequence]]] = {}
        for seq in self._placement.running:
            band = 0 if owed and seq.tier in owed else seq.rank.band
            if band not in bands:
                bands[band] = ([], [])
            is_prefill = len(seq.token_ids) - seq.num_computed_tokens > 1
            bands[band][is_prefill].append(seq)
        for place, band in enumerate(sorted(bands)):
            if place == 1:
                self._head_s = self._inner_s
            self._outer_s = min(self._next_outer_s, self._used_s * (1.0 + self._others_part))
            self._inner_s = inf
            decodes, prefills = bands[band]
            # The first one that does not fit ends its row: a smaller one that came later does not
            # get ahead of it, step after step.
            for seq in decodes:
                if not self._add_decode(seq):
                    break
            for seq in prefills:
                if not self._add_prefill(seq, is_head=place == 0 and not self._has_prefill):
                    break

    def yields_to(self) -> Mapping[SloTier, float]:
        """Whose arrival cuts the step short. A tier that is owed time gets it: nobody's does."""
        if self._owed or self._head is None:
            return YIELDS_TO_NOBODY
        spare_s = 0.0 if self._head_s is None else self._head_s - self._used_s
        return self._view.policy.yields_to(self._head, spare_s)

    def _add_decode(self, seq: Sequence) -> bool:
        """A decode is parked only for the sake of a more urgent band: its equals share the step."""
        added_s = self._decode_s + self._cell_s * len(seq.token_ids)
        return self._used_s + added_s <= self._outer_s and self._add(seq, 1, added_s)

    def _add_prefill(self, seq: Sequence, *, is_head: bool) -> bool:
        start, missing = seq.num_computed_tokens, seq.num_missing_tokens
        most = min(missing, self._tokens_left)
        cost = self._view.cost
        bounds = self._view.policy.prefill_bounds(seq)
        limit_s = min(self._outer_s, self._inner_s, bounds.step_s)
        num_tokens = cost.prefill_tokens_within(limit_s - self._used_s, start, most)
        if is_head and num_tokens < most:
            least_s = bounds.least_part * self._used_s
            num_tokens = max(num_tokens, 1, cost.prefill_tokens_within(least_s, start, most))
        if num_tokens == 0:
            return False
        self._has_prefill = True
        return self._add(seq, num_tokens, cost.prefill_cost_s(start, num_tokens))

    def _add(self, seq: Sequence, num_tokens: int, added_s: float) -> bool:
        seq_id, slot = seq.seq_id, seq.slot
        if slot is None:
            # A sequence that is placed in this step gets all its cells with its slot.
            slot, growth = self._placement.slots[seq_id], 0
        else:
            growth = self._placement.growth[seq_id]
        if num_tokens > self._tokens_left or growth > self._cells_left:
            return False
        start, known = seq.num_computed_tokens, seq.token_ids
        end = start + num_tokens
        sampling = seq.sampling if end == len(known) else None
        self.chunks.append(Chunk(seq_id, slot, start, tuple(known[start:end]), sampling))
        self._used_s += added_s
        self._tokens_left -= num_tokens
        self._cells_left -= growth
        self._head = self._head or seq
        tolerance = self._view.policy.tolerance(seq, self._now_s)
        self._inner_s = min(self._inner_s, tolerance.for_equals_s)
        self._next_outer_s = min(self._next_outer_s, tolerance.for_others_s)
        self._others_part = min(self._others_part, tolerance.others_part)
        return True
