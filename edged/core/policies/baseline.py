"""What the baselines have in common: nobody is preempted for another's sake, and chunks are full.

They are to be compared with: they order prefills, and share a step as far as answers with a TPOT
target allow.
"""

from collections.abc import Mapping

from edged.core.cost import StepCostModel
from edged.core.plan import YIELDS_TO_NOBODY
from edged.core.policy import PrefillBounds, SchedulerConfig, Tolerance, WithoutBooks
from edged.core.sequence import Sequence
from edged.core.types import SloTier


class Baseline(WithoutBooks):
    honours_shares = False

    def __init__(self, config: SchedulerConfig, cost: StepCostModel) -> None:
        self._cost = cost

    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        return False

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        return PrefillBounds()

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        tpot_s = seq.tpot_target_s
        if tpot_s is None or not seq.is_decoding:
            return Tolerance()
        return Tolerance(tpot_s, tpot_s)

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        return YIELDS_TO_NOBODY
