"""What cache slots promise: KV that was computed once serves others, and takes its cells once."""

import pytest

from edged.backend import Backend
from edged.core.types import SlotId
from tests.contract.driver import MakeBackend, Run, answer_alone, generate, step

PROMPT = "the quick brown fox jumps over the lazy dog"
NUM_TOKENS = 8


@pytest.fixture
def sharing(make_backend: MakeBackend) -> Backend:
    backend = make_backend()
    if not backend.info.kv.num_cache_slots:
        pytest.skip("slots of this backend do not share cells, and it says so")
    return backend


def cache_slots(backend: Backend) -> list[SlotId]:
    kv = backend.info.kv
    return [SlotId(kv.num_slots + number) for number in range(kv.num_cache_slots)]


def test_separate_caches_keep_nothing(backend: Backend) -> None:
    kv = backend.info.kv
    assert kv.num_cache_slots in (0, 2)
    if kv.num_cache_slots:
        assert kv.max_cells_per_slot > kv.num_cells // kv.num_slots, "cells are for all slots"
        assert backend.info.can_copy_prefix


def test_a_cached_beginning_serves_many(sharing: Backend) -> None:
    """It outlives the sequence that computed it, and goes before those that it served."""
    expected = answer_alone(sharing, PROMPT, NUM_TOKENS)
    cached = cache_slots(sharing)[0]
    first = Run(sharing, PROMPT)
    generate(sharing, [first], 3)
    num_shared = first.num_prompt_tokens - 5
    sharing.copy_prefix(first.slot, cached, num_shared)
    sharing.clear(first.slot)
    runs = [Run(sharing, PROMPT, slot=slot) for slot in range(4)]
    for run in runs:
        sharing.copy_prefix(cached, run.slot, num_shared)
        run.num_computed = num_shared
    sharing.clear(cached)
    # One by one: rounding depends on what is computed together.
    for run in runs:
        generate(sharing, [run], NUM_TOKENS)
        assert run.answer == expected


def test_shared_cells_are_taken_once(sharing: Backend) -> None:
    num_cells = sharing.info.kv.num_cells
    long = [40 + i % 90 for i in range(num_cells * 3 // 4)]
    source = Run(sharing, long)
    while source.num_computed < len(long):
        step(sharing, [source], max_tokens=128)
    slots = [SlotId(1), SlotId(2), *cache_slots(sharing)]
    for slot in slots:
        sharing.copy_prefix(source.slot, slot, len(long) - 1)
    # What is left is enough for a few tokens of each, not for another copy.
    for slot in slots[:2]:
        run = Run(sharing, [*long[:-1], 33, 34, 35], slot=int(slot))
        run.num_computed = len(long) - 1
        generate(sharing, [run], 4)
        assert len(run.answer) == 4


def test_cells_are_free_when_their_last_holder_goes(sharing: Backend) -> None:
    num_cells = sharing.info.kv.num_cells
    long = [40 + i % 90 for i in range(num_cells * 3 // 4)]
    other = [50 + i % 70 for i in range(num_cells * 3 // 4)]
    for tokens in (long, other, long):
        source = Run(sharing, tokens)
        while source.num_computed < len(tokens):
            step(sharing, [source], max_tokens=128)
        cached = cache_slots(sharing)
        for slot in cached:
            sharing.copy_prefix(source.slot, slot, len(tokens) // 2)
        sharing.clear(source.slot)
        for slot in cached:
            sharing.clear(slot)
    assert answer_alone(sharing, PROMPT, NUM_TOKENS)


def test_a_copy_of_shared_cells_goes_on_by_itself(sharing: Backend) -> None:
    """Saved and restored it has cells of its own, and the others keep theirs."""
    expected = answer_alone(sharing, PROMPT, NUM_TOKENS)
    source = Run(sharing, PROMPT)
    generate(sharing, [source], 3)
    copy = Run(sharing, PROMPT, slot=1)
    copy.num_computed = copy.num_prompt_tokens - 4
    sharing.copy_prefix(source.slot, copy.slot, copy.num_computed)
    snapshot = sharing.save_kv(copy.slot)
    sharing.clear(copy.slot)
    sharing.restore_kv(copy.slot, snapshot)
    generate(sharing, [copy], NUM_TOKENS)
    generate(sharing, [source], NUM_TOKENS)
    assert copy.answer == source.answer == expected
