"""Strict tiers: a more urgent tier goes first, always; within a tier, first come, first served.

Less urgent work fills the steps of a decode up to a part of its TPOT target. So the answer gets
ahead of its promise, and what it is ahead is for the prefills of its equals: a chat that comes
upon another one gets its first token at once, and the other a pause that its TPOT makes up for. A
prefill of a tier with a TTFT target shares its step with nothing behind it: everything else is
parked in place until the first token is out. Whoever is more urgent than all of a step cuts it
short. Where the backend cannot do that, a more urgent request still never waits long for the step
it comes upon, because prefills of preemptible tiers are cut into short ones.
"""

from collections.abc import Mapping
from dataclasses import replace

from edged.core.cost import StepCostModel
from edged.core.plan import YIELDS_TO_NOBODY
from edged.core.policies.answers import pace_tolerance, preemptible_bounds, tiers_before
from edged.core.policy import Place, PrefillBounds, SchedulerConfig, Tolerance, WithoutBooks
from edged.core.sequence import Sequence
from edged.core.types import TIER_RANK, Rank, SloTier, TierSpec


class Strict(WithoutBooks):
    honours_shares = True

    def __init__(self, config: SchedulerConfig, cost: StepCostModel) -> None:
        self._config = config
        self._more_urgent = {tier: tiers_before(TIER_RANK[tier]) for tier in SloTier}
        self._as_urgent = {tier: tiers_before(TIER_RANK[tier] + 1) for tier in SloTier}

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        self._config = replace(self._config, tiers=tiers)

    def place(self, seq: Sequence, now_s: float) -> Place:
        return Place(Rank(TIER_RANK[seq.tier], 0, seq.request.arrival_s))

    def is_in_line(self, seq: Sequence) -> bool:
        """More urgent tiers pass the others as often as they come: but for their shares."""
        return TIER_RANK[seq.tier] == 0 or self._config.tiers[seq.tier].min_share > 0

    def may_preempt(self, urgent: Sequence, victim: Sequence, now_s: float) -> bool:
        return (
            self._config.tiers[victim.tier].preemptible
            and TIER_RANK[urgent.tier] < TIER_RANK[victim.tier]
        )

    def prefill_bounds(self, seq: Sequence) -> PrefillBounds:
        if self._config.tiers[seq.tier].preemptible:
            return preemptible_bounds(self._config)
        return PrefillBounds(self._config.max_step_s)

    def tolerance(self, seq: Sequence, now_s: float) -> Tolerance:
        if seq.is_decoding:
            return pace_tolerance(seq, now_s)
        return Tolerance() if seq.request.service.ttft_target_s is None else Tolerance(0.0, 0.0)

    def yields_to(self, head: Sequence, spare_s: float) -> Mapping[SloTier, float]:
        if self._config.tiers[head.tier].preemptible:
            return self._more_urgent[head.tier]
        return self._as_urgent[head.tier] if spare_s > 0 else YIELDS_TO_NOBODY
