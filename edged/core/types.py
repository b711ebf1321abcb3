"""The nouns of the core: ids, tiers, requests, what goes in and what comes out. All immutable."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NewType

RequestId = NewType("RequestId", str)
ClientId = NewType("ClientId", str)
SeqId = NewType("SeqId", int)
SlotId = NewType("SlotId", int)
SnapshotId = NewType("SnapshotId", int)
"""KV in host memory."""
FileId = NewType("FileId", int)
"""KV on disk."""


class SloTier(StrEnum):
    """Service tiers, most urgent first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


TIER_RANK: Mapping[SloTier, int] = {tier: rank for rank, tier in enumerate(SloTier)}


class FinishReason(StrEnum):
    """Why a request ended. Exactly one per admitted request."""

    STOP = "stop"
    """An end-of-generation token, a stop token or a stop string."""
    LENGTH = "length"
    """`max_tokens` reached, or the context is full."""
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    QUEUE_TIMEOUT = "queue_timeout"
    """Waited for its first step longer than its tier allows."""
    ERROR = "error"


class PreemptMode(StrEnum):
    """What becomes of a victim's KV, cheapest first."""

    PARK = "park"
    """It stays in its slot, whose cells are free for others; resuming takes the slot again."""
    SWAP = "swap"
    """KV saved to host memory; resuming copies it back."""
    RECOMPUTE = "recompute"
    """KV dropped; resuming prefills prompt and answer again."""


class RejectReason(StrEnum):
    QUEUE_FULL = "queue_full"
    CLIENT_SHARE = "client_share"
    PROMPT_TOO_LONG = "prompt_too_long"
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    UNATTAINABLE = "unattainable"
    """Its targets cannot be promised, and it is worth nothing without."""


class OnUnattainable(StrEnum):
    """What becomes of a request whose targets cannot be promised at its arrival."""

    BEST_EFFORT = "best_effort"
    """It is served as early as promises to others allow."""
    REJECT = "reject"


class MissCause(StrEnum):
    """Why a target was missed; the first that applies, in this order."""

    ENGINE_LOST = "engine_lost"
    TARGETS = "targets"
    """Even an idle engine could hardly have held them."""
    ANSWER_LENGTH = "answer_length"
    """The answer was longer than expected."""
    ESTIMATE = "estimate"
    """It was promised, and steps took longer than predicted."""
    RELEGATED = "relegated"
    """Later, others whose targets could be held went first."""
    OVERLOAD = "overload"
    """At its arrival there was more to do in time than the engine can."""


class Obstacle(StrEnum):
    """Why targets are not promised at a request's arrival."""

    TARGETS = "targets"
    """Even an idle engine could not hold them."""
    WORK = "work"
    """There is, or may come, too much to compute before."""
    ROOM = "room"
    """There may be no slot or no cells in time."""
    PACE = "pace"
    """The answers in progress were promised all the pace there is."""


class Rank(NamedTuple):
    """Place in the one total order; smaller is more urgent."""

    band: int
    """Sequences of a band share a step as equals; a band yields to a smaller one."""
    row: int
    """Place within the band. Answers of a later row pause rather than make the step longer than
    those of the rows before tolerate for others."""
    order: float
    """Place within the row; ties go to the older sequence."""


@dataclass(frozen=True, slots=True)
class TierSpec:
    """What the operator promises to one tier, and the limits the tier lives under."""

    tier: SloTier
    ttft_target_s: float | None
    tpot_target_s: float | None
    max_waiting: int
    max_waiting_per_client: int
    max_queue_s: float | None
    """Longest wait for a first step; None waits for ever."""
    preemptible: bool
    """Whether a more urgent tier may take this tier's slot."""
    min_share: float
    """Least fraction of engine time, in [0, 1), while the tier has work."""
    ttlt_target_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """The targets of one request: its tier's, with the request's own put over them."""

    tier: SloTier
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    ttlt_target_s: float | None = None
    """Arrival to the last token."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Ranges are checked where requests enter (`edged.rpc.convert`)."""

    max_tokens: int | None = None
    """None: until the context is full."""
    temperature: float = 0.8
    """0 is greedy."""
    top_k: int = 40
    """0 keeps every token."""
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """Token n of an answer depends on (seed, n, logits) alone: a replay draws the same."""
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Number of alternatives to report beside the chosen token; None reports nothing."""


@dataclass(frozen=True, slots=True)
class PastService:
    """What a replayed request lived through before its engine was lost; zeros for a new one."""

    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_preemptions: int = 0
    num_engine_losses: int = 0
    promised: bool | None = None
    """What its client was told when it was admitted first."""


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. A replay after a lost engine starts with some tokens generated."""

    request_id: RequestId
    client_id: ClientId
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    service: ServiceLevel
    arrival_s: float
    deadline_s: float | None = None
    """Absolute moment at which the whole answer is worthless."""
    generated_token_ids: tuple[int, ...] = ()
    past: PastService = PastService()
    expected_tokens: int | None = None
    """Length of the answer, as far as the client knows it; a wrong one costs time, nothing else."""
    on_unattainable: OnUnattainable = OnUnattainable.BEST_EFFORT

    @property
    def has_targets(self) -> bool:
        service = self.service
        targets_s = (service.ttft_target_s, service.tpot_target_s, service.ttlt_target_s)
        return self.deadline_s is not None or any(one is not None for one in targets_s)


class PrefixSharing(StrEnum):
    """Whose beginnings a request may find computed. A stranger's would tell, by how soon the first
    token comes, what that one has asked."""

    CLIENT = "client"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class KvGeometry:
    """The KV cache a backend allocated."""

    num_slots: int
    """Sequences that can run at once."""
    num_cells: int
    """Tokens that fit in all slots together."""
    max_cells_per_slot: int
    bytes_per_cell: int
    snapshot_bytes_per_cell: int
    """Of a saved sequence: its KV, and what is saved beside it."""
    snapshot_bytes_fixed: int
    """Of any saved sequence, however short; a recurrent state is of this kind."""
    effective_type_k: str
    effective_type_v: str
    storage: str = ""
    """What the type does not tell, for a person: how much is quantized together, in which layers.
    Saved KV is read only where it is the same."""
    num_cache_slots: int = 0
    """Slots beyond those, so that some can keep KV for others. Where there are any, slots with the
    same beginning hold the same cells; elsewhere a slot can begin with a copy at most."""
    restores_parts: bool = False
    """Whether the first tokens of a snapshot need room for themselves alone; else for all of it."""
    idle_cells_cost: bool = False
    """Whether a step takes longer for cells that none of its sequences attends to; then KV that
    nobody runs with is better moved than kept in cells."""


class KvAbilities(NamedTuple):
    """What a backend can do with the KV of a slot."""

    can_swap: bool = True
    """Save it to host memory, and restore it."""
    can_trim: bool = True
    """Restore the first tokens of what was saved without the others."""
    can_copy: bool = True
    """Let another slot begin with it."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float


class SampledToken(NamedTuple):
    token_id: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


# What the scheduler answers to a submission.


@dataclass(frozen=True, slots=True)
class Admitted:
    seq_id: SeqId
    position: int
    """Requests that are more urgent and not yet running; 0 is next."""
    predicted_ttft_s: float
    promised: bool | None = None
    """Whether its targets will be held; None if it has none, or the policy promises nothing."""


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: RejectReason
    detail: str
    retry_after_s: float | None = None


# What the engine tells about a request after it was admitted.


class TokenEvent(NamedTuple):
    request_id: RequestId
    token_index: int
    """Position in the answer, from 0."""
    token: SampledToken


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """Where a request that waits for its first step stands; from time to time."""

    request_id: RequestId
    position: int
    eta_s: float
    """Seconds from now until its first token, as expected."""
    eta_bound_s: float
    """The same, not to be exceeded in 19 of 20 cases; inf where nothing can be said."""


@dataclass(frozen=True, slots=True)
class PreemptEvent:
    request_id: RequestId
    mode: PreemptMode
    cause: RequestId | None
    """The request that took the slot or the cells."""


@dataclass(frozen=True, slots=True)
class ResumeEvent:
    request_id: RequestId
    paused_s: float


@dataclass(frozen=True, slots=True)
class RequestTimings:
    """Seconds; None where the thing did not happen."""

    queue_s: float | None
    """Arrival to first step."""
    ttft_s: float | None
    tpot_s: float | None
    """(last token − first token) / (n − 1)."""
    total_s: float
    num_preemptions: int
    num_engine_losses: int
    met_ttft: bool | None
    met_tpot: bool | None
    met_ttlt: bool | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request's targets."""

    promised: bool | None
    """`Admitted.promised`."""
    held: bool
    """Whether every target was met."""
    miss_cause: MissCause | None
    """Why not, if not."""


@dataclass(frozen=True, slots=True)
class FinishEvent:
    request_id: RequestId
    reason: FinishReason
    num_prompt_tokens: int
    num_generated_tokens: int
    timings: RequestTimings
    detail: str = ""
    """For ERROR and DEADLINE: a sentence for the client."""
    outcome: Outcome | None = None
    """None if it had no targets."""
    num_cached_tokens: int = 0
    """Of the prompt, found computed."""


EngineEvent = TokenEvent | QueueEvent | PreemptEvent | ResumeEvent | FinishEvent
