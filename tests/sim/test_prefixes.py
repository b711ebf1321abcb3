"""Requests that begin alike, through the real engine loop: no answer changes by what is kept."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from backends.sim.faults import SeededFaults
from edged.core.policies import POLICIES
from edged.core.types import FinishReason, PrefixSharing, Request
from tests.factories import config, request, tiers
from tests.sim.harness import Cancellation, Life, Run, alone, simulate, workload

OPEN = tiers(max_queue_s=None, max_waiting=1000, max_waiting_per_client=1000)


def alike(seed: int, requests: Iterable[Request]) -> list[Request]:
    """The same requests, but that most begin as a few do, or go on where one ended."""
    draw = random.Random(seed)
    beginnings = [tuple(draw.randrange(8, 250) for _ in range(100)) for _ in range(3)]
    made = []
    for one in requests:
        prompt = one.prompt_token_ids
        if draw.random() < 0.8:
            prompt = draw.choice(beginnings)[: draw.randint(10, 100)] + prompt[:50]
        if draw.random() < 0.3:
            beginnings.append(prompt)
        made.append(replace(one, prompt_token_ids=prompt))
    return made


@pytest.mark.parametrize("seed", range(120))
def test_what_is_kept_changes_no_answer_whatever_fails(seed: int) -> None:
    draw = random.Random(seed)
    requests = alike(seed, workload(seed))
    max_step_tokens = draw.choice((16, 64, 128))
    cancelled = draw.sample(requests, 3)
    num_slots = draw.choice((1, 2, 4, 8))
    is_unified = num_slots > 2 or draw.random() < 0.7
    run = simulate(
        requests,
        num_slots=num_slots,
        num_cells=draw.choice((216, 256, 400, 1024)),
        num_cached=draw.choice((1, 2, 8)),
        is_unified=is_unified,
        max_step_tokens=max_step_tokens,
        faults=SeededFaults(seed, step_rate=0.02, lost_rate=0.2, save_rate=0.1, restore_rate=0.1),
        cancellations=[
            Cancellation(one.arrival_s + draw.uniform(0, 1), one.request_id) for one in cancelled
        ],
        scheduler_config=config(
            policy=("slo", "strict", "slo", list(POLICIES)[seed // 4 % len(POLICIES)])[seed % 4],
            max_step_tokens=max_step_tokens,
            prefix_sharing=draw.choice(list(PrefixSharing)),
            max_snapshot_bytes=draw.choice((0, 1_000_000, 4_000_000, 2**30)),
        ),
    )
    for life in run.lives.values():
        if life.finish is not None and life.finish.reason is FinishReason.LENGTH:
            expected = alone(replace(life.request, deadline_s=None))
            if not is_unified:  # a slot of its own has less room, and ends answers earlier
                expected = expected[: len(life.tokens)]
            assert life.tokens == expected, f"I6: {life.request.request_id} changed its answer"
    assert run.finished(FinishReason.LENGTH)


def served(requests: list[Request], **setting: object) -> Run:
    wanted = {"num_slots": 8, "num_cells": 8192, "num_cached": 8, "max_step_tokens": 128} | setting
    config_of_all = config(
        policy=wanted.pop("policy", "slo"),
        tiers=OPEN,
        max_step_tokens=128,
        prefix_sharing=wanted.pop("sharing", PrefixSharing.CLIENT),
        max_snapshot_bytes=wanted.pop("max_snapshot_bytes", 2**30),
    )
    return simulate(requests, scheduler_config=config_of_all, **wanted)  # type: ignore[arg-type]  # sizes


def computed(run: Run) -> tuple[int, int]:
    """Tokens of prompts that were computed, and those that were found."""
    statistics = run.loop.statistics()
    return statistics.num_prompt_tokens, statistics.num_cached_tokens


def ttft_s(life: Life) -> float:
    assert life.finish is not None
    assert life.finish.timings.ttft_s is not None
    return life.finish.timings.ttft_s


SYSTEM = tuple(8 + i * 7 % 240 for i in range(1000))


def test_eight_that_begin_alike_cost_one_prefill_of_it() -> None:
    requests = [
        request(f"r{number}", prompt=(*SYSTEM, 300 - 200 + number, 9), max_tokens=20)
        for number in range(8)
    ]
    run = served(requests)
    assert computed(run) == (1000 + 2 * 8, 7 * 1000)
    assert len(run.finished(FinishReason.LENGTH)) == 8


def test_a_conversation_computes_what_is_new() -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    answer = next(iter(served([first]).lives.values())).tokens
    # The last token of an answer was drawn, not computed.
    assert len(answer) == 50
    history = (*SYSTEM, *answer)
    second = request("second", prompt=(*history, 9, 10, 11), max_tokens=5, arrival_s=100.0)
    run = served([first, second])
    assert computed(run) == (1000 + 4, len(history) - 1)
    first_s, second_s = (ttft_s(life) for life in run.lives.values())
    assert second_s < 0.15 * first_s


@pytest.mark.parametrize("sharing", PrefixSharing)
def test_what_a_client_asked_serves_another_only_if_they_share(sharing: PrefixSharing) -> None:
    requests = [
        request(f"of-{client}", prompt=SYSTEM, max_tokens=5, client=client, arrival_s=at_s)
        for client, at_s in (("alice", 0.0), ("bob", 100.0), ("alice", 200.0))
        if (client, at_s) != ("alice", 200.0)
    ]
    _, found = computed(served(requests, sharing=sharing))
    assert found == (999 if sharing is PrefixSharing.ALL else 0)


def test_what_is_cached_costs_those_that_run_nothing() -> None:
    """The same requests, none of which begins like another, take as long with it as without, if
    nobody is preempted and nothing is copied to host memory."""
    requests = workload(5, num_requests=60)
    alike: dict[str, object] = {"num_slots": 4, "max_snapshot_bytes": 0, "policy": "fcfs"}
    with_it = served(requests, num_cells=800, **alike)
    without = served(requests, num_cells=800, num_cached=0, **alike)
    assert not any(life.num_preempts for life in without.lives.values())
    assert with_it.loop.statistics().num_cached_cells > 0
    for name, life in with_it.lives.items():
        assert life.token_times_s == without.lives[name].token_times_s


def test_the_same_seed_gives_the_same_trace() -> None:
    requests = alike(3, workload(3))
    assert served(requests, num_cells=300).trace == served(requests, num_cells=300).trace
