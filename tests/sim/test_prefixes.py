"""Requests that begin alike, through the real engine loop: no answer changes by what is kept."""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.sim.backend import SimModel
from backends.sim.faults import SeededFaults
from edged.core.files import MAX_READ_S
from edged.core.policies import POLICIES
from edged.core.types import ClientId, FinishReason, PrefixSharing, Request, SloTier
from tests.factories import config, request, tiers
from tests.sim.disk import Disk, SlowDisk
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
        model=SimModel(idle_cells_cost=draw.random() < 0.5),
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


@pytest.mark.parametrize("seed", range(30))
def test_what_was_written_changes_no_answer_whatever_becomes_of_it(
    seed: int, tmp_path: Path
) -> None:
    """Three engines one after the other, with pauses in which KV goes to disk; some of the files
    are damaged meanwhile."""
    draw = random.Random(seed)
    setting = config(
        policy="slo",
        tiers=OPEN,
        max_step_tokens=64,
        max_snapshot_bytes=draw.choice((1_000_000, 4_000_000, 2**30)),
        max_disk_bytes=draw.choice((2_000_000, 2**30)),
        prefix_sharing=PrefixSharing.ALL,
    )
    num_cached_tokens = 0
    requests = alike(seed, workload(seed, num_requests=30))
    for begin in range(0, 30, 10):
        served_now = [
            replace(one, arrival_s=one.arrival_s + 8.0 * (number // 4), deadline_s=None)
            for number, one in enumerate(requests[begin : begin + 10])
        ]
        run = simulate(
            served_now,
            num_cached=draw.choice((1, 4)),
            is_unified=draw.random() < 0.7,
            model=SimModel(idle_cells_cost=draw.random() < 0.5),
            num_slots=2,
            num_cells=512,
            max_step_tokens=64,
            faults=SeededFaults(seed, step_rate=0.01, save_rate=0.1, restore_rate=0.1),
            scheduler_config=setting,
            disk=SlowDisk(tmp_path, draw.choice((0, 1, 5, 40))),
        )
        for life in run.finished(FinishReason.LENGTH):
            assert life.tokens == alone(life.request)[: len(life.tokens)]
        files = sorted(tmp_path.rglob("*.kv"))
        assert sum(path.stat().st_size for path in files) <= setting.max_disk_bytes
        for path in draw.sample(files, len(files) // 4):
            damage(path, draw)
        num_cached_tokens += computed(run)[1]
    assert num_cached_tokens > 0


def damage(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1
    path.write_bytes(content[: draw.choice((len(content), len(content) // 2))])


def served(requests: list[Request], **setting: object) -> Run:
    wanted = {"num_slots": 8, "num_cells": 8192, "num_cached": 8, "max_step_tokens": 128} | setting
    config_of_all = config(
        policy=wanted.pop("policy", "slo"),
        tiers=OPEN,
        max_step_tokens=128,
        prefix_sharing=wanted.pop("sharing", PrefixSharing.CLIENT),
        max_snapshot_bytes=wanted.pop("max_snapshot_bytes", 2**30),
        max_disk_bytes=2**30 if "disk" in wanted else 0,
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


def eight_alike() -> list[Request]:
    return [
        request(f"r{number}", prompt=(*SYSTEM, 100 + number, 9), max_tokens=20)
        for number in range(8)
    ]


@pytest.mark.parametrize("is_unified", [True, False], ids=["shared", "copied"])
def test_eight_that_begin_alike_cost_one_prefill_of_it(*, is_unified: bool) -> None:
    run = served(eight_alike(), is_unified=is_unified)
    assert computed(run) == (1000 + 2 * 8, 7 * 1000)
    assert len(run.finished(FinishReason.LENGTH)) == 8


@pytest.mark.parametrize("is_unified", [True, False], ids=["shared", "copied"])
def test_who_comes_while_another_answers_finds_what_that_one_computed(*, is_unified: bool) -> None:
    requests = [
        request("first", prompt=(*SYSTEM, 9), max_tokens=100),
        request("second", prompt=(*SYSTEM, 8), max_tokens=20, arrival_s=0.6),
    ]
    run = served(requests, num_slots=4, is_unified=is_unified)
    first, second = run.lives.values()
    assert first.token_times_s[0] < 0.6 < second.token_times_s[0] < first.token_times_s[-1]
    assert computed(run) == (1000 + 2, 1000)
    assert len(run.finished(FinishReason.LENGTH)) == 2


def test_who_is_due_earlier_waits_for_what_is_under_way() -> None:
    requests = [
        request("first", prompt=(*SYSTEM, 9), max_tokens=2, ttft_target_s=10.0),
        request("hurried", prompt=(*SYSTEM, 8), max_tokens=2, arrival_s=0.15, ttft_target_s=1.0),
    ]
    run = served(requests, policy="edf")
    assert computed(run) == (1000 + 2, 1000)


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


def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    run = served([first], disk=Disk(tmp_path))
    [life] = run.lives.values()
    history = (*SYSTEM, *life.tokens)
    second = request("second", prompt=(*history, 9, 10, 11), max_tokens=5)
    again = served([second], disk=Disk(tmp_path))
    assert computed(again) == (4, len(history) - 1)
    assert ttft_s(again.lives[second.request_id]) < 0.3 * ttft_s(life)
    other = served([replace(second, client_id=ClientId("bob"))], disk=Disk(tmp_path))
    assert computed(other) == (len(history) + 3, 0)


def test_who_waits_for_the_disk_holds_nobody_up(tmp_path: Path) -> None:
    """A file is read while an answer that runs goes on; its KV is used when it is there."""
    first = request("first", prompt=SYSTEM, max_tokens=50)
    [life] = served([first], disk=Disk(tmp_path)).lives.values()
    prompt = (*SYSTEM, *life.tokens, 9, 10, 11)
    busy = request("busy", prompt=40, max_tokens=100, tier=SloTier.BATCH)
    second = request("second", prompt=prompt, max_tokens=5, arrival_s=0.2)
    disk = SlowDisk(tmp_path, num_steps=20)
    run = served([busy, second], disk=disk)
    assert disk.num_read == 1
    assert computed(run) == (40 + 4, len(prompt) - 4)
    chat, batch = run.lives[second.request_id], run.lives[busy.request_id]
    arrived_s, came_s = chat.request.arrival_s, chat.token_times_s[0]
    assert sum(arrived_s < at_s < came_s for at_s in batch.token_times_s) >= 20


def test_who_waits_for_a_disk_that_hangs_computes_what_is_on_it(tmp_path: Path) -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    [life] = served([first], disk=Disk(tmp_path)).lives.values()
    prompt = (*SYSTEM, *life.tokens, 9, 10, 11)
    busy = request("busy", prompt=40, max_tokens=1000, tier=SloTier.BATCH)
    second = request("second", prompt=prompt, max_tokens=5, arrival_s=0.2)
    disk = SlowDisk(tmp_path, num_steps=1500)
    run = served([busy, second], disk=disk)
    assert disk.num_read == 1
    assert computed(run) == (40 + len(prompt), 0)
    assert MAX_READ_S < ttft_s(run.lives[second.request_id]) < MAX_READ_S + 1.0


def test_who_is_alone_does_not_wait_for_a_thread(tmp_path: Path) -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    [life] = served([first], disk=Disk(tmp_path)).lives.values()
    disk = SlowDisk(tmp_path, num_steps=20)
    run = served([request("second", prompt=(*SYSTEM, *life.tokens, 9), max_tokens=5)], disk=disk)
    assert disk.num_read == 0
    assert computed(run)[1] > 1000


def test_who_leaves_while_a_file_is_read_leaves_nothing(tmp_path: Path) -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    served([first], disk=Disk(tmp_path))
    busy = request("busy", prompt=40, max_tokens=100, tier=SloTier.BATCH)
    second = request("second", prompt=(*SYSTEM, 9), max_tokens=5, arrival_s=0.2)
    left = Cancellation(0.25, second.request_id)
    disk = SlowDisk(tmp_path, num_steps=20)
    run = served([busy, second], disk=disk, cancellations=[left])
    assert disk.num_read == 1
    assert not run.lives[second.request_id].tokens
    assert len(run.finished(FinishReason.LENGTH)) == 1


def test_what_is_not_used_leaves_its_cells(tmp_path: Path) -> None:
    """Some seconds after the last request what is cached is in host memory and on disk."""
    far = request("late", prompt=(7, 8, 9), max_tokens=2, arrival_s=60.0)
    run = served([request("first", prompt=SYSTEM, max_tokens=50), far], disk=Disk(tmp_path))
    statistics = run.loop.statistics()
    assert statistics.cached_bytes > 1000 * 1000
    assert 0 < statistics.disk_bytes == sum(one.stat().st_size for one in tmp_path.rglob("*.kv"))
    assert statistics.num_cached_cells == 0


@pytest.mark.parametrize("idle_cells_cost", [False, True])
def test_a_preempted_answer_is_parked_or_where_cells_cost_swapped(*, idle_cells_cost: bool) -> None:
    requests = [
        request("long", tier=SloTier.BATCH, prompt=300, max_tokens=200),
        request("urgent", tier=SloTier.INTERACTIVE, prompt=20, max_tokens=5, arrival_s=0.5),
    ]
    run = served(requests, num_slots=1, model=SimModel(idle_cells_cost=idle_cells_cost))
    statistics = run.loop.statistics()
    assert (statistics.num_parks, statistics.num_swaps) == (not idle_cells_cost, idle_cells_cost)
    assert statistics.num_prompt_tokens == 320, "nothing was computed twice"
    assert statistics.num_cached_cells == (0 if idle_cells_cost else 300 + 199 + 20 + 4)


def test_a_parked_answer_that_loses_its_cells_is_swapped_then() -> None:
    requests = [
        request("long", tier=SloTier.BATCH, prompt=300, max_tokens=200),
        request("urgent", tier=SloTier.INTERACTIVE, prompt=20, max_tokens=200, arrival_s=0.5),
        request("big", tier=SloTier.INTERACTIVE, prompt=600, max_tokens=5, arrival_s=0.6),
    ]
    run = served(requests, num_slots=2, num_cells=1000)
    statistics = run.loop.statistics()
    assert statistics.num_prompt_tokens == 920, "nothing was computed twice"
    assert len(run.finished(FinishReason.LENGTH)) == 3


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
