"""What holds between steps (I1, I2, I7, I8); for tests and simulations."""

from collections.abc import Collection

from edged.core.placement import PlannerView
from edged.core.planner import decide, is_steady, plan_next_tokens
from edged.core.sequence import Sequence, SequenceState
from edged.core.types import SloTier


def check_between_steps(
    view: PlannerView, sequences: Collection[Sequence], owed: frozenset[SloTier], step: int
) -> None:
    """Assert it of all live sequences."""
    kv = view.kv
    kv.check()
    view.holdings.check(view.running)
    view.prefixes.check()
    for seq in view.running:
        assert seq.state is SequenceState.RUNNING, f"{seq.seq_id} is {seq.state} in the running"
        assert seq.slot is not None, f"I1: {seq.seq_id} runs without a slot"
        held = kv.cells[seq.slot]
        assert seq.num_computed_tokens <= held, f"I2: {seq.seq_id} outgrew its {held} cells"
    for seq in sequences:
        is_preempted = seq.state is SequenceState.PREEMPTED
        assert is_preempted or seq.claim is None or not seq.has_kv, f"{seq.seq_id} owns KV"
    assert kv.num_used_slots == len(view.running), "I1: a slot is held by nobody"
    if is_steady(view, owed):
        quick = plan_next_tokens(view, owed, step)
        thorough = decide(view, owed, step, 0.0)
        assert thorough is not None, "I7: decodes, and no plan"
        assert quick == thorough, "the quick plan is another one"
