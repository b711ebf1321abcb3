"""When the first token of those who wait can be expected, and when they are told.

A request is told when it comes, and while it waits each time when half of what was expected has
passed, and an eighth of what it has waited, so that a wait of an hour makes a few dozen events,
however wrong what was expected is, and a thousand waits no flood.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from math import inf

from edged.core.admission import AdmissionView, next_slot_s, predict_ttft_s
from edged.core.forecast import Assessment
from edged.core.moments import Moments
from edged.core.policy import Policy
from edged.core.sequence import Sequence
from edged.core.types import QueueEvent, SeqId
from edged.core.waits import Waits

LEAST_NOTICE_S = 1.0
"""Shortest time between two notices of a request."""
_WAITED_PART = 1 / 8
"""The same, as a part of the time that it has waited."""
MOST_NOTICES = 16
"""In one step; the others come with the next ones, so that nobody's tokens wait for them."""
_OWN_PREFILL_MARGIN = 1.5
"""By how much a request's own prefill may be longer for what shares its steps."""


class Expectations:
    """Mutable; owned by the scheduler."""

    def __init__(self, view: AdmissionView, policy: Policy, live: Mapping[SeqId, Sequence]) -> None:
        self._view = view
        self._policy = policy
        self._live = live
        self._notices = Moments(live)
        self._waits = Waits(view.queue, live)

    def arrived(self, seq: Sequence, assessment: Assessment | None, now_s: float) -> float:
        """Seconds until the first token of one that was just queued."""
        self._waits.arrived(seq)
        eta_s, _ = self._expect(seq, now_s)
        if assessment is not None and assessment.promised:
            eta_s = assessment.predicted_s + self._view.cost.base_s
        self._remember(seq, eta_s, now_s)
        return eta_s

    def started(self, seq: Sequence, now_s: float) -> None:
        """It got its slot, for the first time."""
        seq.eta_s = None
        self._waits.started(seq, now_s)

    def notices(self, now_s: float) -> Iterator[QueueEvent]:
        """What is to be told now."""
        self._waits.learn(now_s)
        for seq_id in islice(self._notices.due(now_s), MOST_NOTICES):
            seq = self._live[seq_id]
            if seq.first_scheduled_s is None and seq in self._view.queue:
                eta_s, bound_s = self._expect(seq, now_s)
                self._remember(seq, eta_s, now_s)
                position = self._view.queue.position(seq)
                yield QueueEvent(seq.request.request_id, position, eta_s, bound_s)

    def _remember(self, seq: Sequence, eta_s: float, now_s: float) -> None:
        seq.eta_s = now_s + eta_s
        waited_s = _WAITED_PART * (now_s - seq.request.arrival_s)
        self._notices.add(now_s + max(LEAST_NOTICE_S, eta_s / 2, waited_s), seq.seq_id)

    def _expect(self, seq: Sequence, now_s: float) -> tuple[float, float]:
        """Seconds until its first token, as expected and at most: until what was promised, or its
        turn at the latest, or as others waited of late."""
        view = self._view
        next_s = next_slot_s(view)
        prefill_s = view.cost.recompute_s(seq.num_missing_tokens, view.max_step_tokens)
        most_s = _OWN_PREFILL_MARGIN * prefill_s
        wait = self._waits.expect(seq, next_s, now_s)
        eta_s = predict_ttft_s(seq, view) if wait is None else wait.expected_s + prefill_s
        if now_s < seq.promised_until_s < inf:
            return eta_s, seq.promised_until_s - now_s
        turn_s = self._policy.turn_s(seq, now_s)
        bound_s = inf if turn_s is None else max(0.0, turn_s - now_s) + next_s + most_s
        if wait is not None and self._policy.is_in_line(seq) and wait.bound_s + most_s < bound_s:
            self._waits.told(seq, wait, now_s)
            bound_s = wait.bound_s + most_s
        return eta_s, bound_s
