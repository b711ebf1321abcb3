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


def is_unattainable(seq: Sequence, assessment: Assessment) -> bool:
    """Whether a request is to be refused because its targets cannot be promised. A replay is not:
    it was admitted."""
    request = seq.request
    if request.past.num_engine_losses > 0:
        return False
    return not assessment.promised and request.on_unattainable is OnUnattainable.REJECT


def unattainable(assessment: Assessment, view: AdmissionView, now_s: float) -> Rejected:
    """Why targets are not promised, and when they may be."""
    entry = assessment.entry
    left_s = inf if entry is None else entry.due_s - now_s
    retry_after_s: float | None = None
    match assessment.obstacle:
        case Obstacle.TARGETS:
            detail = "its targets cannot be held: even an idle engine would miss them"
        case Obstacle.PACE:
            detail = "its TPOT cannot be promised now: other answers were promised all of the pace"
            retry_after_s = slot_wait_s(view)
        case Obstacle.ROOM:
            detail = (
                f"its targets cannot be promised now: the first token is due in {left_s:.3g} s, "
                "and slots and cells can be counted on "
                + ("at no time" if assessment.room_s == inf else f"in {assessment.room_s:.3g} s")
            )
            retry_after_s = max(slot_wait_s(view), min(assessment.room_s - left_s, _MOST_RETRY_S))
        case _:
            detail = (
                f"its targets cannot be promised now: at the engine's pace the first token is due "
                f"in {left_s:.3g} s, and it would come in {assessment.predicted_s:.3g} s if nobody "
                "else came meanwhile"
            )
            retry_after_s = assessment.predicted_s - left_s
    if retry_after_s is not None:
        retry_after_s = max(_LEAST_RETRY_S, retry_after_s)
    return Rejected(RejectReason.UNATTAINABLE, detail, retry_after_s=retry_after_s)


def promise(seq: Sequence, assessment: Assessment) -> Assessment:
    """Note with the sequence what was found. What a replay was promised, or not, holds."""
    if seq.promised is None:
        seq.promised = assessment.promised
    seq.expected_tokens, seq.fitted = assessment.expected_tokens, assessment.fits
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
