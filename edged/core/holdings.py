"""What KV is kept besides that of running sequences: where it is, what it is worth, how it moves.

Theory of operation. Something kept is in a slot (a cached one, or that of the running sequence that
goes on with it) or in host memory, and the tree of beginnings finds it. What is worth least goes
first, where its value is

    prefill seconds saved · (1 + times used) / (seconds since it was last used + 60) / size

of the tokens that nothing else holds, in cells that are freed or bytes; what somebody claims goes
later, and what a preempted sequence owns is not given up, only moved. What has to leave its slot
moves to host memory, if that takes less time than computing it again and there is room, or what is
worth less makes it.

| what | unit |
|---|---|
| value | 1 / cell, or 1 / byte |
"""

from collections.abc import Iterable, Set
from itertools import count
from math import inf

from edged.core.budget import ANY, ByteBudget, Room, Worth
from edged.core.cost import StepCostModel
from edged.core.files import Files, FoundFile
from edged.core.kept import Kept
from edged.core.kv import KvBudget
from edged.core.plan import Pending, Restore, Save, StepPlan, StepResult
from edged.core.policy import SchedulerConfig
from edged.core.prefix import PrefixTree, Tokens
from edged.core.sequence import Sequence
from edged.core.types import FileId, KvAbilities, SlotId, SnapshotId

MIN_TOKENS = 16
"""Shorter beginnings are not worth a slot."""
RESTS_AFTER_S = 5.0
"""Idle seconds after which what is kept moves down."""
_FORGOTTEN_S = 60.0
"""Somebody who has used it once comes again after a while, as far as is known."""


class Holdings:
    """Mutable; owned by the scheduler. What returns sequences returns those that wait and lost what
    they claimed."""

    def __init__(
        self,
        kv: KvBudget,
        cost: StepCostModel,
        config: SchedulerConfig,
        pending: Pending,
        abilities: KvAbilities,
    ) -> None:
        """What it gives up or moves outside of a plan is added to `pending`."""
        self.kv = kv
        self.snapshots = ByteBudget(kv.geometry, config.max_snapshot_bytes, SnapshotId)
        self.files = Files(kv.geometry, config.max_disk_bytes, pending)
        self.tree: PrefixTree[Kept] = PrefixTree()
        self.by_slot: dict[SlotId, Kept] = {}
        self.by_snapshot: dict[SnapshotId, Kept] = {}
        self.cost = cost
        self._pending = pending
        self._is_found = config.caches_prefixes
        self._can_swap = abilities.can_swap
        self._can_trim = abilities.can_trim
        self._max_step_tokens = config.max_step_tokens
        self._numbers = count()
        self._busy_at_s = 0.0
        self.rests_at_s: float | None = None
        """When `rest` is to be called though nobody asks for anything."""

    # ── Coming and going ─────────────────────────────────────────────────────────────────────────

    def keep(self, slot: SlotId, space: str | None, tokens: Tokens, now_s: float) -> Kept:
        """A slot holds these tokens, and no fewer than before."""
        kept = self.by_slot.get(slot)
        if kept is None:
            kept = self.by_slot[slot] = Kept(next(self._numbers), space, tokens, now_s)
            kept.slot = slot
        else:
            if kept in self.tree:
                self.tree.remove(kept)
            self.files.remove(kept)
        kept.tokens, kept.last_used_s = tokens, now_s
        if self._is_found and len(tokens) >= MIN_TOKENS:
            self.tree.insert(kept.space, tokens, kept)
        return kept

    def move(self, kept: Kept, snapshot: SnapshotId) -> None:
        """From its slot, which is given back, to a snapshot."""
        slot = kept.slot
        assert slot is not None, "only what is in a slot moves to host memory"
        self.snapshots.hold(snapshot, self.snapshots.size_of(kept.num_tokens))
        del self.by_slot[slot]
        self.by_snapshot[snapshot] = kept
        kept.slot, kept.snapshot = None, snapshot
        self.kv.release(slot)

    def drop(self, slot: SlotId, snapshot: SnapshotId | None = None) -> list[Sequence]:
        """A plan has cleared a slot, and what it held has been saved, or not."""
        kept = self.by_slot.get(slot)
        if kept is not None and snapshot is not None:
            self.move(kept, snapshot)
            return []
        affected = [] if kept is None else self.forget(kept)
        self.kv.release(slot)
        return affected

    def forget(self, kept: Kept) -> list[Sequence]:
        """Nothing is known of it any more; its place is left as it is."""
        if kept in self.tree:
            self.tree.remove(kept)
        if kept.slot is not None:
            del self.by_slot[kept.slot]
        if kept.snapshot is not None:
            del self.by_snapshot[kept.snapshot]
        self.files.remove(kept)
        return list(kept.claimers)

    def give_up(self, kept: Kept) -> list[Sequence]:
        """It goes before the next step; of what no running sequence holds."""
        if kept.slot is not None:
            return self.give_up_slot(kept.slot)
        if kept.snapshot is None:
            return self.forget(kept)
        self.files.remove(kept)
        unsaved = next((one for one in self._pending.save if one.snapshot == kept.snapshot), None)
        if unsaved is None:
            self._pending.discard.append(kept.snapshot)
        else:
            self._pending.save.remove(unsaved)
        return self._discard(kept.snapshot)

    def give_up_slot(self, slot: SlotId) -> list[Sequence]:
        """A slot is cleared before the next step."""
        self._pending.clear.append(slot)
        return self.drop(slot)

    def leave_cells(self, kept: Kept, now_s: float) -> list[Sequence]:
        """Out of its slot before the next step, to host memory if it is worth that."""
        affected = self.move_down(kept, now_s)
        return self.give_up(kept) if affected is None else affected

    def move_down(self, kept: Kept, now_s: float) -> list[Sequence] | None:
        """To host memory before the next step; None: that is not worth it, and it stays."""
        slot, num_tokens = kept.slot, kept.num_tokens
        assert slot is not None, "only what is in a slot moves to host memory"
        room = self.room(now_s)
        is_worth_it = self.is_worth_moving(num_tokens, num_transfers=1)
        num_bytes = self.snapshots.size_of(num_tokens)
        if not (is_worth_it and room.take(num_bytes, self.worth_saved(kept, now_s))):
            return None
        affected: list[Sequence] = []
        for other in room.discarded:
            self._pending.discard.append(other)
            affected += self._discard(other)
        snapshot = self.snapshots.name()
        self._pending.save.append(Save(slot, snapshot))
        self._pending.clear.append(slot)
        self.move(kept, snapshot)
        return affected

    def discard(self, plan: StepPlan) -> list[Sequence]:
        """A plan has discarded snapshots."""
        return [seq for snapshot in plan.discard for seq in self._discard(snapshot)]

    def transfer(self, plan: StepPlan, result: StepResult) -> list[Sequence]:
        """A plan's snapshots were made, or could not be; those that could not be restored go."""
        affected: list[Sequence] = []
        for save in plan.save:
            if save.snapshot not in result.saved_bytes:
                affected += self._discard(save.snapshot)
            elif save.snapshot in self.by_snapshot:
                self.snapshots.correct(save.snapshot, result.saved_bytes[save.snapshot])
        for restore in plan.restore:
            if restore.seq_id in result.lost:
                kept = self._fetched(restore)
                affected += [] if kept is None else self.give_up(kept)
        return affected

    def _fetched(self, restore: Restore) -> Kept | None:
        if restore.snapshot is not None:
            return self.by_snapshot.get(restore.snapshot)
        return None if restore.file is None else self.files.by_file.get(restore.file)

    def _discard(self, snapshot: SnapshotId) -> list[Sequence]:
        """One that is not known is left alone; one that is on disk too stays there."""
        kept = self.by_snapshot.get(snapshot)
        if kept is None:
            return []
        self.snapshots.drop(snapshot)
        if kept.file is None:
            return self.forget(kept)
        del self.by_snapshot[snapshot]
        kept.snapshot = None
        return []

    # ── Disk ─────────────────────────────────────────────────────────────────────────────────────

    def find(self, files: Iterable[FoundFile], now_s: float) -> list[FileId]:
        """Files that an engine before this one wrote; returns their names, in order."""
        names: list[FileId] = []
        for found in files:
            kept = Kept(next(self._numbers), found.space, found.tokens, now_s)
            names.append(self.files.add(kept, found.num_bytes))
            if self._is_found and kept.num_tokens >= MIN_TOKENS:
                self.tree.insert(kept.space, kept.tokens, kept)
            else:
                self.files.remove(kept)
        room = self._room_on_disk(now_s)
        room.take(0, ANY)
        for file in room.discarded:
            self._lose_file(file, is_there=True)
        return names

    def rest(self, now_s: float, *, is_idle: bool) -> None:
        """Called before each step: when nothing has been asked for a while, what is kept goes
        down."""
        self.rests_at_s = None
        if not is_idle:
            self._busy_at_s = now_s
        elif now_s < self._busy_at_s + RESTS_AFTER_S:
            has_work = self.kv.cached or self.files.is_on
            self.rests_at_s = self._busy_at_s + RESTS_AFTER_S if has_work else None
        else:
            self.go_down(now_s)

    def go_down(self, now_s: float) -> None:
        """Nobody waits and nothing runs: what is cached moves to host memory, and some of what is
        there is written to disk, what is worth most first."""
        for kept in self.by_value(now_s):
            self.leave_cells(kept, now_s)
        if self.files.is_on:
            unsaved = {save.snapshot for save in self._pending.save}
            unwritten = [
                (self.worth(kept, now_s), kept.number, kept)
                for snapshot, kept in self.by_snapshot.items()
                if kept.file is None and snapshot not in unsaved and kept in self.tree
            ]
            by_value = ((worth, kept) for worth, _, kept in sorted(unwritten, reverse=True))
            for file in self.files.write(by_value, self._room_on_disk(now_s)):
                self._lose_file(file, is_there=True)

    def wrote(self, file: FileId, num_bytes: int | None) -> list[Sequence]:
        """A file is complete, or could not be written (None)."""
        if num_bytes is not None:
            self.files.written(file, num_bytes)
            return []
        return self._lose_file(file, is_there=False)

    def _lose_file(self, file: FileId, *, is_there: bool) -> list[Sequence]:
        kept = self.files.by_file.get(file)
        if kept is None:
            return []
        if is_there:
            self.files.remove(kept)
        else:
            self.files.drop(kept)
        return self.forget(kept) if kept.slot is None and kept.snapshot is None else []

    def _room_on_disk(self, now_s: float) -> Room[FileId]:
        files = list(self.files.by_file.items())
        return Room(
            self.files.budget, lambda: [(self.worth(kept, now_s), file) for file, kept in files]
        )

    # ── What is worth what ───────────────────────────────────────────────────────────────────────

    def by_value(self, now_s: float) -> list[Kept]:
        """What the cached slots hold, and what is worth least first."""
        cached = (self.by_slot[slot] for slot in self.kv.cached)
        return sorted(cached, key=lambda kept: self.worth(kept, now_s))

    def worth(self, kept: Kept, now_s: float) -> Worth:
        """Where it is."""
        if kept.slot is None:
            return self.worth_saved(kept, now_s)
        return self._worth(kept, self.kv.freed_by(kept.slot), now_s)

    def worth_saved(self, kept: Kept, now_s: float) -> Worth:
        """In host memory."""
        return self._worth(kept, self.snapshots.size_of(kept.num_tokens), now_s)

    def _worth(self, kept: Kept, size: int, now_s: float) -> Worth:
        # What others hold too is saved by them.
        num_alone = self.tree.num_alone(kept) if kept in self.tree else kept.num_tokens
        saved_s = self.cost.prefill_cost_s(kept.num_tokens - num_alone, num_alone)
        rate = (1 + kept.num_uses) / (now_s - kept.last_used_s + _FORGOTTEN_S)
        return kept.owner is not None, bool(kept.claimers), saved_s * rate / max(1, size)

    def room(self, now_s: float, needed: Set[SnapshotId] = frozenset()) -> Room[SnapshotId]:
        """What could be saved now, if all that is saved and has no owner may go for it, but for
        the snapshots `needed`."""

        def may_go() -> list[tuple[Worth, SnapshotId]]:
            stays = needed | {save.snapshot for save in self._pending.save}
            return [
                (self.worth(kept, now_s), snapshot)
                for snapshot, kept in self.by_snapshot.items()
                if kept.owner is None and snapshot not in stays
            ]

        return Room(self.snapshots, may_go)

    def is_worth_moving(self, num_tokens: int, *, num_transfers: int) -> bool:
        """Whether moving so many tokens so often takes less time than computing them again."""
        if not self._can_swap or not num_tokens:
            return False
        transfer_s = num_transfers * self.cost.transfer_s(self.snapshots.size_of(num_tokens))
        return transfer_s < self.cost.recompute_s(num_tokens, self._max_step_tokens)

    def cells_to_fetch(self, kept: Kept, num_tokens: int) -> int:
        """That a sequence of so many tokens needs when its slot is filled from what is saved."""
        parts = self.kv.geometry.restores_parts  # else it is restored whole, then cut
        return num_tokens if parts else max(num_tokens, kept.num_tokens)

    def fetch_s(self, kept: Kept, num_tokens: int) -> float:
        """Seconds that it takes to have the first tokens of it in another slot. What is saved is
        not to cost more cells than it spares, even for a moment."""
        if kept.slot is not None:
            num_bytes = 0 if self.kv.shares_cells else self.snapshots.size_of(num_tokens)
            return self.cost.transfer_s(num_bytes)
        if num_tokens < kept.num_tokens and not self._can_trim:
            return inf
        if self.cells_to_fetch(kept, num_tokens) > 2 * num_tokens:
            return inf
        num_bytes = self.snapshots.size_of(kept.num_tokens)
        read_s = self.cost.read_s(num_bytes) if kept.snapshot is None else 0.0
        return read_s + self.cost.transfer_s(num_bytes)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────────

    def is_running(self, kept: Kept) -> bool:
        return kept.slot is not None and not self.kv.is_cached(kept.slot)

    @property
    def saved(self) -> frozenset[SnapshotId]:
        """Snapshots that the engine holds until the next step."""
        unsaved = {save.snapshot for save in self._pending.save}
        return frozenset(self.by_snapshot.keys() - unsaved | set(self._pending.discard))

    @property
    def num_parked_cells(self) -> int:
        """Of slots that preempted sequences own; not those that they share with running ones."""
        parked = (self.by_slot[slot] for slot in self.kv.cached)
        num_cells = sum(kept.num_tokens for kept in parked if kept.owner is not None)
        return min(num_cells, self.kv.used_cells - self.kv.taken_cells)

    @property
    def owned_bytes(self) -> int:
        """Of snapshots that preempted sequences own."""
        held = self.snapshots.held
        return sum(held[key] for key, kept in self.by_snapshot.items() if kept.owner is not None)

    def check(self, running: list[Sequence]) -> None:
        """Assert that what is kept is where it is said to be, and claimed by those that claim."""
        self.tree.check()
        self.snapshots.check()
        self.files.check()
        slots = {seq.slot for seq in running}
        cached = set(self.kv.cached)
        assert len(cached) <= self.kv.geometry.num_cache_slots, "more is cached than there is room"
        assert cached <= set(self.by_slot) <= cached | slots, "other slots are known"
        assert set(self.by_snapshot) == set(self.snapshots.held), "I8: other snapshots are held"
        kept_all = {
            *self.by_slot.values(),
            *self.by_snapshot.values(),
            *self.files.by_file.values(),
        }
        assert len(self.tree) == sum(kept in self.tree for kept in kept_all), "a lost beginning"
        for kept in kept_all:
            assert kept.slot is None or kept.snapshot is None, "kept in two places"
            if kept.slot is not None:
                assert kept.num_tokens <= self.kv.cells[kept.slot], "I2: a slot holds less"
            assert kept.owner is None or kept.owner in kept.claimers, "owned, and not claimed"
            for seq in kept.claimers:
                assert seq.claim is kept, f"{seq.seq_id} claims something else"
                assert 0 < seq.num_computed_tokens <= kept.num_tokens, "a claim too long"
