"""Decode-heavy overload at a quarter of the KV that it wants: answers outgrow the cells all the
time, and it costs next to nothing."""

import random

import pytest

from backends.sim.backend import SimModel
from backends.sim.profile import StepProfile
from edged.core.types import FinishReason, Request, SloTier
from tests.factories import config, request, tiers
from tests.sim.harness import Run, simulate

NUM_SLOTS, NUM_REQUESTS = 16, 48
NUM_CELLS = NUM_SLOTS * 350 // 4
"""350 tokens is a request at its end, on the average."""
PROFILE = StepProfile(
    step_s=0.012, prefill_token_s=1e-4, decode_token_s=2e-4, cell_s=1e-7, swap_byte_s=1e-10
)
ALL_THAT_MAY_COME = 10**6


def overload(seed: int) -> list[Request]:
    draw = random.Random(seed)
    return [
        request(
            f"r{number}",
            tier=SloTier.BATCH,
            prompt=draw.randint(20, 80),
            max_tokens=draw.randint(100, 500),
        )
        for number in range(NUM_REQUESTS)
    ]


def served(requests: list[Request], policy: str, *, idle_cells_cost: bool, **changes: int) -> Run:
    """Every step is held to the invariants: cells in use are leased, and leased cells exist."""
    run = simulate(
        requests,
        num_slots=NUM_SLOTS,
        num_cells=NUM_CELLS,
        num_cached=NUM_SLOTS,
        profile=PROFILE,
        model=SimModel(idle_cells_cost=idle_cells_cost),
        scheduler_config=config(
            policy=policy,
            tiers=tiers(max_waiting=NUM_REQUESTS, max_waiting_per_client=NUM_REQUESTS),
            max_step_tokens=128,
            **changes,
        ),
    )
    assert len(run.finished(FinishReason.LENGTH)) == len(requests), "nobody is lost"
    assert all(life.finish and not life.finish.detail for life in run.lives.values())
    return run


def tokens_per_s(run: Run) -> float:
    return sum(len(life.tokens) for life in run.lives.values()) / run.finished_s


@pytest.mark.parametrize("idle_cells_cost", [False, True], ids=["parks", "swaps"])
@pytest.mark.parametrize("seed", range(3))
def test_growth_beyond_the_cells_costs_next_to_nothing(seed: int, idle_cells_cost: bool) -> None:
    requests = overload(seed)
    careful = served(
        requests, "fcfs", idle_cells_cost=idle_cells_cost, horizon_tokens=ALL_THAT_MAY_COME
    )
    assert sum(life.num_preempts for life in careful.lives.values()) == 0
    run = served(requests, "slo", idle_cells_cost=idle_cells_cost)
    statistics = run.loop.statistics()
    assert statistics.num_swaps > 0
    assert statistics.num_recomputes == 0
    # Nobody who waits for all that may come is preempted, but far fewer run together.
    assert tokens_per_s(run) >= 1.2 * tokens_per_s(careful)


def test_a_nearer_horizon_preempts_more() -> None:
    def num_preemptions(horizon_tokens: int) -> int:
        run = served(overload(1), "slo", idle_cells_cost=True, horizon_tokens=horizon_tokens)
        return sum(life.num_preempts for life in run.lives.values())

    assert num_preemptions(1) > 1.5 * num_preemptions(32) > 1.5 * num_preemptions(128)


def test_leases_change_no_answer_and_no_time() -> None:
    """What is not used of them is anybody's."""
    runs = [
        served(overload(2), "slo", idle_cells_cost=True, lease_tokens=lease_tokens)
        for lease_tokens in (1, 128, 10**6)
    ]
    assert len({run.finished_s for run in runs}) == 1


def test_swapped_answers_are_those_of_requests_that_are_alone() -> None:
    requests = overload(4)[:6]
    together = simulate(
        requests,
        num_slots=NUM_SLOTS,
        num_cells=600,
        profile=PROFILE,
        model=SimModel(idle_cells_cost=True),
        scheduler_config=config(policy="slo", horizon_tokens=1, max_step_tokens=128),
    )
    assert together.loop.statistics().num_swaps > 0
    for one in requests:
        alone = simulate([one], num_cells=600, profile=PROFILE)
        assert together.lives[one.request_id].tokens == alone.lives[one.request_id].tokens
