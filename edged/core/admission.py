"""Whether a request may wait at all, and when its first token can be expected."""

from dataclasses import dataclass
from math import inf

from edged.core.cost import StepCostModel
from edged.core.forecast import Assessment
from edged.core.kv import KvBudget
from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence, by_rank
from edged.core.types import Obstacle, OnUnattainable, Rejected, RejectReason, Request

_DEFAULT_ANSWER_TOKENS = 256
"""Assumed where a running answer has no nearer end."""

_LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 3600.0


@dataclass(frozen=True, slots=True)
class AdmissionView:
    """What admission may look at."""

    queue: WaitingQueue
    running: list[Sequence]
    kv: KvBudget
    cost: StepCostModel
    max_step_tokens: int
    gives_promises: bool
    """The policy."""


def refuse(request: Request, view: AdmissionView, is_known: bool) -> Rejected | None:
    """Why a request cannot be admitted, or None. A replay passes the limits: it was admitted."""
    if is_known:
        return Rejected(RejectReason.DUPLICATE, f"request {request.request_id} exists already")
    num_prompt = len(request.prompt_token_ids)
    most = view.kv.geometry.max_cells_per_slot
    if num_prompt == 0:
        return Rejected(RejectReason.INVALID, "the prompt has no tokens; at least 1 is needed")
    if num_prompt >= most:
        return Rejected(
            RejectReason.PROMPT_TOO_LONG,
            f"the prompt has {num_prompt} tokens; a sequence of this model can hold {most}, "
            "one of which must be left for the answer",
        )
    if request.past.num_engine_losses > 0:
        return None
    tier, client_id = request.service.tier, request.client_id
    if view.queue.is_full(tier):
        return Rejected(
            RejectReason.QUEUE_FULL,
            f"the {tier} queue is full",
            retry_after_s=slot_wait_s(view),
        )
    if view.queue.is_client_full(tier, client_id):
        return Rejected(
            RejectReason.CLIENT_SHARE,
            f"client {client_id!r} has its share of the {tier} queue waiting already",
            retry_after_s=slot_wait_s(view),
        )
    return None


def refuse_unpromised(
    seq: Sequence, assessment: Assessment | None, view: AdmissionView, now_s: float
) -> Rejected | None:
    """Why a request that is worth nothing without a promise is refused, and when it may be given
    one; None if it is not. A replay is not: it was admitted."""
    request = seq.request
    if request.on_unattainable is not OnUnattainable.REJECT or request.past.num_engine_losses > 0:
        return None
    if assessment is None:
        if view.gives_promises or not request.has_targets:
            return None
        detail = "no targets are promised here: only the scheduling policy slo does"
        return Rejected(RejectReason.UNATTAINABLE, detail)
    if assessment.promised:
        return None
    detail, retry_after_s = _why_not(seq, assessment, view, now_s)
    if retry_after_s is not None:
        retry_after_s = max(_LEAST_RETRY_S, retry_after_s)
    return Rejected(RejectReason.UNATTAINABLE, detail, retry_after_s=retry_after_s)


def _why_not(
    seq: Sequence, assessment: Assessment, view: AdmissionView, now_s: float
) -> tuple[str, float | None]:
    """In words, and after how many seconds it may be otherwise; None if never."""
    entry, cost, next_s = assessment.entry, view.cost, slot_wait_s(view)
    left_s = inf if entry is None else entry.due_s - now_s
    now = "its targets cannot be promised now:"
    if assessment.obstacle is Obstacle.TARGETS:
        first_s = cost.base_s + cost.prefill_cost_s(0, len(seq.token_ids))
        step_s = cost.base_s + cost.decode_cost_s(len(seq.token_ids))
        return (
            f"its targets cannot be promised: even an idle engine takes {first_s:.3g} s to its "
            f"first token, {step_s:.3g} s for each one more, and a step to begin",
            None,
        )
    if assessment.obstacle is Obstacle.PACE:
        return f"{now} its TPOT was promised to as many answers as can have it", next_s
    if left_s <= 0:
        return f"{now} at the pace of the answers in progress its own would end too late", next_s
    due = f"{now} the first token is due in {left_s:.3g} s, and"
    if assessment.obstacle is Obstacle.ROOM:
        if assessment.room_s == inf:
            return f"{due} it never has room", None
        wait_s = min(assessment.room_s - left_s, _MOST_RETRY_S)
        room = f"slots and cells can be counted on in {assessment.room_s:.3g} s"
        return f"{due} {room}", max(next_s, wait_s)
    return (
        f"{due} it would come in {assessment.predicted_s:.3g} s if nobody else came meanwhile",
        assessment.predicted_s - left_s,
    )


def promise(seq: Sequence, assessment: Assessment) -> Assessment:
    """Note with the sequence what was found. What a replay was promised, or not, holds."""
    if seq.promised is None:
        seq.promised = assessment.promised
    seq.expected_tokens, seq.fitted = assessment.expected_tokens, assessment.fits
    seq.is_attainable = assessment.obstacle is not Obstacle.TARGETS
    if seq.promised and assessment.entry is not None:
        seq.promised_until_s = assessment.entry.due_s
    return assessment._replace(promised=seq.promised)


def predict_ttft_s(seq: Sequence, view: AdmissionView) -> float:
    """Seconds until the first token of a waiting sequence: the prefills in front of it, its own,
    and a slot to be freed where all are held by sequences at least as urgent."""
    ahead = view.queue.missing_tokens_before(seq) + sum(
        other.num_missing_tokens
        for other in view.running
        if not other.is_decoding and by_rank(other) <= by_rank(seq)
    )
    prefill_s = view.cost.recompute_s(ahead + seq.num_missing_tokens, view.max_step_tokens)
    as_urgent = sum(1 for other in view.running if other.rank.band <= seq.rank.band)
    ahead_in_queue = view.queue.position(seq)
    free = view.kv.geometry.num_slots - as_urgent
    if ahead_in_queue < free:
        return prefill_s
    rounds = 1 + (ahead_in_queue - free) // view.kv.geometry.num_slots
    return prefill_s + rounds * slot_wait_s(view)


def next_slot_s(view: AdmissionView) -> float:
    """Seconds until a slot can be expected to be free."""
    return 0.0 if view.kv.num_free_slots else slot_wait_s(view)


def slot_wait_s(view: AdmissionView) -> float:
    """Seconds until the next running sequence can be expected to end; at least 0.1."""
    if not view.running:
        return 0.1
    step_s = view.cost.base_s + sum(
        view.cost.decode_cost_s(len(seq.token_ids)) for seq in view.running
    )
    left = min(
        min(seq.max_tokens - seq.num_generated_tokens, _num_expected_tokens(seq))
        for seq in view.running
    )
    return max(0.1, max(left, 1) * step_s)


def _num_expected_tokens(seq: Sequence) -> int:
    """Tokens to the next multiple of the usual answer: one that is longer may be twice as long."""
    return _DEFAULT_ANSWER_TOKENS - seq.num_generated_tokens % _DEFAULT_ANSWER_TOKENS
