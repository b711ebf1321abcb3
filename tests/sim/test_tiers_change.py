"""Tiers that change in the middle of a workload: every invariant holds, and no answer changes."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from backends.sim.faults import SeededFaults
from edged.core.policies import POLICIES
from edged.core.types import FinishReason, SloTier, TierSpec
from tests.factories import TIERS, config
from tests.sim.harness import Run, alone, simulate, workload

EVERY_STEPS = 4


class Changes:
    """Draws the tiers anew every few steps."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.num_changes = 0

    def __call__(self, step: int) -> Mapping[SloTier, TierSpec] | None:
        if step % EVERY_STEPS:
            return None
        self.num_changes += 1
        return {tier: self._drawn(spec) for tier, spec in TIERS.items()}

    def _drawn(self, spec: TierSpec) -> TierSpec:
        draw = self._draw
        return replace(
            spec,
            ttft_target_s=draw.choice((None, 0.05, 1.0, 5.0)),
            tpot_target_s=draw.choice((None, 0.02, 0.1)),
            max_waiting=draw.choice((1, 8, 1000)),
            max_waiting_per_client=draw.choice((1, 4, 1000)),
            max_queue_s=draw.choice((None, None, 0.5, 30.0)),
            preemptible=draw.random() < 0.5,
            min_share=draw.choice((0.0, 0.1, 0.3)),
        )


def run_with_changes(seed: int, policy: str) -> tuple[Run, Changes]:
    changes = Changes(seed)
    run = simulate(
        workload(seed, num_requests=30),
        faults=SeededFaults(seed, step_rate=0.02, lost_rate=0.2),
        scheduler_config=config(policy=policy, max_step_tokens=128),
        new_tiers=changes,
    )
    return run, changes


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(8))
def test_every_request_ends_once_and_with_its_own_answer(seed: int, policy: str) -> None:
    run, changes = run_with_changes(seed, policy)
    assert changes.num_changes > 10
    whole = run.finished(FinishReason.LENGTH)
    assert whole
    for life in whole:
        assert life.tokens == alone(replace(life.request, deadline_s=None)), "I6"


@pytest.mark.parametrize("policy", ["slo", "strict"])
def test_the_same_changes_give_the_same_trace(policy: str) -> None:
    assert run_with_changes(1, policy)[0].trace == run_with_changes(1, policy)[0].trace, "I10"


def test_the_changes_come_into_play() -> None:
    runs = [run_with_changes(seed, "slo")[0] for seed in range(8)]
    lives = [life for run in runs for life in run.lives.values()]
    reasons = {life.rejected.reason.value for life in lives if life.rejected is not None}
    ends = {life.finish.reason for life in lives if life.finish is not None}
    assert {"queue_full", "client_share"} <= reasons
    assert FinishReason.QUEUE_TIMEOUT in ends
