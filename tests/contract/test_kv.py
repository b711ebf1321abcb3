"""What saving, restoring, copying and recomputing KV promise: the answer goes on unchanged."""

import pytest

from edged.backend import Backend
from edged.core.types import SamplingParams, SlotId
from tests.contract.driver import GREEDY, MakeBackend, Run, answer_alone, generate, step

PROMPT = "the quick brown fox jumps over the lazy dog"
OTHER = "a completely different prompt with other words in it"
NUM_TOKENS = 16
DRAWN = SamplingParams(
    temperature=1.0,
    top_k=0,
    top_p=0.98,
    min_p=0.0,
    repetition_penalty=1.3,
    presence_penalty=0.5,
    frequency_penalty=0.2,
    seed=11,
)


@pytest.fixture(params=[GREEDY, DRAWN], ids=["greedy", "drawn"])
def params(request: pytest.FixtureRequest) -> SamplingParams:
    param = request.param
    assert isinstance(param, SamplingParams)
    return param


def test_a_swapped_sequence_goes_on_as_if_nothing_happened(
    backend: Backend, params: SamplingParams
) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS, params)
    run = Run(backend, PROMPT, params)
    generate(backend, [run], 5)
    snapshot = backend.save_kv(run.slot)
    backend.clear(run.slot)
    answer_alone(backend, OTHER, 4, slot=int(run.slot))
    backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_five_swaps_change_nothing(backend: Backend, params: SamplingParams) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS, params)
    run = Run(backend, PROMPT, params)
    for num_tokens in range(1, NUM_TOKENS, NUM_TOKENS // 5):
        generate(backend, [run], num_tokens)
        snapshot = backend.save_kv(run.slot)
        backend.clear(run.slot)
        run.slot = SlotId((int(run.slot) + 1) % 3)
        backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_swapped_sequence_may_resume_in_another_slot(
    backend: Backend, params: SamplingParams
) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS, params)
    other_expected = answer_alone(backend, OTHER, NUM_TOKENS)
    run = Run(backend, PROMPT, params, slot=0)
    generate(backend, [run], 5)
    snapshot = backend.save_kv(run.slot)
    backend.clear(run.slot)
    usurper = Run(backend, OTHER, slot=0)
    generate(backend, [usurper], 3)
    run.slot = SlotId(2)
    backend.restore_kv(run.slot, snapshot)
    generate(backend, [usurper, run], NUM_TOKENS)
    assert run.answer == expected
    assert usurper.answer == other_expected


def test_a_sequence_swapped_in_mid_prefill_goes_on(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT)
    step(backend, [run], max_tokens=10)
    snapshot = backend.save_kv(run.slot)
    assert snapshot.num_tokens == 10
    backend.clear(run.slot)
    backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_saving_leaves_the_slot_as_it_was(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    run = Run(backend, PROMPT)
    generate(backend, [run], 5)
    backend.save_kv(run.slot)
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_snapshot_may_be_restored_more_than_once(backend: Backend) -> None:
    run = Run(backend, PROMPT)
    generate(backend, [run], 5)
    snapshot = backend.save_kv(run.slot)
    generate(backend, [run], NUM_TOKENS)
    for slot in (1, 2):
        again = Run(backend, run.token_ids[: run.num_prompt_tokens], slot=slot)
        again.token_ids.extend(run.answer[:5])
        again.num_computed = snapshot.num_tokens
        backend.restore_kv(again.slot, snapshot)
        generate(backend, [again], NUM_TOKENS)
        assert again.answer == run.answer


def test_the_first_tokens_of_a_snapshot_serve_another_continuation(backend: Backend) -> None:
    if not backend.info.can_cut_snapshot:
        pytest.skip("this backend cannot cut a snapshot, and says so")
    run = Run(backend, PROMPT)
    generate(backend, [run], 5)
    snapshot = backend.save_kv(run.slot)
    backend.clear(run.slot)
    for num_tokens in (1, run.num_prompt_tokens // 2, run.num_prompt_tokens):
        tokens = [*run.token_ids[:num_tokens], 40, 50, 60]
        expected = answer_alone(backend, tokens, NUM_TOKENS)
        other = Run(backend, tokens, slot=1)
        backend.restore_kv(other.slot, snapshot, num_tokens)
        other.num_computed = num_tokens
        generate(backend, [other], NUM_TOKENS)
        assert other.answer == expected
        backend.clear(other.slot)


def test_a_snapshot_says_its_size(backend: Backend) -> None:
    run = Run(backend, PROMPT)
    generate(backend, [run], 2)
    snapshot = backend.save_kv(run.slot)
    assert snapshot.num_tokens == run.num_computed
    kv_bytes = snapshot.num_tokens * backend.info.kv.bytes_per_cell
    least = kv_bytes if backend.info.can_cut_snapshot else 0  # cells behind a window are not saved
    assert least <= snapshot.num_bytes <= 1.5 * kv_bytes + 1024
    kv = backend.info.kv
    predicted = kv.snapshot_bytes_fixed + snapshot.num_tokens * kv.snapshot_bytes_per_cell
    assert snapshot.num_bytes <= predicted, "swapping may not exceed its limit"


def test_a_recomputed_sequence_goes_on_as_if_nothing_happened(
    backend: Backend, params: SamplingParams
) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS, params)
    run = Run(backend, PROMPT, params)
    generate(backend, [run], 7)
    backend.clear(run.slot)
    run.restart()
    run.slot = SlotId(3)
    generate(backend, [run], NUM_TOKENS, max_tokens=8)
    assert run.answer == expected


def test_a_replay_on_another_instance_draws_the_same_tokens(
    make_backend: MakeBackend, params: SamplingParams
) -> None:
    first = make_backend()
    expected = answer_alone(first, PROMPT, NUM_TOKENS, params)
    second = make_backend()
    # A replay starts with the tokens that were delivered, as part of one long prefill.
    run = Run(second, first.tokenizer.encode(PROMPT, add_special=True, parse_special=False), params)
    run.token_ids.extend(expected[:6])
    generate(second, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_copied_prefix_serves_another_continuation(backend: Backend) -> None:
    if not backend.info.can_copy_prefix:
        pytest.skip("this backend cannot copy a prefix, and says so")
    encode = backend.tokenizer.encode
    prefix = encode(PROMPT, add_special=True, parse_special=False)
    tail = encode(" and then", add_special=False, parse_special=False)
    expected = answer_alone(backend, prefix, NUM_TOKENS)
    expected_of_copy = answer_alone(backend, [*prefix[:20], *tail], NUM_TOKENS)
    source = Run(backend, prefix, slot=0)
    generate(backend, [source], 3)
    copy = Run(backend, [*prefix[:20], *tail], slot=1)
    backend.copy_prefix(source.slot, copy.slot, 20)
    copy.num_computed = 20
    generate(backend, [source, copy], NUM_TOKENS)
    assert source.answer == expected
    assert copy.answer == expected_of_copy


def test_a_copy_outlives_its_source(backend: Backend) -> None:
    if not backend.info.can_copy_prefix:
        pytest.skip("this backend cannot copy a prefix, and says so")
    prefix = backend.tokenizer.encode(PROMPT, add_special=True, parse_special=False)
    expected = answer_alone(backend, prefix, NUM_TOKENS)
    source = Run(backend, prefix, slot=2)
    step(backend, [source])
    backend.copy_prefix(source.slot, SlotId(0), 15)
    backend.clear(source.slot)
    answer_alone(backend, OTHER, 4, slot=2)
    copy = Run(backend, prefix, slot=0)
    copy.num_computed = 15
    generate(backend, [copy], NUM_TOKENS)
    assert copy.answer == expected


def test_cells_freed_here_and_there_take_a_snapshot(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPT, NUM_TOKENS)
    # Two sequences grow in turn, so that their cells alternate; then one of them goes.
    runs = [Run(backend, PROMPT, slot=slot) for slot in (0, 1)]
    generate(backend, runs, 40, max_tokens=1)
    snapshot = backend.save_kv(runs[0].slot)
    for run in runs:
        assert run.answer[:NUM_TOKENS] == expected
    backend.clear(SlotId(0))
    filler = Run(backend, [50] * 20, slot=2)
    step(backend, [filler])
    backend.restore_kv(SlotId(0), snapshot)
    generate(backend, runs, 50)
    assert runs[0].answer == runs[1].answer
