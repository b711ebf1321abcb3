"""With which error a request ends that does not end by itself; one sentence for each."""

from edged.core.types import FinishEvent, FinishReason, RequestId
from edged.engine.wire import FAILURE_REASONS, Refusal
from edged.errors import EdgedError, FieldViolation, Reason
from edged.supervise.exits import Loss
from edged.supervise.replay import Replay

QUEUE_RETRY_S = 1.0


def finished(event: FinishEvent) -> EdgedError:
    """For a finish that is neither STOP nor LENGTH."""
    detail = event.detail or f"the request ended: {event.reason}"
    retry_after_s = QUEUE_RETRY_S if event.reason is FinishReason.QUEUE_TIMEOUT else None
    return EdgedError(FAILURE_REASONS[event.reason], detail, retry_after_s=retry_after_s)


def refused(refusal: Refusal) -> EdgedError:
    violations: tuple[FieldViolation, ...] = ()
    if refusal.field is not None:
        description = refusal.detail.removeprefix(f"{refusal.field}: ")
        violations = (FieldViolation(refusal.field, description),)
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
    return EdgedError(Reason.QUEUE_TIMEOUT, detail, retry_after_s=QUEUE_RETRY_S)


def poisoned(request_id: RequestId, loss: Loss) -> EdgedError:
    detail = f"request {request_id} took the engine down twice; the second time it {loss.cause}"
    return EdgedError(Reason.POISONED_REQUEST, detail)
