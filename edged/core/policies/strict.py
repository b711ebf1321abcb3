"""Strict tiers: a more urgent tier goes first, always; within a tier, first come, first served.

A decode accepts steps up to most of its TPOT target, so less urgent work fills what is left of it.
A prefill of a tier with a TTFT target shares its step with nothing less urgent: everything else is
parked in place until the first token is out. Prefills of preemptible tiers are cut so short that a
more urgent request never waits long for the step it comes upon.
"""

from math import inf

from edged.core.policy import SchedulerConfig
from edged.core.sequence import Sequence
from edged.core.types import TIER_RANK, Rank

_TPOT_MARGIN = 0.9
"""Part of the TPOT target that a predicted step may take; the rest absorbs the model's error."""


class Strict:
    honours_shares = True

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config

    def rank(self, seq: Sequence) -> Rank:
        return Rank(TIER_RANK[seq.tier], seq.request.arrival_s)

    def may_preempt(self, urgent: Sequence, victim: Sequence) -> bool:
        return (
            self._config.tiers[victim.tier].preemptible
            and TIER_RANK[urgent.tier] < TIER_RANK[victim.tier]
        )

    def step_limit_s(self, seq: Sequence) -> float:
        if self._config.tiers[seq.tier].preemptible:
            return min(self._config.arrival_guard_s, self._config.max_step_s)
        return self._config.max_step_s

    def tolerated_step_s(self, seq: Sequence) -> float:
        service = seq.request.service
        if not seq.is_decoding:
            return inf if service.ttft_target_s is None else 0.0
        return inf if service.tpot_target_s is None else _TPOT_MARGIN * service.tpot_target_s
