"""Writes the one line that each request leaves in the log when it ends, wherever it ended."""

from dataclasses import replace

from edged.core.types import FinishEvent, FinishReason, RequestTimings
from edged.errors import EdgedError, Reason
from edged.log import Logger, log_finished
from edged.supervise.replay import Replay

_FINISH_REASONS = {
    Reason.CANCELLED: FinishReason.CANCELLED,
    Reason.SLOW_READER: FinishReason.CANCELLED,
    Reason.DEADLINE_EXCEEDED: FinishReason.DEADLINE,
    Reason.QUEUE_TIMEOUT: FinishReason.QUEUE_TIMEOUT,
}
"""Of the requests that end without an engine; every other reason is an ERROR."""


def write_end(
    logger: Logger,
    model: str,
    replay: Replay,
    *,
    event: FinishEvent | None,
    error: EdgedError | None,
    now_s: float,
) -> None:
    """`event` is the engine's word on it, `error` what its stream ended with; one is there."""
    if event is None:
        event = _without_engine(replay, error, now_s)
    elif error is not None:
        event = replace(event, detail=error.detail)
    submission = replay.submission
    log_finished(
        logger,
        model=model,
        tier=submission.service.tier,
        client=submission.client_id,
        event=event,
    )


def _without_engine(replay: Replay, error: EdgedError | None, now_s: float) -> FinishEvent:
    past, arrival_s = replay.past, replay.submission.arrival_s
    reason = FinishReason.ERROR if error is None else _FINISH_REASONS.get(error.reason)
    return FinishEvent(
        request_id=replay.request_id,
        reason=reason or FinishReason.ERROR,
        num_prompt_tokens=replay.num_prompt_tokens,
        num_generated_tokens=replay.num_generated_tokens,
        timings=RequestTimings(
            queue_s=_since(arrival_s, past.first_scheduled_s),
            ttft_s=_since(arrival_s, past.first_token_s),
            tpot_s=None,
            total_s=now_s - arrival_s,
            num_preemptions=past.num_preemptions,
            num_engine_losses=past.num_engine_losses,
            met_ttft=None,
            met_tpot=None,
        ),
        detail="" if error is None else error.detail,
    )


def _since(arrival_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else at_s - arrival_s
