"""What tiered policies have in common: how long a step answers bear, how long a prompt that may be
interrupted makes it, and who may cut it short."""

from collections.abc import Mapping

from edged.core.policy import TOLERATES_ALL, PrefillBounds, SchedulerConfig, Tolerance
from edged.core.sequence import Sequence
from edged.core.types import TIER_RANK, SloTier

FOR_EQUALS = 0.9
"""Part of the TPOT target that equals may use up; the rest absorbs the cost model's error."""
_FOR_OTHERS = 0.7
"""Part of the TPOT target that steps with less urgent work may take."""
_ADVANCE_TOKENS = 4
"""Tokens' time that equals may use up before an answer has got ahead by as much."""
_LEAST_PART_PREEMPTIBLE = 0.25
"""A prompt that nobody is in a hurry for makes the steps of a slow machine little longer."""
_AT_STAKE_S = 0.25
"""Longest step for a prompt that an arrival may cut short: long chunks are cheaper to compute and
dearer to lose."""
_WORTH_WAITING = 0.01
"""Part of the TTFT target that an arrival waits for a step rather than throw its work away."""


def pace_tolerance(seq: Sequence, now_s: float) -> Tolerance:
    """Of an answer in progress: its TPOT target, and for equals what it is ahead of it. Less urgent
    work fills a part of the target only, so that answers get ahead, and what they are ahead is for
    the prefills of their equals."""
    tpot_target_s = seq.tpot_target_s
    if tpot_target_s is None:
        return TOLERATES_ALL
    step_s = FOR_EQUALS * tpot_target_s
    for_equals_s = step_s
    if seq.first_token_s is not None:
        num_tokens = len(seq.token_ids) - seq.num_prompt_tokens
        ahead_s = seq.first_token_s + (num_tokens + _ADVANCE_TOKENS) * step_s - now_s
        if ahead_s > step_s:
            for_equals_s = ahead_s
    return Tolerance(for_equals_s, _FOR_OTHERS * tpot_target_s)


def preemptible_bounds(config: SchedulerConfig) -> PrefillBounds:
    """Of a prompt that may have to give way at any moment."""
    guard_s = _AT_STAKE_S if config.can_interrupt else config.arrival_guard_s
    return PrefillBounds(min(guard_s, config.max_step_s), _LEAST_PART_PREEMPTIBLE)


def tiers_before(rank: int) -> Mapping[SloTier, float]:
    """`StepPlan.yields_to` of a step that yields to all tiers of a smaller rank."""
    return {tier: _WORTH_WAITING for tier in SloTier if TIER_RANK[tier] < rank}
