"""With which error a request ends that does not end by itself; one sentence for each."""

from collections.abc import Mapping

from edged.core.types import FinishEvent, FinishReason, RequestId
from edged.engine.wire import Refusal
from edged.errors import EdgedError, FieldViolation, Reason
from edged.supervise.exits import Loss
from edged.supervise.replay import Replay

_REASONS: Mapping[FinishReason, Reason] = {
    FinishReason.CANCELLED: Reason.CANCELLED,
    FinishReason.DEADLINE: Reason.DEADLINE_EXCEEDED,
    FinishReason.QUEUE_TIMEOUT: Reason.QUEUE_TIMEOUT,
    FinishReason.ERROR: Reason.INTERNAL,
}


def finished(event: FinishEvent) -> EdgedError:
    """For a finish that is neither STOP nor LENGTH."""
    return EdgedError(_REASONS[event.reason], event.detail or f"the request ended: {event.reason}")


def refused(refusal: Refusal) -> EdgedError:
    violations = () if refusal.field is None else (FieldViolation(refusal.field, refusal.detail),)
    return EdgedError(
        refusal.reason, refusal.detail, retry_after_s=refusal.retry_after_s, violations=violations
    )


def expired(replay: Replay, now_s: float) -> EdgedError:
    """For a request that the daemon held for too long."""
    submission = replay.submission
    if submission.deadline_s is not None and submission.deadline_s <= now_s:
        allowed_s = submission.deadline_s - submission.arrival_s
        detail = (
            f"the deadline of {allowed_s:.3g} s passed after {replay.num_generated_tokens} tokens, "
            "while no engine was ready"
        )
        return EdgedError(Reason.DEADLINE_EXCEEDED, detail)
    waited_s = now_s - submission.arrival_s
    tier = submission.service.tier
    detail = f"waited {waited_s:.3g} s for an engine, longer than the {tier} tier allows"
    return EdgedError(Reason.QUEUE_TIMEOUT, detail)


def poisoned(request_id: RequestId, loss: Loss) -> EdgedError:
    detail = f"request {request_id} took the engine down twice; the second time it {loss.cause}"
    return EdgedError(Reason.POISONED_REQUEST, detail)
