"""Shortest remaining prefill first: the least work until a first token.

Serves the most first tokens in a time; long prompts wait for ever when short ones do not end.
"""

from edged.core.policies.baseline import Baseline
from edged.core.policy import Place
from edged.core.sequence import Sequence
from edged.core.types import Rank


class Srpf(Baseline):
    ranks_progress = True

    def place(self, seq: Sequence, now_s: float) -> Place:
        return Place(Rank(0, 0, float(seq.num_missing_tokens)))
