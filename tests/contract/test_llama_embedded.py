"""llama_cpp with a real model, SmolLM2-135M-Instruct: what tokens mean, and real sizes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edged.backend import Backend, BackendConfig
from edged.core.types import SamplingParams, SlotId
from tests.contract.driver import GREEDY, Run, answer_alone, generate, step
from tests.models import embedded_model, require_llama_cpp

require_llama_cpp()

from backends.llama_cpp import create  # noqa: E402  # after the skip where it is missing

pytestmark = pytest.mark.model

CAPITALS = {
    country: f"<|im_start|>user\nWhat is the capital of {country}?<|im_end|>\n"
    "<|im_start|>assistant\n"
    for country in ("France", "Germany", "Japan")
}


@pytest.fixture(scope="module", params=["q8_0", "f16"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    config = BackendConfig(
        str(embedded_model()),
        kv_type=request.param,
        context_tokens=2048,
        max_sequences=4,
        max_step_tokens=256,
        # Threads of ggml wait for each other by spinning: on a busy machine one is faster.
        num_threads=1,
    )
    backend = create(config, lambda _fraction: None)
    yield backend
    backend.close()


def _prompt(backend: Backend, country: str) -> list[int]:
    return backend.tokenizer.encode(CAPITALS[country], add_special=False, parse_special=True)


def _answer_text(backend: Backend, run: Run) -> str:
    return b"".join(map(backend.tokenizer.piece, run.answer)).decode()


def test_it_answers_several_chats_at_once(backend: Backend) -> None:
    runs = [
        Run(backend, _prompt(backend, country), slot=slot) for slot, country in enumerate(CAPITALS)
    ]
    generate(backend, runs, 8)
    texts = [_answer_text(backend, run) for run in runs]
    for run in runs:
        backend.clear(run.slot)
    for capital, text in zip(("Paris", "Berlin", "Tokyo"), texts, strict=True):
        assert capital in text


def test_a_long_greedy_answer_with_five_swaps_is_the_one_without(backend: Backend) -> None:
    prompt = _prompt(backend, "France")
    expected = answer_alone(backend, prompt, 60)
    run = Run(backend, prompt)
    for num_tokens in (10, 20, 30, 40, 50):
        generate(backend, [run], num_tokens)
        snapshot = backend.save_kv(run.slot)
        backend.clear(run.slot)
        run.slot = SlotId((int(run.slot) + 1) % 4)
        backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], 60)
    backend.clear(run.slot)
    assert run.answer == expected


def test_the_sizes_are_those_of_the_model(backend: Backend) -> None:
    info = backend.info
    # 30 layers × 3 KV heads × (64 + 64) numbers.
    expected = {"f16": 11520 * 2, "q8_0": 11520 * 34 // 32}
    assert info.kv.bytes_per_cell == expected[info.kv.effective_type_k]
    assert info.vocab_size == 49_152
    assert info.train_context_tokens == 8192
    assert info.device == "cpu"
    assert info.chat_template is not None
    assert "<|im_start|>" in info.chat_template
    assert info.eos_token == "<|im_end|>"


def test_a_swapped_chat_goes_on(backend: Backend) -> None:
    params = SamplingParams(temperature=0.8, seed=3, repetition_penalty=1.1)
    prompt = _prompt(backend, "Japan")
    expected = answer_alone(backend, prompt, 16, params)
    run = Run(backend, prompt, params)
    generate(backend, [run], 6)
    snapshot = backend.save_kv(run.slot)
    backend.clear(run.slot)
    other = Run(backend, _prompt(backend, "France"), slot=0)
    generate(backend, [other], 4)
    backend.clear(other.slot)
    backend.restore_kv(run.slot, snapshot)
    generate(backend, [run], 16)
    backend.clear(run.slot)
    assert run.answer == expected


def test_an_answer_goes_on_past_its_end_when_told_to(backend: Backend) -> None:
    prompt = _prompt(backend, "France")
    ended = answer_alone(backend, prompt, 24)
    went_on = answer_alone(backend, prompt, 24, replace(GREEDY, ignore_eos=True))
    assert backend.info.eog_token_ids & set(ended), "the answer ends by itself within 24 tokens"
    assert not backend.info.eog_token_ids & set(went_on)


def test_a_bias_puts_a_token_into_the_answer(backend: Backend) -> None:
    (token_id,) = backend.tokenizer.encode(" cat", add_special=False, parse_special=False)
    run = Run(backend, _prompt(backend, "France"), replace(GREEDY, logit_bias=((token_id, 100.0),)))
    step(backend, [run])
    backend.clear(run.slot)
    assert _answer_text(backend, run) == " cat"


def test_a_penalty_ends_a_loop(backend: Backend) -> None:
    prompt = backend.tokenizer.encode("one two " * 12, add_special=False, parse_special=False)
    loop = answer_alone(backend, prompt, 16, replace(GREEDY, ignore_eos=True))
    penalized = answer_alone(
        backend, prompt, 16, replace(GREEDY, ignore_eos=True, frequency_penalty=2.0)
    )
    assert len(set(loop)) < 6
    assert len(set(penalized)) > 6
