"""The engine: executes the scheduler's plans on a backend, one step at a time. It has no thread.

Theory of operation: a step is `tick → plan → execute → commit`, and `run_once` is one step. The
worker drives it in the engine thread, the simulator on a manual clock; both run this code. Commands
come between steps, from the same thread.

A step that fails is not repeated as it was. Its chunks are run again one by one, so that one bad
sequence costs its neighbours nothing; a chunk that fails alone is lost, which the scheduler turns
into a recompute or, the second time, into an error for that request.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from edged.backend import Backend, KvSnapshot
from edged.clock import Clock
from edged.core.cost import step_shape
from edged.core.metrics import SchedulerStatistics
from edged.core.plan import Chunk, Restore, Save, Share, StepPlan, StepResult
from edged.core.policy import SchedulerConfig
from edged.core.scheduler import Scheduler
from edged.core.sequence import Sequence as SchedulerSequence
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishEvent,
    FinishReason,
    KvAbilities,
    PreemptMode,
    Rejected,
    Request,
    RequestId,
    SampledToken,
    SeqId,
    SlotId,
    SnapshotId,
    TierSpec,
)
from edged.engine.disk_tier import DiskReport, DiskTier, Found, Read, TurnedOff, Written
from edged.engine.kv_file import KvFileError
from edged.engine.snapshots import SnapshotStore
from edged.errors import BackendStepError, KvTransferError, StepInterruptedError

CALIBRATION_TOKENS = (1, 16, 64)
"""Chunk sizes that are timed at load; enough for a first line through the cost of a token."""

OnStep = Callable[[StepPlan], None]
"""Called before a plan is executed; `on_computed` after that, before it is committed."""


class EngineLoop:
    """Owned by one thread; so are the backend and the scheduler in it."""

    def __init__(
        self,
        backend: Backend,
        config: SchedulerConfig,
        clock: Clock,
        on_step: OnStep | None = None,
        *,
        on_computed: Callable[[], None] | None = None,
        disk: DiskTier | None = None,
    ) -> None:
        info = backend.info
        config = replace(config, can_interrupt=info.can_interrupt)
        self._backend = backend
        self._clock = clock
        self._on_step = on_step
        self._max_step_tokens = config.max_step_tokens
        self._on_computed = on_computed
        self._snapshots = SnapshotStore()
        self._disk = disk
        self._busy_since_s: float | None = None
        """When the last step ended, if nothing has been waited for since."""
        abilities = KvAbilities(info.can_swap, info.can_cut_snapshot, info.can_copy_prefix)
        self.scheduler = Scheduler(config, info.kv, info.eog_token_ids, abilities)

    # ── Commands ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: Request) -> Admitted | Rejected:
        return self.scheduler.submit(request, self._clock.now_s())

    def cancel(
        self, request_id: RequestId, reason: FinishReason, detail: str = ""
    ) -> FinishEvent | None:
        """End a request now; its KV is freed before the next step. None if it is unknown."""
        return self.scheduler.cancel(request_id, reason, self._clock.now_s(), detail)

    def set_tiers(self, tiers: Iterable[TierSpec]) -> None:
        """Other limits, shares and targets from now on, all of a tier."""
        self.scheduler.set_tiers({spec.tier: spec for spec in tiers})

    def take(self, report: DiskReport) -> None:
        """What became of files of saved KV."""
        assert self._disk is not None, "a report without a disk"
        now_s, holdings = self._clock.now_s(), self.scheduler.holdings
        match report:
            case Found(files):
                names = holdings.find([found for _, found in files], now_s)
                for name, (path, _) in zip(names, files, strict=True):
                    self._disk.add(name, path)
            case Written(file, num_bytes):
                self.scheduler.wrote(file, num_bytes, now_s)
                self._disk.written(file)
            case Read(file, kv, seconds):
                self._disk.keep_read(file, kv)
                holdings.files.end_reading(file)
                self.scheduler.cost.observe_read(0 if kv is None else len(kv[1]), seconds)
            case TurnedOff():
                holdings.files.turn_off()

    def put_away(self) -> bool:
        """Before the end, when nobody waits: save what is kept, as far as it can be now. Whether
        reports of the disk are to be taken and more is to be done then."""
        holdings = self.scheduler.holdings
        if not holdings.files.is_on or self.sequences():
            return False
        holdings.go_down(self._clock.now_s())
        while self.run_once() is not None:
            holdings.go_down(self._clock.now_s())
        return holdings.files.is_writing

    # ── The step ─────────────────────────────────────────────────────────────────────────────────

    def run_once(self) -> list[EngineEvent] | None:
        """One step. None: nothing was to be done, and nothing will be before a command comes or
        `next_wakeup_s` is reached."""
        events = self.scheduler.tick(self._clock.now_s())
        plan = self.scheduler.plan(self._clock.now_s())
        if plan is None:
            self._busy_since_s = None
            return events or None
        if self._on_step is not None:
            self._on_step(plan)
        result = self._execute(plan)
        if self._on_computed is not None:
            self._on_computed()
        events += self.scheduler.commit(plan, result, self._clock.now_s())
        return events

    def next_wakeup_s(self) -> float | None:
        """The clock's time at which `run_once` is to be called though no command came."""
        return self.scheduler.next_wakeup_s()

    def calibrate(self) -> None:
        """Time a few steps on an empty engine, and moving what they computed to host memory and
        back, so that the first prediction is not a guess.

        Takes about a hundred tokens' compute. A backend that fails here fails again in service,
        where the failure has an owner; so it is left alone.
        """
        vocab_size = self._backend.info.vocab_size
        most = min(self._backend.info.kv.max_cells_per_slot, self._max_step_tokens)
        slot = SlotId(0)
        for num_tokens in CALIBRATION_TOKENS:
            token_ids = tuple(i % vocab_size for i in range(min(num_tokens, most)))
            chunk = Chunk(SeqId(-1), slot, 0, token_ids, None)
            started_s = self._clock.now_s()
            try:
                self._backend.step((chunk,))
                seconds = self._clock.now_s() - started_s
                if self._backend.info.can_swap:
                    self._calibrate_transfer(slot)
            except (BackendStepError, KvTransferError):
                return
            finally:
                self._backend.clear(slot)
            self.scheduler.cost.observe(step_shape((chunk,)), seconds)

    def _calibrate_transfer(self, slot: SlotId) -> None:
        started_s = self._clock.now_s()
        snapshot = self._backend.save_kv(slot)
        self._backend.clear(slot)
        self._backend.restore_kv(slot, snapshot)
        seconds = self._clock.now_s() - started_s
        self.scheduler.cost.observe_transfer(2 * snapshot.num_bytes, seconds)

    def _execute(self, plan: StepPlan) -> StepResult:
        """Write, read, discard, save, clear, evict, share, drop, restore, unlink, compute: in this
        order slots and host memory that are freed are reused."""
        started_s = self._clock.now_s()
        overhead_s = 0.0 if self._busy_since_s is None else started_s - self._busy_since_s
        outcome = _Outcome()
        self._order_files(plan)
        for snapshot in plan.discard:
            self._snapshots.discard(snapshot)
        for save in plan.save:
            self._save(save, outcome)
        for slot in plan.clear:
            self._backend.clear(slot)
        for evict in plan.evict:
            if evict.mode is not PreemptMode.PARK:
                self._backend.clear(evict.slot)
        for share in plan.share:
            self._share(share, outcome)
        for slot in plan.drop:
            self._backend.clear(slot)
        for restore in plan.restore:
            self._restore(restore, outcome)
        if self._disk is not None:
            for file in plan.unlink:
                self._disk.unlink(file)
        computed_from_s = self._clock.now_s()
        chunks = plan.chunks
        if outcome.lost:
            chunks = tuple(chunk for chunk in chunks if chunk.seq_id not in outcome.lost)
        self._compute(chunks, outcome)
        finished_s = self._busy_since_s = self._clock.now_s()
        return StepResult(
            step=plan.step,
            sampled=outcome.sampled,
            saved_bytes=outcome.saved_bytes,
            lost=frozenset(outcome.lost),
            interrupted=frozenset(outcome.interrupted),
            started_s=started_s,
            finished_s=finished_s,
            compute_s=finished_s - computed_from_s,
            transfer_s=computed_from_s - started_s - outcome.read_s,
            transfer_bytes=outcome.transfer_bytes,
            read_s=outcome.read_s,
            read_bytes=outcome.read_bytes,
            detail=outcome.detail,
            overhead_s=overhead_s,
        )

    def _save(self, save: Save, outcome: "_Outcome") -> None:
        try:
            snapshot = self._backend.save_kv(save.slot)
        except KvTransferError:
            return  # the result tells it
        self._snapshots.put(save.snapshot, snapshot)
        outcome.saved_bytes[save.snapshot] = snapshot.num_bytes
        outcome.transfer_bytes += snapshot.num_bytes

    def _share(self, share: Share, outcome: "_Outcome") -> None:
        try:
            self._backend.copy_prefix(share.source, share.slot, share.num_tokens)
        except KvTransferError as error:
            outcome.lose(share.seq_id, error.detail)

    def _restore(self, restore: Restore, outcome: "_Outcome") -> None:
        try:
            snapshot = self._fetch(restore, outcome)
            self._backend.restore_kv(restore.slot, snapshot, restore.num_tokens)
        except KvTransferError as error:
            outcome.lose(restore.seq_id, error.detail)
            return
        outcome.transfer_bytes += snapshot.num_bytes

    def _fetch(self, restore: Restore, outcome: "_Outcome") -> KvSnapshot:
        """Raises KvTransferError: there is none."""
        if restore.snapshot is not None:
            snapshot = self._snapshots.get(restore.snapshot)
            if snapshot is None:  # it was to be saved in this step, and could not be
                raise KvTransferError(f"there is no snapshot {restore.snapshot}")
            return snapshot
        assert self._disk is not None, "a file without a disk"
        assert restore.file is not None, "restored from nowhere"
        is_read_now = not self._disk.has_read(restore.file)
        started_s = self._clock.now_s()
        try:
            found = self._disk.read(restore.file)
        except KvFileError as error:
            raise KvTransferError(f"a file of saved KV {error}") from error
        if isinstance(found, tuple):
            found = self._backend.load_snapshot(*found)
        if is_read_now:
            outcome.read_s += self._clock.now_s() - started_s
            outcome.read_bytes += found.num_bytes
        return found

    def _order_files(self, plan: StepPlan) -> None:
        """What the disk is to do in the background."""
        if self._disk is None:
            return
        for write in plan.write:
            snapshot = self._snapshots.get(write.snapshot)
            if snapshot is not None:
                self._disk.write(write, snapshot)
        for file in plan.read:
            self._disk.prefetch(file)

    def _compute(self, chunks: Sequence[Chunk], outcome: "_Outcome") -> None:
        if not chunks:
            return
        try:
            outcome.sampled.update(self._backend.step(chunks))
        except StepInterruptedError:
            outcome.interrupted.update(chunk.seq_id for chunk in chunks)
        except BackendStepError as error:
            for chunk in chunks:
                if chunk.slot in error.lost:
                    outcome.lose(chunk.seq_id, error.detail)
                elif len(chunks) == 1:
                    self._backend.clear(chunk.slot)
                    outcome.lose(chunk.seq_id, error.detail)
                else:
                    self._compute((chunk,), outcome)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────────

    def sequences(self) -> list[tuple[SchedulerSequence, int | None]]:
        return self.scheduler.sequences()

    def statistics(self) -> SchedulerStatistics:
        return self.scheduler.statistics()

    def check(self) -> None:
        """Assert what holds between steps; for tests and simulations."""
        self.scheduler.check()
        held, expected = self._snapshots.names, self.scheduler.holdings.saved
        assert held == expected, f"I8: snapshots {held} are held, {expected} expected"


@dataclass(slots=True)
class _Outcome:
    """What one step has done so far."""

    sampled: dict[SeqId, SampledToken] = field(default_factory=dict)
    saved_bytes: dict[SnapshotId, int] = field(default_factory=dict)
    lost: set[SeqId] = field(default_factory=set)
    interrupted: set[SeqId] = field(default_factory=set)
    transfer_bytes: int = 0
    read_s: float = 0.0
    read_bytes: int = 0
    detail: str = ""

    def lose(self, seq_id: SeqId, detail: str) -> None:
        self.lost.add(seq_id)
        self.detail = detail
