"""Earliest deadline first, among those that can still meet theirs.

A request that has not got its first token by the latest moment at which it could be computed alone
is relegated: it yields to all that can be served in time, and is served from what they leave.
"""

from edged.core.policies.edf import Edf
from edged.core.policy import Place
from edged.core.sequence import Sequence
from edged.core.types import Rank


class EdfRelegate(Edf):
    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        return urgent.rank.band < victim.rank.band

    def place(self, seq: Sequence, now_s: float) -> Place:
        rank, _ = super().place(seq, now_s)
        if seq.first_token_s is not None:
            return Place(seq.rank)
        latest_s = (
            rank.order - self._cost.base_s - self._cost.prefill_cost_s(0, seq.num_missing_tokens)
        )
        if now_s >= latest_s:
            return Place(Rank(1, 0, seq.request.arrival_s))
        return Place(rank, latest_s)
