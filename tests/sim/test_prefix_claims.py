"""What is claimed of what is kept: what waiting for it, fetching it and keeping it may cost."""

from pathlib import Path

import pytest

from backends.sim.backend import SimModel
from edged.core.types import FinishReason, SloTier
from tests.factories import request
from tests.sim.disk import Disk
from tests.sim.test_prefixes import SYSTEM, computed, eight_alike, served, ttft_s


def test_a_copy_takes_no_room_in_host_memory() -> None:
    run = served(eight_alike(), is_unified=False, max_snapshot_bytes=0)
    assert computed(run) == (1000 + 2 * 8, 7 * 1000)
    assert run.loop.statistics().cached_bytes == 0


@pytest.mark.parametrize("is_unified", [True, False], ids=["shared", "copied"])
def test_nobody_waits_long_for_a_little_that_is_under_way(*, is_unified: bool) -> None:
    """70 tokens, 40 of which are the beginning of 3,000 that are being computed."""
    big = (*SYSTEM[:40], *(9 + i % 200 for i in range(2960)))
    requests = [
        request("big", prompt=big, max_tokens=5, tier=SloTier.BATCH),
        request("small", prompt=(*SYSTEM[:40], *range(50, 80)), max_tokens=5, arrival_s=0.05),
    ]
    run = served(requests, num_cells=32768, is_unified=is_unified)
    assert ttft_s(run.lives[requests[1].request_id]) < 0.3
    assert len(run.finished(FinishReason.LENGTH)) == 2


def test_a_little_of_much_that_is_saved_takes_nobody_his_cells() -> None:
    """Restored as a whole, the saved chat would need the cells of the answer that runs."""
    chat = tuple(8 + i * 11 % 240 for i in range(600))
    requests = [
        request("chat", prompt=chat, max_tokens=5),
        request("batch", prompt=300, max_tokens=300, tier=SloTier.BATCH, arrival_s=5.0),
        request("other", prompt=(*chat[:40], 9, 10), max_tokens=5, arrival_s=6.0),
    ]
    run = served(requests, num_cells=1000, model=SimModel(idle_cells_cost=True))
    assert run.lives[requests[1].request_id].num_preempts == 0
    assert ttft_s(run.lives[requests[2].request_id]) < 0.3


def test_a_conversation_that_goes_on_counts_all_its_turns() -> None:
    """And what it has replaced is gone."""
    history: tuple[int, ...] = SYSTEM
    requests = []
    for turn in range(4):
        requests.append(request(f"turn{turn}", prompt=history, max_tokens=1, arrival_s=20.0 * turn))
        history = (*history, 7, 11, 13, turn + 20)
    run = served(requests, model=SimModel(idle_cells_cost=True))
    [kept] = run.loop.scheduler.holdings.by_snapshot.values()
    assert (kept.num_tokens, kept.num_uses) == (len(requests[-1].prompt_token_ids), 3)


def test_what_was_found_and_could_not_be_had_is_not_counted_as_found(tmp_path: Path) -> None:
    first = request("first", prompt=SYSTEM, max_tokens=50)
    [life] = served([first], disk=Disk(tmp_path)).lives.values()
    for path in tmp_path.rglob("*.kv"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    second = request("second", prompt=(*SYSTEM, *life.tokens, 9), max_tokens=5)
    run = served([second], disk=Disk(tmp_path))
    assert computed(run) == (len(second.prompt_token_ids), 0)
    finish = run.lives[second.request_id].finish
    assert finish is not None
    assert finish.num_cached_tokens == 0


def test_a_beginning_stays_until_a_longer_one_has_found_its_place() -> None:
    """Host memory has room for the first, which the third claims, and not for the second."""
    requests = [
        request("zero", prompt=SYSTEM, max_tokens=1),
        request("first", prompt=(*SYSTEM, 9), max_tokens=600, arrival_s=8.0),
        request("second", prompt=(*SYSTEM, 8), max_tokens=5, arrival_s=10.0),
    ]
    room_bytes = 1200 * SimModel().bytes_per_cell
    run = served(
        requests,
        num_slots=1,
        num_cells=4096,
        max_snapshot_bytes=room_bytes,
        is_unified=False,
        model=SimModel(idle_cells_cost=True),
    )
    assert computed(run) == (1000 + 2, 2 * 1000)
