"""Earliest deadline first: the moment at which the first target of a request is missed.

Optimal for one server as long as every deadline can be met; in overload it works on what is late
already, and everybody is late.
"""

from edged.core.policies.baseline import Baseline
from edged.core.policy import Place
from edged.core.sequence import Sequence
from edged.core.types import Rank

_BEST_EFFORT_S = 1e9
"""Behind every deadline, in order of arrival."""


class Edf(Baseline):
    def place(self, seq: Sequence, now_s: float) -> Place:
        arrival_s, ttft_s = seq.request.arrival_s, seq.request.service.ttft_target_s
        due_s = arrival_s + (_BEST_EFFORT_S if ttft_s is None else ttft_s)
        return Place(Rank(0, 0, due_s if seq.ends_due_s is None else min(due_s, seq.ends_due_s)))
