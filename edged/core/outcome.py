"""What became of a request's targets, and why one was missed."""

from edged.core.sequence import Sequence
from edged.core.types import FinishReason, MissCause, Outcome, RequestTimings

_ENDED_BY_ITSELF = frozenset({FinishReason.STOP, FinishReason.LENGTH})
_ENDED_LATE = frozenset({FinishReason.DEADLINE, FinishReason.QUEUE_TIMEOUT})


def outcome(seq: Sequence, reason: FinishReason, timings: RequestTimings) -> Outcome | None:
    """None for a request without targets, and for one that was cancelled or failed."""
    if not seq.request.has_targets:
        return None
    if reason not in _ENDED_BY_ITSELF and reason not in _ENDED_LATE:
        return None
    met = (timings.met_ttft, timings.met_tpot, timings.met_ttlt)
    deadline_s = seq.request.deadline_s
    in_time = deadline_s is None or seq.request.arrival_s + timings.total_s <= deadline_s
    held = reason in _ENDED_BY_ITSELF and in_time and False not in met
    return Outcome(seq.promised, held, None if held else _miss_cause(seq, timings))


def _miss_cause(seq: Sequence, timings: RequestTimings) -> MissCause:
    if timings.num_engine_losses > 0:
        return MissCause.ENGINE_LOST
    if not seq.is_attainable:
        return MissCause.TARGETS
    if timings.met_ttft is not False and _outgrew(seq):
        return MissCause.ANSWER_LENGTH
    if seq.promised:
        return MissCause.ESTIMATE
    return MissCause.RELEGATED if seq.was_relegated and seq.fitted else MissCause.OVERLOAD


def _outgrew(seq: Sequence) -> bool:
    """Whether the answer got longer than was expected when it was to end in time."""
    expected = seq.expected_tokens
    return expected is not None and seq.num_generated_tokens > expected
