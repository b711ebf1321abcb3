"""Events as a daemon sends them become those that programs see."""

from collections.abc import Mapping
from typing import TypeVar

from edged.client.events import (
    Admitted,
    Event,
    Finished,
    Outcome,
    PositionLogprobs,
    Preempted,
    PreemptionCause,
    Queued,
    Resumed,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from edged.core.types import FinishReason, MissCause
from edged.v1 import inference_pb2 as pb

_T = TypeVar("_T")

_CAUSES: Mapping[int, PreemptionCause] = {
    pb.PREEMPTION_CAUSE_SWAP: PreemptionCause.SWAP,
    pb.PREEMPTION_CAUSE_RECOMPUTE: PreemptionCause.RECOMPUTE,
    pb.PREEMPTION_CAUSE_ENGINE_LOST: PreemptionCause.ENGINE_LOST,
    pb.PREEMPTION_CAUSE_PARK: PreemptionCause.PARK,
}
_FINISH_REASONS: Mapping[int, FinishReason] = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_MISS_CAUSES: Mapping[int, MissCause] = {
    pb.MISS_CAUSE_ENGINE_LOST: MissCause.ENGINE_LOST,
    pb.MISS_CAUSE_OVERLOAD: MissCause.OVERLOAD,
    pb.MISS_CAUSE_RELEGATED: MissCause.RELEGATED,
    pb.MISS_CAUSE_ANSWER_LENGTH: MissCause.ANSWER_LENGTH,
    pb.MISS_CAUSE_ESTIMATE: MissCause.ESTIMATE,
    pb.MISS_CAUSE_TARGETS: MissCause.TARGETS,
}


def to_event(response: pb.GenerateResponse, daemon: str) -> Event | None:
    """None for a heartbeat, and for an event that only newer clients know."""
    match response.WhichOneof("event"):
        case "token":
            delta = response.token
            logprobs = tuple(_position(position) for position in delta.logprobs)
            return Token(delta.text, tuple(delta.token_ids), delta.index, logprobs)
        case "admitted":
            admitted = response.admitted
            return Admitted(
                request_id=admitted.request_id,
                daemon=daemon,
                position=admitted.position,
                predicted_ttft_s=admitted.predicted_ttft_s,
                num_prompt_tokens=admitted.num_prompt_tokens,
                promised=_given(admitted, "promised", admitted.promised),
            )
        case "queued":
            queued = response.queued
            bound_s = _given(queued, "eta_bound_s", queued.eta_bound_s)
            return Queued(queued.position, queued.eta_s, bound_s)
        case "preempted":
            return Preempted(_CAUSES.get(response.preempted.cause))
        case "resumed":
            return Resumed(response.resumed.paused_s)
        case "finished":
            return _finished(response.finished)
    return None


def _finished(finished: pb.Finished) -> Finished:
    usage, timings, outcome = finished.usage, finished.timings, finished.outcome
    return Finished(
        reason=_FINISH_REASONS.get(finished.reason),
        stop=finished.stop,
        usage=Usage(usage.num_prompt_tokens, usage.num_generated_tokens, usage.num_cached_tokens),
        timings=Timings(
            total_s=timings.total_s,
            queue_s=_given(timings, "queue_s", timings.queue_s),
            ttft_s=_given(timings, "ttft_s", timings.ttft_s),
            tpot_s=_given(timings, "tpot_s", timings.tpot_s),
            num_preemptions=timings.num_preemptions,
            num_engine_losses=timings.num_engine_losses,
            met_ttft=_given(timings, "met_ttft", timings.met_ttft),
            met_tpot=_given(timings, "met_tpot", timings.met_tpot),
            met_ttlt=_given(timings, "met_ttlt", timings.met_ttlt),
        ),
        outcome=(
            Outcome(
                promised=_given(outcome, "promised", outcome.promised),
                held=outcome.held,
                miss_cause=_MISS_CAUSES.get(outcome.miss_cause),
            )
            if finished.HasField("outcome")
            else None
        ),
    )


_HasFields = pb.Admitted | pb.Queued | pb.Timings | pb.Outcome


def _given(message: _HasFields, field: str, value: _T) -> _T | None:
    """The value of an optional field; None where it is absent."""
    return value if message.HasField(field) else None  # type: ignore[arg-type]  # a literal of each message's own


def _position(position: pb.PositionLogprobs) -> PositionLogprobs:
    return PositionLogprobs(_logprob(position.chosen), tuple(map(_logprob, position.top)))


def _logprob(token: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token.token_id, token.logprob, token.piece)
