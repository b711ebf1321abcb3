"""Events of an answer as the client is sent them: `StreamEvent` in, protobuf out."""

import math
from collections.abc import Mapping
from typing import assert_never

from edged.core.types import FinishReason, MissCause, Outcome
from edged.engine.wire import DeltaLogprob, TopLogprob
from edged.supervise.stream import (
    PauseCause,
    StreamAdmitted,
    StreamDelta,
    StreamEvent,
    StreamFinished,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)
from edged.v1 import inference_pb2 as pb

_FINISH_REASONS: Mapping[FinishReason, "pb.FinishReason.ValueType"] = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_CAUSES: Mapping[PauseCause, "pb.PreemptionCause.ValueType"] = {
    PauseCause.PARK: pb.PREEMPTION_CAUSE_PARK,
    PauseCause.SWAP: pb.PREEMPTION_CAUSE_SWAP,
    PauseCause.RECOMPUTE: pb.PREEMPTION_CAUSE_RECOMPUTE,
    PauseCause.ENGINE_LOST: pb.PREEMPTION_CAUSE_ENGINE_LOST,
}
_MISS_CAUSES: Mapping[MissCause, "pb.MissCause.ValueType"] = {
    MissCause.ENGINE_LOST: pb.MISS_CAUSE_ENGINE_LOST,
    MissCause.OVERLOAD: pb.MISS_CAUSE_OVERLOAD,
    MissCause.RELEGATED: pb.MISS_CAUSE_RELEGATED,
    MissCause.ANSWER_LENGTH: pb.MISS_CAUSE_ANSWER_LENGTH,
    MissCause.ESTIMATE: pb.MISS_CAUSE_ESTIMATE,
    MissCause.TARGETS: pb.MISS_CAUSE_TARGETS,
}
HEARTBEAT = pb.GenerateResponse(heartbeat=pb.Heartbeat())


def to_response(event: StreamEvent) -> pb.GenerateResponse:
    """One event as the client is sent it."""
    match event:
        case StreamDelta():
            return pb.GenerateResponse(
                token=pb.TokenDelta(
                    index=event.index,
                    text=event.text,
                    token_ids=event.token_ids,
                    logprobs=[_logprobs(position) for position in event.logprobs],
                )
            )
        case StreamAdmitted():
            return pb.GenerateResponse(
                admitted=pb.Admitted(
                    request_id=event.request_id,
                    position=event.position,
                    predicted_ttft_s=event.predicted_ttft_s,
                    num_prompt_tokens=event.num_prompt_tokens,
                    promised=event.promised,
                )
            )
        case StreamQueued():
            bound_s = None if math.isinf(event.eta_bound_s) else event.eta_bound_s
            return pb.GenerateResponse(
                queued=pb.Queued(position=event.position, eta_s=event.eta_s, eta_bound_s=bound_s)
            )
        case StreamPaused():
            return pb.GenerateResponse(preempted=pb.Preempted(cause=_CAUSES[event.cause]))
        case StreamResumed():
            return pb.GenerateResponse(resumed=pb.Resumed(paused_s=event.paused_s))
        case StreamFinished():
            return pb.GenerateResponse(finished=_finished(event))
        case _:
            assert_never(event)


def _logprobs(position: DeltaLogprob) -> pb.PositionLogprobs:
    return pb.PositionLogprobs(chosen=_logprob(position), top=map(_logprob, position.top))


def _logprob(token: DeltaLogprob | TopLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(token_id=token.token_id, logprob=token.logprob, piece=token.piece)


def _finished(event: StreamFinished) -> pb.Finished:
    finish, timings = event.event, event.event.timings
    return pb.Finished(
        reason=_FINISH_REASONS[finish.reason],
        stop=event.stop_string,
        usage=pb.Usage(
            num_prompt_tokens=finish.num_prompt_tokens,
            num_generated_tokens=finish.num_generated_tokens,
            num_cached_tokens=finish.num_cached_tokens,
        ),
        timings=pb.Timings(
            queue_s=timings.queue_s,
            ttft_s=timings.ttft_s,
            tpot_s=timings.tpot_s,
            total_s=timings.total_s,
            num_preemptions=timings.num_preemptions,
            num_engine_losses=timings.num_engine_losses,
            met_ttft=timings.met_ttft,
            met_tpot=timings.met_tpot,
            met_ttlt=timings.met_ttlt,
        ),
        outcome=None if finish.outcome is None else _outcome(finish.outcome),
    )


def _outcome(outcome: Outcome) -> pb.Outcome:
    cause = outcome.miss_cause
    return pb.Outcome(
        promised=outcome.promised,
        held=outcome.held,
        miss_cause=pb.MISS_CAUSE_UNSPECIFIED if cause is None else _MISS_CAUSES[cause],
    )
