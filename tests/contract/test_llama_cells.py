"""What llama.cpp refuses, and what is left in the slots afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edged.backend import Backend, BackendConfig
from edged.core.plan import Chunk
from edged.core.types import SeqId, SlotId
from edged.errors import BackendStepError, KvTransferError
from tests.contract.cases import CONFIG
from tests.contract.driver import Run, answer_alone, generate, step
from tests.models import require_llama_cpp
from tests.tiny_gguf import write_tiny_gguf

require_llama_cpp()

from backends.llama_cpp import create  # noqa: E402  # after the skip where it is missing

PROMPT = "the quick brown fox jumps over the lazy dog"
SICK_TOKEN_ID = 200
NUM_TOKENS = 12


@pytest.fixture(params=[True, False], ids=["unified", "separate"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> BackendConfig:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", sick_token_id=SICK_TOKEN_ID)
    return replace(CONFIG, model_path=str(path), kv_unified=request.param)


@pytest.fixture
def backend(config: BackendConfig) -> Iterator[Backend]:
    backend = create(config, lambda _fraction: None)
    yield backend
    backend.close()


def _fill(backend: Backend, slot: int, num_cells: int) -> None:
    """Leave a slot with `num_cells` cells."""
    filler = Run(backend, [40 + i % 90 for i in range(num_cells)], slot=slot)
    while filler.num_computed < num_cells:
        step(backend, [filler], max_tokens=100)


def test_a_step_that_does_not_fit_leaves_the_slots_as_they_were(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT)
    generate(backend, [run], 4)
    kv = backend.info.kv
    # The large slot takes what the pool, or its own share, has left but for three cells.
    left = kv.num_cells - run.num_computed if kv.max_cells_per_slot == kv.num_cells else None
    held = (left or kv.max_cells_per_slot) - 3
    _fill(backend, 1, held)
    too_much = Chunk(SeqId(1), SlotId(1), held, (50, 51, 52, 53), None)
    with pytest.raises(BackendStepError, match="not enough free KV cells") as raised:
        backend.step([run.chunk(), too_much])
    assert raised.value.lost == ()
    backend.step([Chunk(SeqId(1), SlotId(1), held, (50, 51), None)])
    backend.clear(SlotId(1))
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_step_larger_than_the_whole_cache_is_an_error(config: BackendConfig) -> None:
    small = replace(config, context_tokens=256, max_step_tokens=2048, kv_unified=True)
    backend = create(small, lambda _fraction: None)
    with pytest.raises(BackendStepError, match="not enough free KV cells"):
        step(backend, [Run(backend, [50] * 300)])
    assert len(answer_alone(backend, PROMPT, 3)) == 3
    backend.close()


@pytest.mark.parametrize("token_id", [-1, 270, 2**31, -(2**40)])
def test_a_token_id_outside_the_vocabulary_is_an_error(backend: Backend, token_id: int) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT)
    generate(backend, [run], 4)
    bad = Chunk(SeqId(1), SlotId(1), 0, (60, token_id, 61), None)
    with pytest.raises(BackendStepError, match=f"sequence 1 has the token {token_id};") as raised:
        backend.step([run.chunk(), bad])
    assert raised.value.lost == ()
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_sequence_without_finite_logits_is_lost_alone(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT, slot=0)
    generate(backend, [run], 4)
    sick = Run(backend, [60, 61, SICK_TOKEN_ID], slot=1)
    with pytest.raises(BackendStepError, match=f"sequence {sick.seq_id}.*nan") as raised:
        backend.step([run.chunk(), sick.chunk()])
    assert raised.value.lost == (sick.slot,)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected
    # What the sick sequence wrote into its cells does not reach the next one to use them.
    assert answer_alone(backend, PROMPT, NUM_TOKENS, slot=1) == expected


def test_a_snapshot_that_does_not_fit_is_refused_and_the_slot_is_empty(
    config: BackendConfig,
) -> None:
    backend = create(replace(config, kv_unified=True), lambda _fraction: None)
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT)
    generate(backend, [run], 4)
    snapshot = backend.save_kv(run.slot)
    backend.clear(run.slot)
    _fill(backend, 1, backend.info.kv.num_cells - 5)
    with pytest.raises(KvTransferError, match="slot 0 was not restored"):
        backend.restore_kv(run.slot, snapshot)
    backend.clear(SlotId(1))
    assert answer_alone(backend, PROMPT, NUM_TOKENS, slot=0) == expected
    backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected
    backend.close()


def test_a_snapshot_of_another_kv_type_is_refused(config: BackendConfig) -> None:
    quantized = create(config, lambda _fraction: None)
    plain = create(replace(config, kv_type="f16"), lambda _fraction: None)
    run = Run(quantized, PROMPT)
    step(quantized, [run])
    with pytest.raises(KvTransferError, match="mismatched key type"):
        plain.restore_kv(SlotId(0), quantized.save_kv(run.slot))
    assert len(answer_alone(plain, PROMPT, 3)) == 3
    plain.close()
    quantized.close()


def test_a_chunk_that_does_not_start_where_its_slot_ends_is_a_bug(backend: Backend) -> None:
    with pytest.raises(AssertionError, match="I3: slot 0 holds 0 cells, its chunk starts at 5"):
        backend.step([Chunk(SeqId(1), SlotId(0), 5, (60,), None)])


def test_restoring_into_a_slot_in_use_is_a_bug(backend: Backend) -> None:
    run = Run(backend, PROMPT)
    step(backend, [run])
    snapshot = backend.save_kv(run.slot)
    with pytest.raises(AssertionError, match="I1: slot 0 holds"):
        backend.restore_kv(run.slot, snapshot)
