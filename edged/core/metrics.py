"""What is measured: a finished request in the field's terms, and the scheduler's counters.

TTFT = first token − arrival. TPOT = (last token − first token) / (n − 1), for n ≥ 2 tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edged.core.cost import StepCosts
from edged.core.outcome import outcome
from edged.core.sequence import Sequence
from edged.core.types import FinishEvent, FinishReason, RequestTimings, SloTier


@dataclass(frozen=True, slots=True)
class TierCounts:
    num_waiting: int
    num_running: int
    num_preempted: int
    num_finished: int
    num_generated_tokens: int
    num_promised: int
    num_broken: int
    """Of those promised, which missed a target."""
    num_relegated: int


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """Counters are since the scheduler was made."""

    num_steps: int
    num_interrupted_steps: int
    num_parks: int
    num_swaps: int
    num_recomputes: int
    num_turns: int
    """Relegated requests, and those without targets, that were served by their share."""
    num_prompt_tokens: int
    """Computed; those that were found computed are `num_cached_tokens`."""
    num_cached_tokens: int
    num_generated_tokens: int
    num_used_slots: int
    num_used_cells: int
    """Held by running sequences; further ones are parked or cached."""
    num_parked_cells: int
    """Of preempted sequences."""
    num_cached_cells: int
    """Kept for others that begin alike."""
    swapped_bytes: int
    """Host memory that preempted sequences hold."""
    cached_bytes: int
    """Host memory that is kept for others."""
    disk_bytes: int
    cost_model_error: float
    step_costs: StepCosts
    tiers: Mapping[SloTier, TierCounts]


def finish_event(seq: Sequence, reason: FinishReason, now_s: float, detail: str) -> FinishEvent:
    measured = timings(seq, now_s)
    return FinishEvent(
        request_id=seq.request.request_id,
        reason=reason,
        num_prompt_tokens=seq.num_prompt_tokens,
        num_generated_tokens=seq.num_generated_tokens,
        timings=measured,
        detail=detail,
        outcome=outcome(seq, reason, measured),
        num_cached_tokens=seq.num_cached_tokens,
    )


def timings(seq: Sequence, now_s: float) -> RequestTimings:
    """All spans begin at the request's arrival, also for a replay."""
    request = seq.request
    arrival_s, service = request.arrival_s, request.service
    queue_s = None if seq.first_scheduled_s is None else seq.first_scheduled_s - arrival_s
    ttft_s = None if seq.first_token_s is None else seq.first_token_s - arrival_s
    tpot_s = None
    if seq.first_token_s is not None and seq.last_token_s is not None:
        num_gaps = seq.num_generated_tokens - 1
        tpot_s = (seq.last_token_s - seq.first_token_s) / num_gaps if num_gaps > 0 else None
    return RequestTimings(
        queue_s=queue_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        total_s=now_s - arrival_s,
        num_preemptions=seq.num_preemptions,
        num_engine_losses=request.past.num_engine_losses,
        met_ttft=_met(ttft_s, service.ttft_target_s),
        met_tpot=_met(tpot_s, service.tpot_target_s),
        met_ttlt=_met(now_s - arrival_s, service.ttlt_target_s),
    )


def _met(measured_s: float | None, target_s: float | None) -> bool | None:
    if measured_s is None or target_s is None:
        return None
    return measured_s <= target_s
