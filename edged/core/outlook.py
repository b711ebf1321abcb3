"""What is expected of a sequence: when it is due, how long it computes, what it will hold."""

from math import inf

from edged.core.capacity import CAUTION, HEADROOM_TOKENS, Holder
from edged.core.cost import StepCostModel
from edged.core.lengths import ExpectedLengths
from edged.core.pace import Pace
from edged.core.sequence import Sequence
from edged.core.timeline import Entry


class Outlook:
    """Mutable; owned by a policy."""

    def __init__(self, cost: StepCostModel) -> None:
        self.cost = cost
        self.lengths = ExpectedLengths()
        self.pace = Pace(cost)

    def prefill_s(self, seq: Sequence) -> float:
        """Seconds that what is left of its prefill takes, alone on the engine."""
        return self.cost.prefill_cost_s(seq.num_computed_tokens, seq.num_missing_tokens)

    def work_s(self, seq: Sequence) -> float:
        """Seconds of work to its first token, or from there to its last."""
        if seq.first_token_s is None:
            return self.prefill_s(seq)
        return self.lengths.left(seq) * self.cost.decode_cost_s(len(seq.token_ids))

    def whole_s(self, seq: Sequence) -> float:
        """Seconds of work to its last token."""
        return self.prefill_s(seq) + self.lengths.left(seq) * self.cost.decode_cost_s(
            len(seq.token_ids)
        )

    def answer_s(self, seq: Sequence, now_s: float) -> float:
        """Seconds until its last token, from the next one on."""
        return self.lengths.left(seq) * self.pace.step_s(now_s)

    def due_s(self, seq: Sequence, now_s: float) -> float | None:
        """When its first token is due: as its TTFT target says, or as long before the end as its
        answer will take; None if never."""
        due_s = self._due_s(seq, self.pace.step_s(now_s))
        return None if due_s == inf else due_s

    def is_late_alone(self, seq: Sequence, now_s: float) -> bool:
        """Whether an arrival's first token would be late, though it had the engine to itself."""
        cost = self.cost
        least_s = cost.base_s + cost.prefill_cost_s(0, len(seq.token_ids))
        return now_s + least_s > self._due_s(seq, cost.base_s + cost.decode_s)

    def holder(self, seq: Sequence, step_s: float) -> Holder:
        """What a running sequence keeps until it ends, at a token each `step_s`."""
        num_left = self.lengths.left(seq)
        most_left = seq.max_tokens + seq.num_prompt_tokens - len(seq.token_ids)
        num_cells = len(seq.token_ids) + int(num_left) + HEADROOM_TOKENS
        return Holder(CAUTION * most_left * step_s, num_left * step_s, num_cells)

    def claim(self, seq: Sequence, due_s: float, step_s: float) -> Entry:
        """The slot and the cells that it will hold, for an answer that has to go on then, a token
        each `step_s`."""
        num_left = self.lengths.left(seq)
        num_cells = len(seq.token_ids) + int(num_left) + HEADROOM_TOKENS
        return Entry(due_s, seq.seq_id, 0.0, 0.0, seq, num_left * step_s, num_cells)

    def _due_s(self, seq: Sequence, step_s: float) -> float:
        ttft_s, ends_s = seq.request.service.ttft_target_s, seq.ends_due_s
        due_s = inf if ttft_s is None else seq.request.arrival_s + ttft_s
        return due_s if ends_s is None else min(due_s, ends_s - self.lengths.tokens(seq) * step_s)
