"""Draws up one step: who holds a slot, who yields, and how many tokens each one computes.

Theory of operation. Planning reads the scheduler's state and changes none of it: `draft_plan`,
asked twice, answers the same. It works in two passes over one order (`urgency`): *placement*
(`edged.core.placement`), then *allocation* (`edged.core.allocation`); what KV has to move for it is
settled last (`edged.core.moving`). Most steps of an engine are nothing but the next tokens of
equals, and there is nothing to decide in them.

The ladder of preemption, cheapest first: leave out of the step, shrink the chunk, park, swap,
recompute.
"""

from edged.core.allocation import Allocation
from edged.core.moving import settle
from edged.core.placement import Placement, PlannerView
from edged.core.plan import YIELDS_TO_NOBODY, Chunk, StepPlan
from edged.core.types import SeqId, SloTier


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
    if not (chunks or view.pending):
        num_waiting = len(view.running) + len(view.queue)
        assert num_waiting == 0, f"I7: {num_waiting} sequences wait and none is planned"
        return None
    moves = settle(view, placement, chunks, now_s)
    pending = view.pending
    return StepPlan(
        step=step,
        clear=tuple(pending.clear),
        discard=(*pending.discard, *moves.discard),
        evict=moves.evict,
        restore=moves.restore,
        chunks=tuple(chunks),
        yields_to=allocation.yields_to(),
        drop=moves.drop,
        shorten=moves.shorten,
        share=moves.share,
        save=(*pending.save, *moves.save),
        write=tuple(pending.write),
        unlink=tuple(pending.unlink),
        read=tuple(placement.reading),
    )


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
    yields_to = YIELDS_TO_NOBODY if owed else view.policy.yields_to(view.running[0], 0.0)
    if not view.pending:
        return StepPlan(step, (), (), (), (), tuple(chunks), yields_to)
    pending = view.pending
    return StepPlan(
        *(step, tuple(pending.clear), tuple(pending.discard), (), (), tuple(chunks), yields_to),
        save=tuple(pending.save),
        write=tuple(pending.write),
        unlink=tuple(pending.unlink),
    )
