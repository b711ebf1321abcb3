"""Who holds a slot in one step, and who yields it.

Theory of operation. Running sequences must be able to grow by the tokens they know; while the free
cells do not suffice, the least urgent yields. Then the queue is walked from its head: each sequence
takes a free slot and its cells, or those of victims the policy allows, from the tail; the first one
that cannot be placed ends the walk, so nobody is overtaken while it waits. For the first of a tier
that is owed time see `Placement.place_waiting`.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from edged.core.cost import StepCostModel
from edged.core.holdings import Holdings
from edged.core.kept import Kept
from edged.core.kv import KvBudget
from edged.core.leases import unused_lease
from edged.core.plan import Pending, Share
from edged.core.policy import Policy
from edged.core.prefix_cache import PrefixCache
from edged.core.queue import WaitingQueue
from edged.core.sequence import Key, Sequence, by_rank
from edged.core.types import FileId, SeqId, SlotId, SloTier

MAX_KEPT_S = 2.0
"""Longest foreseeable wait for which room is kept for a tier that is owed time."""
_OWED = 1000
"""Bands that being owed time gets a sequence ahead."""


@dataclass(frozen=True, slots=True)
class PlannerView:
    """What planning may look at: the scheduler's own objects, as they are between steps."""

    running: list[Sequence]
    """By the policy's rank."""
    queue: WaitingQueue
    kv: KvBudget
    holdings: Holdings
    prefixes: PrefixCache
    cost: StepCostModel
    policy: Policy
    max_step_tokens: int
    horizon_tokens: int
    """Steps over which all that run must have room to grow when another one is started."""
    pending: Pending


def urgency(owed: frozenset[SloTier]) -> Callable[[Sequence], Key]:
    """The one total order; smaller runs first, larger yields first."""
    if not owed:
        return by_rank

    def lifted(seq: Sequence) -> Key:
        band, row, order = seq.rank
        return (band - _OWED if is_lifted(seq, owed) else band, row, order), seq.seq_id

    return lifted


def is_lifted(seq: Sequence, owed: frozenset[SloTier]) -> bool:
    """Whether it goes before those that are merely more urgent: while a tier is owed time, that
    tier, and before it those that are kept in time."""
    return bool(owed) and (seq.tier in owed or seq.is_kept_in_time)


class Eviction(NamedTuple):
    """Who yields its slot in a step, for whom."""

    victim: Sequence
    slot: SlotId
    cause: Sequence
    parks: bool
    """Whether the slot may go on holding its KV; else it is used again."""


class Fetch(NamedTuple):
    """Whose slot is filled from host memory or disk."""

    seq_id: SeqId
    slot: SlotId
    kept: Kept
    num_tokens: int


class Placement:
    """Slots and cells as they will be once the plan's evictions are done; scratch of one plan."""

    def __init__(self, view: PlannerView, owed: frozenset[SloTier], now_s: float) -> None:
        self._view = view
        self._owed = owed
        self._urgency = urgency(owed)
        self._now_s = now_s
        self._empty_slots = view.kv.empty_slots
        self._num_free_slots = view.kv.num_free_slots
        self.leases = {seq.seq_id: unused_lease(view.kv, seq) for seq in view.running}
        """Cells that running sequences hold and do not need yet; free to all others."""
        self.num_leased = sum(self.leases.values())
        self.free_cells = view.kv.free_cells + self.num_leased
        self._swapped_bytes: int | None = None
        """Host memory that preempted sequences will own; None before it is asked for."""
        self.running = list(view.running)
        if owed:  # by urgency: the others are in order already
            self.running.sort(key=lambda seq: not is_lifted(seq, owed))
        cells = view.kv.cells
        self.growth = {
            seq.seq_id: max(0, len(seq.token_ids) - cells[seq.slot])
            for seq in self.running
            if seq.slot is not None
        }
        """Cells that each running sequence lacks for the tokens it knows."""
        self._all_growth = sum(self.growth.values())
        self._headrooms: dict[SeqId, int] = {}
        """Of the sequences that were asked for."""
        self.slots: dict[SeqId, SlotId] = {}
        """Slots given to sequences that held none."""
        self.preemptors: list[SeqId] = []
        """Sequences of the queue for which somebody yielded, in order."""
        self.evicted: list[Eviction] = []
        self.fetched: list[Fetch] = []
        self.shared: list[Share] = []
        self.reading: list[FileId] = []
        """Files that are to be read before who waits for them is placed."""
        self._evicted_slots: set[SlotId] = set()
        self._claimed_slots: set[SlotId] = set()
        """Whose cells sequences that are placed will share; they stay."""
        self.adopted: set[SlotId] = set()
        """Cached slots that sequences are placed in, with what they hold."""

    def make_room_to_grow(self) -> None:
        """Evict the least urgent until every running sequence can hold the tokens it knows. Being
        owed time changes nothing here: it would take cells from the more urgent."""
        while len(self.running) > 1 and self._all_growth > self.free_cells:
            victim = max(self.running, key=by_rank)
            self._evict(victim, cause=min(self.running, key=by_rank))

    def place_waiting(self, until: SeqId | None) -> None:
        """Give slots and cells to those that wait, from the head of the queue up to `until`.

        The first of a tier that is owed time comes before all but those kept in time. It evicts
        nobody, but what becomes free is kept for it: those behind it may only trade places with
        victims of their own. If its room cannot be foreseen, because answers without a near limit
        hold it, it lets the more urgent pass: they are not to wait for the end of a long answer.
        """
        if not len(self._view.queue):
            return
        is_room_kept = False
        blocked: set[SloTier] = set()
        for seq in self._view.queue.in_order(self._owed):
            if seq.tier in blocked or seq.seq_id == until:
                return
            if seq.claim is not None and seq.claim.slot in self._evicted_slots:
                return  # with the next step it claims something else
            if self._view.prefixes.follows(seq, self.running) or self._waits_for_disk(seq):
                continue
            victims = self._victims_for(seq)
            if victims is None and seq.tier in self._owed:
                blocked.add(seq.tier)
                is_room_kept = is_room_kept or self._has_room_soon(seq)
                continue
            if victims is None or (is_room_kept and not victims):
                return
            for victim in victims:
                self._evict(victim, cause=seq)
            if victims:
                self.preemptors.append(seq.seq_id)
            self._place(seq)

    def _waits_for_disk(self, seq: Sequence) -> bool:
        """Whether the file that it claims is better read while others go on."""
        claim, files = seq.claim, self._view.holdings.files
        if claim is None or claim.file is None or claim.slot is not None:
            return False
        if claim.snapshot is not None or not self.running or files.has_read(claim.file):
            return False
        if not files.is_reading(claim.file) and claim.file not in self.reading:
            self.reading.append(claim.file)
        return True

    def _victims_for(self, seq: Sequence) -> list[Sequence] | None:
        """Who must yield for `seq` to be placed: nobody, some from the tail, or None if even all
        who may be asked would not do."""
        missing_slots = int(not self._num_free_slots)
        missing_cells = self._cells_needed(seq) - self.free_cells
        if self.running:
            missing_cells += self._all_growth
            if missing_cells > -self._view.horizon_tokens * (len(self.running) + 1):
                missing_cells += sum(self._headroom(one) for one in (*self.running, seq))
        if missing_slots <= 0 and missing_cells <= 0:
            return []
        victims: list[Sequence] = []
        urgent = self._urgency(seq)
        for victim in reversed(self.running):
            if victim.seq_id in self.slots or urgent >= self._urgency(victim):
                break
            is_claimed = seq.claim is not None and victim.slot == seq.claim.slot
            if is_claimed or victim.slot in self._claimed_slots:
                continue
            policy = self._view.policy
            if not policy.may_preempt(seq, victim, self._now_s):
                continue
            if not policy.is_worth(victim, self._preemption_s(victim), self._now_s):
                continue
            victims.append(victim)
            missing_slots -= 1
            missing_cells -= self._cells_given_back(victim)
            if missing_slots <= 0 and missing_cells <= 0:
                return victims
        return None

    def _headroom(self, seq: Sequence) -> int:
        """Cells that it is expected to take over the horizon, beyond those for its next token."""
        headroom = self._headrooms.get(seq.seq_id)
        if headroom is None:
            left = ceil(self._view.policy.tokens_left(seq))
            headroom = min(self._view.horizon_tokens, left) - 1
            self._headrooms[seq.seq_id] = headroom = max(0, headroom)
        return headroom

    def _has_room_soon(self, seq: Sequence) -> bool:
        """Whether running answers that end at their limits make room for `seq` in `MAX_KEPT_S`."""
        cost = self._view.cost
        held = [other for other in self.running if other.seq_id not in self.slots]
        step_s = cost.base_s + sum(cost.decode_cost_s(len(other.token_ids)) for other in held)
        missing_slots = int(not self._num_free_slots)
        missing_cells = len(seq.token_ids) - self.free_cells
        for other in held:
            if (other.max_tokens - other.num_generated_tokens) * step_s <= MAX_KEPT_S:
                missing_slots -= 1
                missing_cells -= self._cells_given_back(other)
        return missing_slots <= 0 and missing_cells <= 0

    def _cells_given_back(self, victim: Sequence) -> int:
        """Its reservation, the growth it no longer needs, and its headroom."""
        growth = self.growth[victim.seq_id] + self._headroom(victim)
        return self._cells_left_by(victim) + growth

    def _cells_left_by(self, victim: Sequence) -> int:
        """Cells that are free for others without it, and not with it. Once sequences are placed
        that share cells, those that it shares with somebody may be theirs."""
        kv, slot = self._view.kv, victim.slot
        assert slot is not None, f"I1: {victim.seq_id} runs without a slot"
        held = kv.held_alone(slot) if self._claimed_slots else kv.given_back_by(slot)
        return held - self.leases[victim.seq_id]

    def _cells_needed(self, seq: Sequence) -> int:
        """Cells that it would take from those that no sequence holds."""
        num_tokens, claim = len(seq.token_ids), seq.claim
        if claim is None:
            return num_tokens
        if claim.slot is None:
            return self._view.holdings.cells_to_fetch(claim, num_tokens)
        gone = self._evicted_slots
        return num_tokens - self._view.kv.taken_of(claim.slot, seq.num_computed_tokens, gone)

    def _place(self, seq: Sequence) -> None:
        claim, seq_id, num_tokens = seq.claim, seq.seq_id, seq.num_computed_tokens
        self.free_cells -= self._cells_needed(seq)
        slot = self._slot_for(seq)
        self.slots[seq_id] = slot
        self._num_free_slots -= 1
        insort(self.running, seq, key=self._urgency)
        if claim is None:
            return
        if claim.slot is not None:
            self._claimed_slots.add(claim.slot)
            if slot == claim.slot:
                self.adopted.add(slot)
            else:
                self.shared.append(Share(seq_id, claim.slot, slot, num_tokens))
        else:
            self.fetched.append(Fetch(seq_id, slot, claim, num_tokens))

    def _slot_for(self, seq: Sequence) -> SlotId:
        """An empty one, or the one it claims if it goes on with all that this holds, and nobody
        else is to."""
        claim = seq.claim
        if (
            claim is not None
            and claim.slot is not None
            and claim.num_tokens == seq.num_computed_tokens
            and claim.owner in (None, seq)
            and claim.slot not in self.adopted
            and self._view.kv.is_cached(claim.slot)
        ):
            return claim.slot
        return self._empty_slots.pop()

    def _evict(self, victim: Sequence, cause: Sequence) -> None:
        assert victim.slot is not None, f"I1: {victim.seq_id} runs without a slot"
        assert by_rank(cause) < by_rank(victim), (
            f"I5: {cause.seq_id} would evict the more urgent {victim.seq_id}"
        )
        self._num_free_slots += 1
        parks = len(self._empty_slots) >= self._num_free_slots and self._may_park(victim)
        if not parks:
            self._empty_slots.append(victim.slot)
            if self._swapped_bytes is not None:
                snapshots = self._view.holdings.snapshots
                self._swapped_bytes += snapshots.size_of(victim.num_computed_tokens)
        self.running.remove(victim)
        self._all_growth -= self.growth.pop(victim.seq_id)
        self.free_cells += self._cells_left_by(victim)
        self._evicted_slots.add(victim.slot)
        self.evicted.append(Eviction(victim, victim.slot, cause, parks))

    def _may_park(self, victim: Sequence) -> bool:
        """Where idle cells cost, it is better swapped, if it can be."""
        view = self._view
        if not (view.prefixes.can_share and victim.num_computed_tokens):
            return False
        return not view.kv.geometry.idle_cells_cost or self._swap_s(victim) is None

    def _preemption_s(self, victim: Sequence) -> float:
        """Seconds of the engine that preempting it costs, if it has to leave its slot."""
        num_tokens = victim.num_computed_tokens
        if not num_tokens:
            return 0.0
        swap_s = self._swap_s(victim)
        if swap_s is not None:
            return swap_s
        return self._view.cost.recompute_s(num_tokens, self._view.max_step_tokens)

    def _swap_s(self, victim: Sequence) -> float | None:
        """Seconds to save and restore it; None: there is no room, or computing it is faster."""
        holdings, num_tokens = self._view.holdings, victim.num_computed_tokens
        num_bytes = holdings.snapshots.size_of(num_tokens)
        if self._swapped_bytes is None:
            self._swapped_bytes = holdings.owned_bytes
        fits = self._swapped_bytes + num_bytes <= holdings.snapshots.max_bytes
        if not (fits and holdings.is_worth_moving(num_tokens, num_transfers=2)):
            return None
        return 2 * self._view.cost.transfer_s(num_bytes)
