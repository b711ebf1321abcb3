"""The scheduler's books: what steps cost, whom they served, and how often things happened."""

from collections import Counter
from collections.abc import Mapping, Sequence

from edged.core.cost import StepCostModel, step_shape
from edged.core.holdings import Holdings
from edged.core.metrics import SchedulerStatistics, TierCounts
from edged.core.plan import Chunk, StepPlan, StepResult
from edged.core.policy import SchedulerConfig
from edged.core.queue import WaitingQueue
from edged.core.sequence import Sequence as SchedulerSequence
from edged.core.shares import TierShares
from edged.core.types import FinishEvent, PreemptMode, SloTier

_LEARN_EVERY = 16
"""Steps that the cost model learns together, once it knows a few. While the model ran, the
processor's caches have forgotten what bookkeeping touches, and learning touches the most of it."""
_LEARN_EACH = 64
"""Steps that it learns one by one, at first."""


class TierAccount:
    """What one tier got since the scheduler was made; its owner adds to it."""

    __slots__ = (
        "num_broken",
        "num_finished",
        "num_generated_tokens",
        "num_promised",
        "num_relegated",
        "served_tokens",
    )

    def __init__(self) -> None:
        self.num_finished = 0
        self.num_generated_tokens = 0
        self.num_promised = 0
        self.num_broken = 0
        self.num_relegated = 0
        self.served_tokens = 0
        """Computed in the step that is being committed."""


class Accounts:
    """Counters are since the scheduler was made. Mutable; written by the scheduler only."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.cost = StepCostModel()
        self.shares = TierShares(config.tiers.values(), config.share_quantum_s)
        self.preemptions: Counter[PreemptMode] = Counter()
        self.num_interrupted_steps = 0
        self.num_prompt_tokens = 0
        """Of prompts, computed."""
        self.num_cached_tokens = 0
        """Of prompts, found computed."""
        self.tiers = {tier: TierAccount() for tier in config.tiers}
        self._measured: list[tuple[Sequence[Chunk], float]] = []
        """Steps that the cost model has not learned yet."""

    @property
    def num_generated_tokens(self) -> int:
        return sum(account.num_generated_tokens for account in self.tiers.values())

    def close_step(
        self,
        plan: StepPlan,
        result: StepResult,
        running: Sequence[SchedulerSequence],
        queue: WaitingQueue,
    ) -> None:
        """Charge the step's seconds to the tiers by their tokens, and learn what it cost."""
        served = {}
        for tier, account in self.tiers.items():
            if account.served_tokens:
                served[tier] = account.served_tokens
                account.served_tokens = 0
        elapsed_s = result.finished_s - result.started_s
        self.shares.account(elapsed_s, served, running, queue)
        if result.transfer_bytes:
            self.cost.observe_transfer(result.transfer_bytes, result.transfer_s)
        if result.read_bytes:
            self.cost.observe_read(result.read_bytes, result.read_s)
        self.num_interrupted_steps += bool(result.interrupted)
        if plan.chunks and not (result.lost or result.interrupted):
            self._measured.append((plan.chunks, result.compute_s + result.overhead_s))
            if len(self._measured) >= _LEARN_EVERY or self.cost.num_observations < _LEARN_EACH:
                for chunks, seconds in self._measured:
                    self.cost.observe(step_shape(chunks), seconds)
                self._measured.clear()

    def close(self, tier: SloTier, event: FinishEvent) -> None:
        """A request has ended."""
        account = self.tiers[tier]
        account.num_finished += 1
        outcome = event.outcome
        if outcome is not None and outcome.promised and not outcome.held:
            account.num_broken += 1

    def statistics(
        self,
        num_steps: int,
        num_turns: int,
        holdings: Holdings,
        tiers: Mapping[SloTier, TierCounts],
    ) -> SchedulerStatistics:
        kv, snapshots = holdings.kv, holdings.snapshots
        num_parked_cells = holdings.num_parked_cells
        return SchedulerStatistics(
            num_steps=num_steps,
            num_interrupted_steps=self.num_interrupted_steps,
            num_parks=self.preemptions[PreemptMode.PARK],
            num_swaps=self.preemptions[PreemptMode.SWAP],
            num_recomputes=self.preemptions[PreemptMode.RECOMPUTE],
            num_turns=num_turns,
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_generated_tokens=self.num_generated_tokens,
            num_used_slots=kv.num_used_slots,
            num_used_cells=kv.taken_cells,
            num_parked_cells=num_parked_cells,
            num_cached_cells=kv.used_cells - kv.taken_cells - num_parked_cells,
            swapped_bytes=holdings.owned_bytes,
            cached_bytes=snapshots.used_bytes - holdings.owned_bytes,
            disk_bytes=holdings.files.num_bytes,
            cost_model_error=self.cost.median_error,
            step_costs=self.cost.costs,
            tiers=tiers,
        )

    def counts(
        self, running: Sequence[SchedulerSequence], queue: WaitingQueue
    ) -> dict[SloTier, TierCounts]:
        num_running = Counter(seq.tier for seq in running)
        counts = {}
        for tier, account in self.tiers.items():
            num_waiting, num_preempted = queue.counts(tier)
            counts[tier] = TierCounts(
                num_waiting,
                num_running[tier],
                num_preempted,
                account.num_finished,
                account.num_generated_tokens,
                account.num_promised,
                account.num_broken,
                account.num_relegated,
            )
        return counts
