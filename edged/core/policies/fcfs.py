"""First come, first served, as other local servers do it: the baseline.

Tiers mean nothing, nobody is preempted for another's sake, and a prefill takes all the tokens a
step may have. Only when the cells run out does the latest arrival yield.
"""

from edged.core.policies.baseline import Baseline
from edged.core.policy import Place, Tolerance
from edged.core.sequence import Sequence
from edged.core.types import Rank


class Fcfs(Baseline):
    def place(self, seq: Sequence, now_s: float) -> Place:
        return Place(Rank(0, 0, seq.request.arrival_s))

    def is_in_line(self, seq: Sequence) -> bool:
        return True

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        return Tolerance()
