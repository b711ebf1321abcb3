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
        service = seq.request.service
        targets_s = (service.ttft_target_s, service.ttlt_target_s)
        first_s = min((one for one in targets_s if one is not None), default=_BEST_EFFORT_S)
        return Place(Rank(0, 0, seq.request.arrival_s + first_s))
