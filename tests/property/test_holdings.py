"""What is kept, where and for whom agrees with a plain engine that executes what it is told:
nothing is freed twice, nothing is lost, and no account holds what is not there."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from edged.core.cost import StepCostModel
from edged.core.files import FoundFile
from edged.core.holdings import Holdings
from edged.core.kept import Kept
from edged.core.kv import KvBudget
from edged.core.plan import Pending, StepPlan, StepResult
from edged.core.sequence import Sequence, SequenceState
from edged.core.types import FileId, KvAbilities, SeqId, SlotId, SnapshotId
from tests.factories import config, geometry, request

NUM_SLOTS, NUM_CACHE_SLOTS, NUM_CELLS = 4, 4, 600
BYTES_PER_CELL = 1024  # tests.factories.geometry
MAX_SNAPSHOT_BYTES = 400 * BYTES_PER_CELL
MAX_DISK_BYTES = 500 * BYTES_PER_CELL
MAX_SNAPSHOTS, MAX_FILES = 9, 8
NUM_OPERATIONS = 100_000


class Engine:
    """Executes what is pending; holds what there really is."""

    def __init__(self) -> None:
        self.slots: dict[SlotId, tuple[int, ...]] = {}
        self.snapshots: dict[SnapshotId, tuple[int, ...]] = {}
        self.files: dict[FileId, tuple[int, ...]] = {}
        self.writing: dict[FileId, tuple[int, ...]] = {}
        self.failed: set[FileId] = set()
        """Could not be written; an unlink may be under way."""

    def execute(self, pending: Pending, failing: Callable[[], bool]) -> dict[SnapshotId, int]:
        """In the order of a step; returns what was saved. Saves fail where `failing` says so."""
        for write in pending.write:
            self.writing[write.file] = self.snapshots[write.snapshot]
        for snapshot in pending.discard:
            del self.snapshots[snapshot]  # twice, or never made: KeyError
        saved: dict[SnapshotId, int] = {}
        for save in pending.save:
            assert save.snapshot not in self.snapshots
            if not failing():
                self.snapshots[save.snapshot] = self.slots[save.slot]
                saved[save.snapshot] = len(self.slots[save.slot]) * BYTES_PER_CELL
        for slot in pending.clear:
            del self.slots[slot]
        for file in pending.unlink:
            assert file in self.files or file in self.writing or file in self.failed
            self.failed.discard(file)
            self.files.pop(file, None)
            self.writing.pop(file, None)
        return saved


class Drive:
    """The scheduler's part, at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        sizes = replace(
            geometry(num_slots=NUM_SLOTS, num_cells=NUM_CELLS), num_cache_slots=NUM_CACHE_SLOTS
        )
        self.pending = Pending([], [], [], [], [])
        self.kv = KvBudget(sizes)
        settings = config(
            caches_prefixes=True,
            max_snapshot_bytes=MAX_SNAPSHOT_BYTES,
            max_disk_bytes=MAX_DISK_BYTES,
        )
        self.holdings = Holdings(*(self.kv, StepCostModel(), settings, self.pending), KvAbilities())
        self.holdings.snapshots.max_count = MAX_SNAPSHOTS
        self.holdings.files.budget.max_count = MAX_FILES
        self.engine = Engine()
        self.now_s = 0.0
        self.owners: dict[Sequence, Kept] = {}
        self.numbers = count()
        self.seen: set[str] = set()

    # ── Operations ───────────────────────────────────────────────────────────────────────────────

    def keep(self) -> bool:
        """A sequence ran, and its slot is cached."""
        self.step()  # what was to be cleared before it could get the slot
        num_tokens = self.draw.randint(1, 90)
        tokens = tuple(self.draw.randrange(3) for _ in range(num_tokens))
        if not self.kv.num_free_slots or num_tokens > self.kv.empty_cells:
            return False
        if len(self.kv.cached) == NUM_CACHE_SLOTS:
            return False
        slot = self.kv.empty_slots[-1]
        self.kv.take(slot, SeqId(next(self.numbers)))
        self.kv.reserve(slot, num_tokens)
        self.engine.slots[slot] = tokens
        self.kv.cache(slot, num_tokens)
        kept = self.holdings.keep(
            slot, self.draw.choice(("alice", "bob", None)), tokens, self.now_s
        )
        if self.draw.random() < 0.1:
            self.own(kept)
        elif num_tokens < 16:  # nobody finds it, nobody owns it
            self.holdings.give_up_slot(slot)
        return True

    def own(self, kept: Kept) -> None:
        """It is a preempted sequence's."""
        number = next(self.numbers)
        made = request(f"r{number}", prompt=(*kept.tokens, 1))
        seq = Sequence(SeqId(number), made, max_tokens=4, stop_token_ids=frozenset())
        seq.state = SequenceState.PREEMPTED
        seq.num_computed_tokens = kept.num_tokens
        seq.claim = kept.owner = None
        seq.claim, kept.owner = kept, seq
        kept.claimers[seq] = None
        self.owners[seq] = kept

    def disown(self) -> bool:
        """A preempted sequence ended."""
        if not self.owners:
            return False
        seq = self.draw.choice(list(self.owners))
        kept = self.owners.pop(seq)
        kept.claimers.pop(seq)
        seq.claim = kept.owner = None
        if kept not in self.holdings.tree:
            self.holdings.give_up(kept)
        return True

    def move_down(self) -> bool:
        kept = self._one(self._cached())
        if kept is None:
            return False
        affected = self.holdings.move_down(kept, self.now_s)
        self._lost(affected or [])
        return True

    def leave_cells(self) -> bool:
        kept = self._one(self._cached())
        if kept is None:
            return False
        self._lost(self.holdings.leave_cells(kept, self.now_s))
        return True

    def give_up(self) -> bool:
        free = [kept for kept in self._all() if kept.owner is None]
        kept = self._one(free)
        if kept is None:
            return False
        self._lost(self.holdings.give_up(kept))
        return True

    def use(self) -> bool:
        kept = self._one(self._all())
        if kept is None:
            return False
        kept.use(self.now_s)
        return True

    def go_down(self) -> bool:
        """Nothing runs and nobody waits."""
        if self.owners:
            return False
        self.holdings.go_down(self.now_s)
        return bool(self._all())

    def wrote(self) -> bool:
        """The disk is done with a file, or could not write it."""
        if not self.engine.writing:
            return False
        file = self.draw.choice(sorted(self.engine.writing))
        tokens = self.engine.writing.pop(file)
        if self.draw.random() < 0.8:
            self.engine.files[file] = tokens
            self.holdings.wrote(file, len(tokens) * BYTES_PER_CELL)
        else:
            self.engine.failed.add(file)
            self._lost(self.holdings.wrote(file, None))
        return True

    def find(self) -> bool:
        """Files of an engine before this one."""
        if self.draw.random() < 0.9:
            return False
        tokens = tuple(self.draw.randrange(3) for _ in range(self.draw.randint(1, 60)))
        found = FoundFile("alice", tokens, len(tokens) * BYTES_PER_CELL)
        # It is there before its name is known, and may be unlinked by the same call.
        name = self.holdings.files.budget.name()
        self.engine.files[name] = tokens
        assert self.holdings.find([found], self.now_s) == [name]
        return True

    def plan(self) -> bool:
        """A step drops a cached slot, and saves what it held, or not."""
        kept = self._one([one for one in self._cached() if one.owner is None])
        if kept is None or kept.slot is None:
            return False
        self.step()
        slot = kept.slot
        if slot is None or slot not in self.kv.cached:
            return False
        if self.draw.random() < 0.5:
            self._lost(self.holdings.drop(slot))
        else:
            num_bytes = self.holdings.snapshots.size_of(kept.num_tokens)
            budget = self.holdings.snapshots
            if num_bytes > budget.free_bytes or len(budget.held) == budget.max_count:
                return False
            snapshot = self.holdings.snapshots.name()
            self.engine.snapshots[snapshot] = self.engine.slots[slot]
            self._lost(self.holdings.drop(slot, snapshot))
        del self.engine.slots[slot]
        return True

    def step(self) -> bool:
        """What is pending is executed, and some of it fails."""
        saves = tuple(self.pending.save)
        saved = self.engine.execute(self.pending, lambda: self.draw.random() < 0.1)
        self.pending.empty()
        plan = StepPlan(0, (), (), (), (), (), save=saves)
        result = StepResult(0, {}, saved, frozenset(), frozenset(), 0.0, 0.0, 0.0)
        self._lost(self.holdings.transfer(plan, result))
        return True

    # ── Comparing ────────────────────────────────────────────────────────────────────────────────

    def obey(self) -> None:
        self.now_s += self.draw.random()
        operation = self.draw.choice(
            (
                *(self.keep, self.keep, self.keep, self.disown, self.move_down, self.leave_cells),
                *(self.give_up, self.use, self.go_down, self.wrote, self.find, self.plan),
                *(self.step, self.step),
            )
        )
        if operation():
            self.seen.add(operation.__name__)
        self.compare()

    def compare(self) -> None:
        holdings, engine, pending = self.holdings, self.engine, self.pending
        self.kv.check()
        holdings.check([])
        cleared = set(pending.clear)
        assert set(holdings.by_slot) == set(engine.slots) - cleared
        unsaved = {save.snapshot for save in pending.save}
        held = set(engine.snapshots) - set(pending.discard) | unsaved
        assert set(holdings.by_snapshot) == held
        unwritten = {write.file for write in pending.write}
        files = {*engine.files, *engine.writing, *unwritten} - set(pending.unlink)
        assert set(holdings.files.by_file) == files
        assert len(holdings.by_snapshot) <= MAX_SNAPSHOTS
        assert len(holdings.files.by_file) <= MAX_FILES
        assert 0 <= holdings.snapshots.used_bytes <= MAX_SNAPSHOT_BYTES
        assert 0 <= holdings.files.num_bytes <= MAX_DISK_BYTES
        for slot, kept in holdings.by_slot.items():
            assert kept.tokens == engine.slots[slot][: kept.num_tokens]
        for snapshot, kept in holdings.by_snapshot.items():
            assert snapshot in unsaved or kept.tokens == engine.snapshots[snapshot]
        for seq, kept in self.owners.items():
            assert seq.claim is kept
            assert kept in self._all(), "what somebody owns is gone"

    def _all(self) -> list[Kept]:
        holdings = self.holdings
        found = [*holdings.by_slot.values(), *holdings.by_snapshot.values()]
        found += holdings.files.by_file.values()
        return list(dict.fromkeys(found))

    def _cached(self) -> list[Kept]:
        return [self.holdings.by_slot[slot] for slot in self.kv.cached]

    def _one(self, some: list[Kept]) -> Kept | None:
        return self.draw.choice(some) if some else None

    def _lost(self, affected: list[Sequence]) -> None:
        """Those that lost what they had: only a failed save, or no room, takes it from an owner."""
        for seq in affected:
            kept = self.owners.pop(seq)
            kept.owner = None
            seq.claim = None


def test_what_is_kept_is_there_and_nothing_else() -> None:
    drive = Drive(seed=3)
    for _ in range(NUM_OPERATIONS):
        drive.obey()
    assert drive.seen == {
        *("keep", "disown", "move_down", "leave_cells", "give_up", "use", "go_down", "wrote"),
        *("find", "plan", "step"),
    }
