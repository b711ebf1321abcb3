"""Deadlines and lengths together: the earlier the deadline and the shorter the prompt, the sooner.

The order is deadline + α · tokens of the prompt, so that under load short prompts pass
long ones; what cannot meet its deadline any more is relegated (after Niyama, arXiv 2503.22562).
"""

from edged.core.policies.edf_relegate import EdfRelegate
from edged.core.policy import Place
from edged.core.sequence import Sequence
from edged.core.types import Rank

_ALPHA_S = 0.008
"""Seconds of deadline that a prompt token is worth."""


class Hybrid(EdfRelegate):
    def place(self, seq: Sequence, now_s: float) -> Place:
        (band, row, order), until_s = super().place(seq, now_s)
        if band > 0 or seq.first_token_s is not None:
            return Place(Rank(band, row, order), until_s)
        return Place(Rank(band, row, order + _ALPHA_S * seq.num_prompt_tokens), until_s)
