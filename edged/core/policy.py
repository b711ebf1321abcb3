"""What a scheduling policy decides.

The planner asks every policy the same questions, so a policy is one file in `policies/`, one line
in its `POLICIES`, and one scenario. Most see one sequence, or two, and the time. One that makes
promises keeps books of its own (`edged.core.forecast`), and is told what happens; like all of the
core it reads no clock and draws nothing at random.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from edged.core.forecast import Assessment
from edged.core.kv import KvBudget
from edged.core.plan import StepPlan, StepResult
from edged.core.sequence import Sequence
from edged.core.types import FinishReason, PrefixSharing, Rank, SloTier, TierSpec


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How to schedule; a policy reads what concerns it."""

    policy: str
    """A name in `edged.core.policies.POLICIES`."""
    tiers: Mapping[SloTier, TierSpec]
    max_step_tokens: int
    max_step_s: float
    """Longest step, as predicted, for any prefill chunk."""
    arrival_guard_s: float
    """Longest step, as predicted, for a prefill that a more urgent request could come upon and had
    to wait for."""
    share_quantum_s: float
    """Credit at which a tier is owed its `min_share`."""
    max_snapshot_bytes: int
    max_disk_bytes: int = 0
    caches_prefixes: bool = False
    """Whether KV is kept for others after the sequence that computed it."""
    prefix_sharing: PrefixSharing = PrefixSharing.CLIENT
    relegated_share: float = 0.01
    """Least fraction of engine time for those that cannot be in time any more; for those without
    targets as much."""
    lease_tokens: int = 128
    """Cells that an answer of the batch tier gets at a time."""
    horizon_tokens: int = 32
    """Steps over which all that run must have room to grow when another one is started."""
    can_interrupt: bool = False
    """Whether arrivals cut steps short; the backend's, so the engine fills it in."""


class Tolerance(NamedTuple):
    """Seconds of a step; 0 shares it with nobody."""

    for_equals_s: float = inf
    """With prefills of its own band."""
    for_others_s: float = inf
    """With less urgent bands."""
    others_part: float = inf
    """What less urgent bands may add to the step, as a part of the step without them."""


TOLERATES_ALL = Tolerance()


class PrefillBounds(NamedTuple):
    step_s: float = inf
    """Longest step, in seconds."""
    least_part: float = 1.0
    """What the first prefill of the most urgent band gets even beyond that: seconds, as a part of
    those that the decodes in the step take."""


class Place(NamedTuple):
    """Where a sequence stands, and until when that is certain."""

    rank: Rank
    until_s: float = inf
    """When to ask again."""


class Policy(Protocol):
    @property
    def gives_promises(self) -> bool:
        """Whether it promises requests their targets at all."""
        ...

    @property
    def honours_shares(self) -> bool:
        """Whether `min_share` lifts a tier that is owed time."""
        ...

    @property
    def ranks_progress(self) -> bool:
        """Whether a sequence is to be placed anew with each chunk of its prompt and with the first
        token of its answer."""
        ...

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        """Other tiers than those of its config, from now on. No sequence changes its place."""
        ...

    def assess(
        self, seq: Sequence, running: Collection[Sequence], kv: KvBudget, now_s: float
    ) -> Assessment | None:
        """Whether an arrival's targets can be promised. Changes nothing. None: it has none, or
        the policy promises nothing."""
        ...

    def admit(
        self, seq: Sequence, assessment: Assessment | None, now_s: float
    ) -> Iterable[Sequence]:
        """Take an arrival in, as it was assessed; whom this moves is to be placed anew."""
        ...

    def place(self, seq: Sequence, now_s: float) -> Place:
        """The sequence's rank. It stays so until the moment that is named, so that queues can be
        kept in order."""
        ...

    @property
    def num_turns(self) -> int:
        """Sequences, relegated or without targets, that had their turn."""
        ...

    def turn_s(self, seq: Sequence, now_s: float) -> float | None:
        """Moment at which a waiting sequence is the most urgent one at the latest, whoever comes;
        None if none can be named."""
        ...

    def is_in_line(self, seq: Sequence) -> bool:
        """Whether those of its tier and band are served in an order that later ones do not change,
        so that what others waited says how long it will."""
        ...

    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        """Whether `urgent`, which has no slot, may take `victim`'s. Never true both ways."""
        ...

    def is_worth(self, victim: Sequence, cost_s: float, now_s: float) -> bool:
        """Whether to preempt it, which costs the engine so many seconds, rather than wait for its
        end."""
        ...

    def tokens_left(self, seq: Sequence) -> float:
        """How many tokens its answer is expected to get yet."""
        ...

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        """How long a step a prefill chunk of `seq` may make."""
        ...

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        """Longest step that `seq` accepts when work behind it in the order shares the step."""
        ...

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        """`StepPlan.yields_to` of a step whose most urgent sequence is `head`. `spare_s`: what
        its band tolerates for equals beyond the step's predicted end; 0 if nobody else shares
        the step, which is short then."""
        ...

    def advanced(self, seq: Sequence) -> None:
        """It got its slot, or its first token."""
        ...

    def ended(self, seq: Sequence, reason: FinishReason) -> None: ...

    def learn(
        self,
        plan: StepPlan,
        result: StepResult,
        running: Collection[Sequence],
        kv: KvBudget,
    ) -> Iterable[Sequence]:
        """A step was committed; whom this moves is to be placed anew."""
        ...


class WithoutBooks:
    """What a policy does that promises nothing: nothing."""

    gives_promises = False
    ranks_progress = False
    num_turns = 0

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        return

    def assess(
        self, seq: Sequence, running: Collection[Sequence], kv: KvBudget, now_s: float
    ) -> Assessment | None:
        return None

    def admit(
        self, seq: Sequence, assessment: Assessment | None, now_s: float
    ) -> Iterable[Sequence]:
        return ()

    def turn_s(self, seq: Sequence, now_s: float) -> float | None:
        return None

    def is_in_line(self, seq: Sequence) -> bool:
        return False

    def is_worth(self, victim: Sequence, cost_s: float, now_s: float) -> bool:
        return True

    def tokens_left(self, seq: Sequence) -> float:
        return seq.max_tokens - seq.num_generated_tokens

    def advanced(self, seq: Sequence) -> None:
        return

    def ended(self, seq: Sequence, reason: FinishReason) -> None:
        return

    def learn(
        self,
        plan: StepPlan,
        result: StepResult,
        running: Collection[Sequence],
        kv: KvBudget,
    ) -> Iterable[Sequence]:
        return ()
