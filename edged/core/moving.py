"""What KV a step moves so that its cells are empty: who is swapped, what is dropped or saved.

Theory of operation. Placement counts cells that no sequence holds as free, though what is cached
may be in them. As many as the step's chunks need are made empty: first leases are taken back; then
the cached slots that are worth least are dropped, after what is shared of them is; then the victims
that were to be parked leave their slots. What leaves its slot is saved if moving it takes less time
than computing it again, and if host memory has room for it besides what is worth more.
"""

from collections.abc import Set
from typing import NamedTuple

from edged.core.budget import ANY, Worth
from edged.core.holdings import Holdings
from edged.core.placement import Eviction, Fetch, Placement, PlannerView
from edged.core.plan import Chunk, Evict, Restore, Save, Share
from edged.core.types import PreemptMode, SeqId, SlotId, SnapshotId


class Moves(NamedTuple):
    """The parts of a plan that move KV."""

    evict: tuple[Evict, ...]
    share: tuple[Share, ...]
    restore: tuple[Restore, ...]
    drop: tuple[SlotId, ...]
    shorten: tuple[SlotId, ...]
    save: tuple[Save, ...]
    discard: tuple[SnapshotId, ...]


def settle(view: PlannerView, placement: Placement, chunks: list[Chunk], now_s: float) -> Moves:
    """For a step of these chunks; who was placed and has none is left where it is."""
    computed = {chunk.seq_id for chunk in chunks}
    shared = [one for one in placement.shared if one.seq_id in computed]
    restored = [_restore(one) for one in placement.fetched if one.seq_id in computed]
    emptied = _emptied(view, placement, shared, computed, now_s)
    dropped, leaving = emptied.dropped, emptied.leaving
    shorten = tuple(emptied.shortened)
    if not (placement.evicted or dropped):
        return Moves((), tuple(shared), tuple(restored), (), shorten, (), ())
    needed = {one.snapshot for one in restored if one.snapshot is not None}
    saving = _Saving(view.holdings, now_s, needed)
    evicts = [_evict(one, one.slot in leaving, saving) for one in placement.evicted]
    for slot in reversed(dropped):
        saving.save_kept(slot)
    return Moves(
        evict=tuple(evicts),
        share=tuple(shared),
        restore=tuple(restored),
        drop=tuple(dropped),
        shorten=shorten,
        save=tuple(saving.saves),
        discard=tuple(saving.room.discarded),
    )


class _Saving:
    """What a step saves, and what is discarded for that; scratch of one plan."""

    def __init__(self, holdings: Holdings, now_s: float, needed: Set[SnapshotId]) -> None:
        """`needed`: snapshots that the step restores."""
        self._holdings = holdings
        self._now_s = now_s
        self.room = holdings.room(now_s, needed)
        self.saves: list[Save] = []

    def save_kept(self, slot: SlotId) -> None:
        """What a cached slot holds, that is to be dropped."""
        kept = self._holdings.by_slot[slot]
        worth = self._holdings.worth_saved(kept, self._now_s) if kept.owner is None else ANY
        self.save(slot, kept.num_tokens, 1, worth)

    def save(self, slot: SlotId, num_tokens: int, num_transfers: int, worth: Worth) -> bool:
        """Whether it is saved: it is if that is worth so many transfers, and there is room."""
        is_worth_it = self._holdings.is_worth_moving(num_tokens, num_transfers=num_transfers)
        num_bytes = self._holdings.snapshots.size_of(num_tokens)
        if not (is_worth_it and self.room.take(num_bytes, worth)):
            return False
        self.saves.append(Save(slot, self._holdings.snapshots.name(len(self.saves))))
        return True


def _restore(one: Fetch) -> Restore:
    kept = one.kept
    file = kept.file if kept.snapshot is None else None
    return Restore(one.seq_id, one.slot, kept.snapshot, file, one.num_tokens)


def _evict(one: Eviction, leaves: bool, saving: _Saving) -> Evict:
    victim, slot = one.victim, one.slot
    mode = PreemptMode.PARK
    if leaves:
        is_saved = saving.save(slot, victim.num_computed_tokens, 2, ANY)
        mode = PreemptMode.SWAP if is_saved else PreemptMode.RECOMPUTE
    return Evict(victim.seq_id, slot, mode, one.cause.request.request_id)


class _Emptied(NamedTuple):
    """What makes cells empty that a step needs."""

    leaving: set[SlotId]
    """Of victims, that are not to be parked in."""
    dropped: list[SlotId]
    """Cached."""
    shortened: list[SlotId]
    """Of running sequences: what they have of a lease is taken back."""


def _emptied(
    view: PlannerView,
    placement: Placement,
    shared: list[Share],
    computed: Set[SeqId],
    now_s: float,
) -> _Emptied:
    kv = view.kv
    leaving = {one.slot for one in placement.evicted if not one.parks}
    if not (kv.cached or placement.num_leased or len(leaving) < len(placement.evicted)):
        return _Emptied(leaving, [], [])
    missing = _cells_missing(view, placement, shared, computed)
    missing -= kv.empty_cells + sum(kv.held_alone(slot) for slot in leaving)
    missing -= sum(placement.leases[one.victim.seq_id] for one in placement.evicted if one.parks)
    shortened: list[SlotId] = []
    for seq in reversed(placement.running) if missing > 0 else ():
        leased = placement.leases.get(seq.seq_id, 0)
        if leased and seq.slot is not None:
            shortened.append(seq.slot)
            missing -= leased
            if missing <= 0:
                break
    kept_of: dict[SlotId, int] = {}
    for share in shared:
        kept_of[share.source] = max(share.num_tokens, kept_of.get(share.source, 0))
    dropped: list[SlotId] = []
    for kept in view.holdings.by_value(now_s) if missing > 0 else ():
        slot = kept.slot
        if slot is not None and slot not in placement.adopted:
            dropped.append(slot)
            missing -= max(0, kv.freed_by(slot) - kept_of.get(slot, 0))
            if missing <= 0:
                break
    for one in placement.evicted:
        if missing > 0 and one.parks:
            leaving.add(one.slot)
            missing -= kv.held_alone(one.slot) - placement.leases[one.victim.seq_id]
    return _Emptied(leaving, dropped, shortened)


def _cells_missing(
    view: PlannerView, placement: Placement, shared: list[Share], computed: Set[SeqId]
) -> int:
    """Cells that the step takes beyond those that its sequences hold, or share."""
    kv = view.kv
    missing = -sum(share.num_tokens for share in shared) if kv.shares_cells else 0
    for seq in placement.running:
        if seq.seq_id not in computed:
            continue
        num_tokens, claim = len(seq.token_ids), seq.claim
        if seq.slot is not None:
            missing += max(0, num_tokens - kv.cells[seq.slot])
        elif placement.slots[seq.seq_id] in placement.adopted:
            missing += num_tokens - seq.num_computed_tokens
        elif claim is not None and claim.slot is None:
            missing += view.holdings.cells_to_fetch(claim, num_tokens)
        else:
            missing += num_tokens
    return missing
