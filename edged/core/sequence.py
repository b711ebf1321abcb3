"""One admitted request as the scheduler sees it, and the table of its states.

Theory of operation: there is no prefill phase and no decode phase. `num_computed_tokens` chases
`len(token_ids)`; a gap of one is a decode, a larger gap is a prefill. Preemption by recompute sets
`num_computed_tokens` to 0, parking and swapping keep it, and a replay after a lost engine begins
with a longer `token_ids`.
"""

from collections.abc import Callable
from enum import StrEnum
from math import inf
from operator import attrgetter

from edged.core.kept import Kept
from edged.core.plan import Sampling
from edged.core.types import KvGeometry, Rank, Request, SeqId, SlotId


class SequenceState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


TRANSITIONS: dict[SequenceState, frozenset[SequenceState]] = {
    SequenceState.WAITING: frozenset({SequenceState.RUNNING, SequenceState.FINISHED}),
    SequenceState.RUNNING: frozenset({SequenceState.PREEMPTED, SequenceState.FINISHED}),
    SequenceState.PREEMPTED: frozenset({SequenceState.RUNNING, SequenceState.FINISHED}),
    SequenceState.FINISHED: frozenset(),
}


class Sequence:
    """Mutable; owned and written by the scheduler only."""

    __slots__ = (
        "claim",
        "ends_due_s",
        "eta_s",
        "expected_tokens",
        "first_scheduled_s",
        "first_token_s",
        "fitted",
        "is_attainable",
        "last_token_s",
        "max_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_losses",
        "num_preemptions",
        "num_prompt_tokens",
        "preempted_at_s",
        "promised",
        "promised_until_s",
        "rank",
        "request",
        "sampling",
        "seq_id",
        "slot",
        "state",
        "stop_token_ids",
        "tier",
        "token_ids",
        "tpot_target_s",
        "wait_bounds",
        "was_relegated",
    )

    def __init__(
        self,
        seq_id: SeqId,
        request: Request,
        *,
        max_tokens: int,
        stop_token_ids: frozenset[int],
    ) -> None:
        self.seq_id = seq_id
        self.request = request
        self.tier = request.service.tier
        self.token_ids: list[int] = [*request.prompt_token_ids, *request.generated_token_ids]
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.max_tokens = max_tokens
        self.stop_token_ids = stop_token_ids
        self.sampling = Sampling(request.sampling, self.token_ids, self.num_prompt_tokens)
        self.tpot_target_s = request.service.tpot_target_s
        self.ends_due_s = _ends_due_s(request)
        """When its answer is to be complete: its TTLT target, or the end of its time."""
        self.state = SequenceState.WAITING
        self.num_computed_tokens = 0
        self.slot: SlotId | None = None
        self.claim: Kept | None = None
        """While it waits: KV of its first tokens, its own or another's. They count as computed."""
        self.num_cached_tokens = 0
        """Of its prompt, found computed when it first got a slot."""
        self.rank = Rank(0, 0, 0.0)
        """The policy's."""
        self.first_scheduled_s = request.past.first_scheduled_s
        self.first_token_s = request.past.first_token_s
        self.last_token_s = request.past.last_token_s
        self.preempted_at_s: float | None = None
        self.num_preemptions = request.past.num_preemptions
        self.num_losses = 0
        self.promised = request.past.promised
        """`Admitted.promised`."""
        self.is_attainable = True
        """Whether an idle engine could hold its targets."""
        self.fitted = False
        """Whether its targets could be held beside those of others when it came."""
        self.expected_tokens: float | None = None
        """Length of the answer, as it was expected when the sequence came."""
        self.was_relegated = False
        """Whether it lost its place to others whose targets could be held."""
        self.eta_s: float | None = None
        """Moment at which its first token is expected, while it waits for its first step."""
        self.wait_bounds: list[tuple[float, int]] = []
        """Moments until which it was told to wait at most, and the bands it waited in then
        (`edged.core.waits`)."""
        self.promised_until_s = inf
        """When its first token comes at the latest, if it was promised its targets."""

    @classmethod
    def of(
        cls, number: int, request: Request, geometry: KvGeometry, eog_token_ids: frozenset[int]
    ) -> "Sequence":
        """As the request wants it, as far as a slot has room."""
        params = request.sampling
        room = geometry.max_cells_per_slot - len(request.prompt_token_ids)
        stops = frozenset(params.stop_token_ids)
        return cls(
            SeqId(number),
            request,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_token_ids=stops if params.ignore_eos else stops | eog_token_ids,
        )

    def to(self, state: SequenceState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.seq_id}: {self.state} -> {state}"
        self.state = state

    @property
    def num_generated_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_missing_tokens(self) -> int:
        """Known tokens whose KV is not computed: 1 is a decode, more a prefill."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def has_kv(self) -> bool:
        """Whether it has KV of its own, in a slot, parked or swapped."""
        if self.claim is not None:
            return self.claim.owner is self
        return self.num_computed_tokens > 0

    @property
    def is_kept_in_time(self) -> bool:
        """Whether it was promised its targets, and stands where it keeps them: not even tiers that
        are owed time go before it."""
        return bool(self.promised) and self.rank.band == 0

    @property
    def is_decoding(self) -> bool:
        return len(self.token_ids) - self.num_computed_tokens == 1


def _ends_due_s(request: Request) -> float | None:
    ttlt_s, deadline_s = request.service.ttlt_target_s, request.deadline_s
    if ttlt_s is None:
        return deadline_s
    due_s = request.arrival_s + ttlt_s
    return due_s if deadline_s is None else min(due_s, deadline_s)


Key = tuple[tuple[int, int, float], int]
"""(rank, seq_id): the policy's rank, ties to the older sequence."""

by_rank: Callable[[Sequence], Key] = attrgetter("rank", "seq_id")
"""The one order of sequences, by their policy's rank; smaller is more urgent."""
