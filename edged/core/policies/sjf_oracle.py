"""Shortest job first, by what the request says of its answer's length: only a simulation knows it.

What could be gained by knowing lengths, without any thought for deadlines.
"""

from edged.core.policies.baseline import Baseline
from edged.core.policy import Place
from edged.core.sequence import Sequence
from edged.core.types import Rank

_DECODE_WEIGHT = 2.0
"""Prompt tokens that cost as much as a token of an answer in a full batch."""


class SjfOracle(Baseline):
    def place(self, seq: Sequence, now_s: float) -> Place:
        expected = seq.request.expected_tokens
        num_tokens = seq.max_tokens if expected is None else expected
        return Place(Rank(0, 0, seq.num_prompt_tokens + _DECODE_WEIGHT * num_tokens))
