"""What a step promises: the same tokens however they were cut and whoever ran beside them."""

import pytest

from edged.backend import Backend
from edged.core.types import SamplingParams, SlotId
from edged.errors import BackendStepError, StepInterruptedError
from tests.contract.cases import BackendCase
from tests.contract.driver import GREEDY, Run, answer_alone, generate, step

PROMPTS = (
    "the quick brown fox jumps over the lazy dog",
    "a",
    "once upon a time there was a small model that no one had trained",
    "0123456789 0123456789 0123456789",
)
NUM_TOKENS = 12


@pytest.mark.parametrize("chunk_tokens", [1, 3, 16])
def test_the_size_of_chunks_does_not_change_the_answer(backend: Backend, chunk_tokens: int) -> None:
    whole = answer_alone(backend, PROMPTS[0], NUM_TOKENS)
    run = Run(backend, PROMPTS[0])
    generate(backend, [run], NUM_TOKENS, max_tokens=chunk_tokens)
    assert run.answer == whole


def test_sequences_answer_together_as_they_do_alone(backend: Backend) -> None:
    alone = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in PROMPTS]
    runs = [Run(backend, prompt, slot=slot) for slot, prompt in enumerate(PROMPTS)]
    generate(backend, runs, NUM_TOKENS)
    assert [run.answer for run in runs] == alone
    assert len({tuple(answer) for answer in alone}) == len(PROMPTS), "the prompts matter"


def test_slots_may_come_in_any_order_and_with_gaps(backend: Backend) -> None:
    alone = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    runs = [Run(backend, PROMPTS[0], slot=3), Run(backend, PROMPTS[1], slot=1)]
    generate(backend, runs, NUM_TOKENS)
    assert [run.answer for run in runs] == alone


def test_a_prefill_may_share_its_steps_with_decodes(backend: Backend) -> None:
    alone = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in PROMPTS[:3]]
    early = [Run(backend, prompt, slot=slot) for slot, prompt in enumerate(PROMPTS[:2])]
    generate(backend, early, 3)
    late = Run(backend, PROMPTS[2], slot=2)
    generate(backend, [*early, late], NUM_TOKENS, max_tokens=10)
    assert [run.answer for run in [*early, late]] == alone


def test_the_answer_depends_on_every_token_of_the_prompt(backend: Backend) -> None:
    changed = PROMPTS[0].replace("quick", "quack")
    assert answer_alone(backend, changed, NUM_TOKENS) != answer_alone(
        backend, PROMPTS[0], NUM_TOKENS
    )


def test_a_chunk_that_does_not_sample_draws_nothing(backend: Backend) -> None:
    run = Run(backend, PROMPTS[0])
    chunk = run.chunk(max_tokens=4)
    assert backend.step([chunk]) == {}


def test_clearing_a_slot_gives_every_cell_to_others(backend: Backend) -> None:
    kv = backend.info.kv
    for slot in (0, 3):
        prompt = [40 + i % 50 for i in range(kv.max_cells_per_slot)]
        run = Run(backend, prompt, slot=slot)
        while run.num_computed < len(prompt):
            step(backend, [run], max_tokens=100)
        assert len(run.answer) == 1
        backend.clear(run.slot)


def test_clearing_an_empty_slot_changes_nothing(backend: Backend) -> None:
    expected = answer_alone(backend, PROMPTS[0], NUM_TOKENS)
    run = Run(backend, PROMPTS[0], slot=1)
    step(backend, [run])
    backend.clear(SlotId(0))
    generate(backend, [run], NUM_TOKENS)
    assert run.answer == expected


def test_a_failed_step_leaves_every_slot_as_it_was(backend: Backend, case: BackendCase) -> None:
    alone = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    runs = [Run(backend, prompt, slot=slot) for slot, prompt in enumerate(PROMPTS[:2])]
    generate(backend, runs, 4)
    poisoned = Run(backend, [*range(40, 60), case.poison_token_id], slot=2)
    with pytest.raises(BackendStepError) as raised:
        backend.step([*(run.chunk() for run in runs), poisoned.chunk()])
    for run in runs:
        if run.slot in raised.value.lost:
            run.restart()
    generate(backend, runs, NUM_TOKENS)
    assert [run.answer for run in runs] == alone
    # The slot of the culprit holds what it held before, nothing, so it serves the next sequence.
    assert answer_alone(backend, PROMPTS[0], NUM_TOKENS, slot=2) == alone[0]


def test_an_interrupted_step_computes_nothing(backend: Backend) -> None:
    """`interrupt` before a step strikes it, and only it."""
    expected = [answer_alone(backend, prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    runs = [Run(backend, prompt, slot=slot) for slot, prompt in enumerate(PROMPTS[:2])]
    for num_tokens in (0, 4):
        generate(backend, runs, num_tokens)
        backend.interrupt()
        if backend.info.can_interrupt:
            with pytest.raises(StepInterruptedError):
                backend.step([run.chunk() for run in runs])
    generate(backend, runs, NUM_TOKENS)
    assert [run.answer for run in runs] == expected


@pytest.mark.parametrize(
    "params",
    [SamplingParams(temperature=1.0, seed=5), SamplingParams(temperature=1.0, top_k=0, seed=5)],
    ids=["top_k", "all"],
)
def test_a_seed_draws_the_same_answer_again(backend: Backend, params: SamplingParams) -> None:
    first = answer_alone(backend, PROMPTS[0], NUM_TOKENS, params)
    assert answer_alone(backend, PROMPTS[0], NUM_TOKENS, params, slot=1) == first


def test_another_seed_draws_another_answer(backend: Backend) -> None:
    answers = {
        tuple(answer_alone(backend, PROMPTS[0], 16, SamplingParams(temperature=1.0, seed=seed)))
        for seed in range(4)
    }
    assert len(answers) == 4


def test_log_probabilities_come_only_when_asked_for(backend: Backend) -> None:
    silent = Run(backend, PROMPTS[0], GREEDY)
    step(backend, [silent])
    assert silent.drawn[0].logprob is None
    assert silent.drawn[0].top == ()


@pytest.mark.parametrize("num_top", [0, 5])
def test_log_probabilities_are_ordered_and_negative(backend: Backend, num_top: int) -> None:
    run = Run(backend, PROMPTS[0], SamplingParams(temperature=0.0, logprobs=num_top))
    step(backend, [run])
    (token,) = run.drawn
    assert token.logprob is not None
    assert token.logprob <= 0
    values = [entry.logprob for entry in token.top]
    assert len(values) == num_top
    assert values == sorted(values, reverse=True)
    if num_top:
        assert token.top[0].token_id == token.token_id, "greedy takes the likeliest token"
