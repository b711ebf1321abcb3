"""Seeded workloads with faults through the real engine loop. A failure prints its seed."""

import random
from dataclasses import replace

import pytest

from backends.sim.faults import SeededFaults
from edged.core.policies import POLICIES
from edged.core.types import FinishReason, SloTier
from tests.factories import TIERS, config, request
from tests.sim.harness import Cancellation, alone, simulate, workload

SEEDS = range(200)
BASELINES = [name for name in POLICIES if name not in ("slo", "strict")]


def _setting(seed: int) -> dict[str, int]:
    draw = random.Random(seed * 31)
    return {
        "num_slots": draw.choice((1, 2, 4, 8)),
        "num_cells": draw.choice((216, 256, 400, 1024)),
        "max_step_tokens": draw.choice((16, 64, 128)),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_ends_once_and_whole_whatever_fails(seed: int) -> None:
    requests = workload(seed)
    draw = random.Random(seed)
    cancellations = [
        Cancellation(one.arrival_s + draw.uniform(0, 1), one.request_id)
        for one in draw.sample(requests, 3)
    ]
    faults = SeededFaults(seed, step_rate=0.02, lost_rate=0.2, save_rate=0.1, restore_rate=0.1)
    policy = ("slo", "strict", "slo", BASELINES[seed // 4 % len(BASELINES)])[seed % 4]
    setting = _setting(seed)
    run = simulate(
        requests,
        **setting,
        faults=faults,
        cancellations=cancellations,
        scheduler_config=config(policy=policy, max_step_tokens=setting["max_step_tokens"]),
    )
    for life in run.lives.values():
        if life.finish is not None and life.finish.reason is FinishReason.LENGTH:
            expected = alone(replace(life.request, deadline_s=None))
            assert life.tokens == expected, f"I6: {life.request.request_id} changed its answer"
    assert run.finished(FinishReason.LENGTH)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    first = simulate(workload(seed), faults=SeededFaults(seed, step_rate=0.05))
    second = simulate(workload(seed), faults=SeededFaults(seed, step_rate=0.05))
    assert first.trace == second.trace, "I10"
    assert first.finished_s == second.finished_s


def test_the_workloads_reach_every_mechanism() -> None:
    preempts, swaps, recomputes, parked, deadlines, losses, interrupted = (0,) * 7
    sizes: set[int] = set()
    for seed in range(20):
        run = simulate(
            workload(seed),
            **_setting(seed),
            faults=SeededFaults(seed, step_rate=0.02),
            scheduler_config=config(max_step_tokens=_setting(seed)["max_step_tokens"]),
        )
        statistics = run.loop.statistics()
        swaps += statistics.num_swaps
        recomputes += statistics.num_recomputes
        parked += run.num_parked
        interrupted += run.num_interrupted
        assert statistics.num_interrupted_steps <= run.num_interrupted
        sizes |= run.chunk_sizes
        preempts += sum(life.num_preempts for life in run.lives.values())
        deadlines += len(run.finished(FinishReason.DEADLINE))
        losses += len(run.finished(FinishReason.ERROR))
    assert min(preempts, swaps, recomputes, parked, deadlines, losses, interrupted) > 0
    assert len(sizes) > 10


def _longest_wait_for_batch(min_share: float, num_slots: int) -> float:
    """Longest time without a batch token while a flood of interactive work is served."""
    flood = [
        request(
            f"flood-{number}",
            tier=SloTier.INTERACTIVE,
            prompt=20,
            max_tokens=20,
            arrival_s=0.01 + number * 0.02,
        )
        for number in range(600)
    ]
    lowly = [
        request(f"batch-{number}", tier=SloTier.BATCH, prompt=100, max_tokens=100)
        for number in range(40)
    ]
    unlimited = {
        tier: replace(
            spec,
            max_queue_s=None,
            max_waiting=10_000,
            max_waiting_per_client=10_000,
            min_share=min_share if tier is SloTier.BATCH else 0.0,
        )
        for tier, spec in TIERS.items()
    }
    setting = config(tiers=unlimited, max_step_tokens=128, share_quantum_s=0.1)
    run = simulate([*lowly, *flood], num_slots=num_slots, scheduler_config=setting)
    end_s = max(life.token_times_s[-1] for key, life in run.lives.items() if "flood" in key)
    served = [life for key, life in run.lives.items() if "batch" in key]
    times = sorted(at_s for life in served for at_s in life.token_times_s if at_s < end_s)
    return max(b - a for a, b in zip([0.0, *times], [*times, end_s], strict=True))


@pytest.mark.parametrize("num_slots", [1, 2, 4])
def test_a_tier_with_a_share_gets_a_token_within_its_bound(num_slots: int) -> None:
    """I9: quantum / min_share = 1 s, plus the wait for a slot, which an interactive answer of 20
    tokens holds for at most 0.5 s here, plus the prefill of 100 tokens in shared steps."""
    assert _longest_wait_for_batch(0.1, num_slots) <= 1.0 + 0.5 + 0.5


@pytest.mark.parametrize("num_slots", [1, 2])
def test_without_its_share_a_tier_starves_in_a_flood(num_slots: int) -> None:
    assert _longest_wait_for_batch(0.0, num_slots) > 5.0
