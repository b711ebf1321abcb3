"""First come, first served, as other local servers do it: the baseline.

Tiers mean nothing, nobody is preempted for another's sake, and a prefill takes all the tokens a
step may have. Only when the cells run out does the latest arrival yield.
"""

from collections.abc import Mapping

from edged.core.plan import YIELDS_TO_NOBODY
from edged.core.policy import PrefillBounds, SchedulerConfig, Tolerance
from edged.core.sequence import Sequence
from edged.core.types import Rank, SloTier


class Fcfs:
    honours_shares = False

    def __init__(self, config: SchedulerConfig) -> None:
        pass

    def rank(self, seq: Sequence) -> Rank:
        return Rank(0, seq.request.arrival_s)

    def may_preempt(self, urgent: Sequence, victim: Sequence) -> bool:
        return False

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        return PrefillBounds()

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        return Tolerance()

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        return YIELDS_TO_NOBODY
