"""Draws up one step: who holds a slot, who yields, and how many tokens each one computes.

Theory of operation. Planning reads the scheduler's state and changes none of it: `draft_plan`,
asked twice, answers the same. It works in two passes over one order (`urgency`): *placement*
(`edged.core.placement`), then *allocation* (`edged.core.allocation`). Most steps of an engine are
nothing but the next tokens of equals, and there is nothing to decide in them.

The ladder of preemption, cheapest first: park in place, shrink the chunk, swap, recompute.
"""

from edged.core.allocation import Allocation
from edged.core.placement import Placement, PlannerView
from edged.core.plan import YIELDS_TO_NOBODY, Chunk, Share, StepPlan
from edged.core.types import SeqId, SlotId, SloTier


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
    restored, shared = placement.restored, placement.shared
    if restored or shared:
        computed = {chunk.seq_id for chunk in chunks}
        restored = [one for one in restored if one.seq_id in computed]
        shared = [one for one in shared if one.seq_id in computed]
    return StepPlan(
        step=step,
        clear=tuple(view.to_clear),
        discard=tuple(view.to_discard),
        evict=tuple(placement.evicted),
        restore=tuple(restored),
        chunks=tuple(chunks),
        yields_to=allocation.yields_to(),
        drop=_to_drop(view, placement, shared, chunks, now_s),
        share=tuple(shared),
    )


def _to_drop(
    view: PlannerView,
    placement: Placement,
    shared: list[Share],
    chunks: list[Chunk],
    now_s: float,
) -> tuple[SlotId, ...]:
    """Cached slots to give up, so that the step's cells are empty when they are reserved."""
    kv = view.kv
    if not kv.cached:
        return ()
    slots = {chunk.slot for chunk in chunks}
    needed = -sum(share.num_tokens for share in shared)
    for seq in placement.running:
        slot = placement.slots.get(seq.seq_id, seq.slot)
        if slot in slots:
            held = 0 if seq.slot is None else kv.cells[seq.slot]
            needed += max(0, len(seq.token_ids) - held)
    empty = kv.empty_cells + sum(kv.held_alone(one.slot) for one in placement.evicted)
    kept: dict[SlotId, int] = {}
    for share in shared:
        kept[share.source] = max(share.num_tokens, kept.get(share.source, 0))
    dropped: list[SlotId] = []
    for slot in view.prefixes.by_value(now_s) if needed > empty else ():
        dropped.append(slot)
        empty += max(0, kv.freed_by(slot) - kept.get(slot, 0))
        if needed <= empty:
            break
    return tuple(dropped)


def _place_and_allocate(
    view: PlannerView, owed: frozenset[SloTier], now_s: float
) -> tuple[Placement, Allocation]:
    """Nobody is evicted for a sequence that then gets no token because others fill the step: it
    goes on waiting, with all behind it."""
    waits: SeqId | None = None
    while True:
        placement = Placement(view, owed, now_s)
        placement.make_room_to_grow()
        placement.place_waiting(waits)
        allocation = Allocation(view, owed, placement, now_s)
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
        or len(running) > min(view.kv.empty_cells, view.max_step_tokens)
    ):
        return False
    band, row, _ = running[0].rank
    for seq in running:
        if len(seq.token_ids) - seq.num_computed_tokens != 1 or seq.rank[:2] != (band, row):
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
