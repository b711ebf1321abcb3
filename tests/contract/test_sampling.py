"""How tokens are drawn: as llama.cpp's own sampler chain would, and from nothing but its input.

The chain of the library is the second opinion: which tokens it leaves, and how likely they are.
"""

import ctypes
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.core.plan import Sampling
from edged.core.types import SamplingParams
from tests.models import require_llama_cpp

require_llama_cpp()

from llama_cpp import llama_cpp as api  # noqa: E402  # after the skip where it is missing

from backends.sampling import (  # noqa: E402  # as above
    PENALTY_WINDOW_TOKENS,
    NotFiniteError,
    Sampler,
    _candidates,
    _draw,
    _draw_from_ranked,
    largest_ids,
)

Logits = NDArray[np.float32]

VOCAB_SIZE = 1000
EOG = frozenset({3, 7})
NUM_DRAWS = 4000
OPEN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
HISTORY = [5, 5, 5, 9, 9, 14, 200, 201, 202, 5]

CASES = {
    "defaults": SamplingParams(),
    "hot": replace(OPEN, temperature=2.0),
    "top_k": replace(OPEN, top_k=5),
    "top_p": replace(OPEN, top_p=0.7),
    "min_p": replace(OPEN, min_p=0.1),
    "all_cuts": SamplingParams(temperature=0.6, top_k=20, top_p=0.9, min_p=0.02),
    "bias": SamplingParams(temperature=1.0, logit_bias=((4, 3.0), (9, -50.0), (11, 100.0))),
    "ignore_eos": replace(SamplingParams(temperature=1.5), ignore_eos=True),
    "repetition": replace(OPEN, top_k=30, repetition_penalty=1.8),
    "presence": replace(OPEN, top_k=30, presence_penalty=2.0, frequency_penalty=-0.5),
    "everything": SamplingParams(
        temperature=0.9,
        top_k=50,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        logit_bias=((5, 2.0), (500, -2.0)),
        ignore_eos=True,
    ),
}


def _logits(seed: int = 0, size: int = VOCAB_SIZE, scale: float = 2.0) -> Logits:
    logits = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    # Tokens of the history and those that end an answer are likely, so that what is done to
    # them shows.
    likely = [*EOG, *HISTORY]
    logits[likely] = logits.max() + np.linspace(-1, 0.5, len(likely), dtype=np.float32)
    return logits


def _sampling(params: SamplingParams, answer: Sequence[int] = HISTORY) -> Sampling:
    return Sampling(params, list(answer), 0)


def _chain_probabilities(logits: Logits, params: SamplingParams) -> dict[int, float]:
    """What llama.cpp's own chain leaves of the logits after `HISTORY`."""
    bias = dict(params.logit_bias) | (dict.fromkeys(EOG, -math.inf) if params.ignore_eos else {})
    entries = (api.llama_logit_bias * len(bias))(*bias.items())
    samplers = [
        api.llama_sampler_init_logit_bias(logits.size, len(bias), entries),
        api.llama_sampler_init_penalties(
            logits.size,
            PENALTY_WINDOW_TOKENS,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ),
        api.llama_sampler_init_top_k(params.top_k),
        api.llama_sampler_init_top_p(params.top_p, 1),
        api.llama_sampler_init_min_p(params.min_p, 1),
        api.llama_sampler_init_temp(params.temperature),
    ]
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    for sampler in samplers:
        api.llama_sampler_chain_add(chain, sampler)
    for token_id in HISTORY:
        api.llama_sampler_accept(chain, token_id)
    data = (api.llama_token_data * logits.size)(
        *((token_id, float(logit), 0.0) for token_id, logit in enumerate(logits))
    )
    array = api.llama_token_data_array(data, logits.size, -1, False)
    api.llama_sampler_apply(chain, ctypes.byref(array))
    left = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    api.llama_sampler_free(chain)
    largest = max(left.values())
    weights = {token_id: math.exp(logit - largest) for token_id, logit in left.items()}
    total = sum(weights.values())
    return {token_id: weight / total for token_id, weight in weights.items() if weight > 0}


@pytest.mark.parametrize("name", CASES)
def test_draws_are_spread_as_the_chain_of_llama_cpp_says(name: str) -> None:
    params, logits = CASES[name], _logits()
    expected = _chain_probabilities(logits, params)
    sampler = Sampler(VOCAB_SIZE, EOG)
    counts = Counter(
        sampler.draw(logits, _sampling(replace(params, seed=seed))).token_id
        for seed in range(NUM_DRAWS)
    )
    assert counts.keys() <= expected.keys(), "a token was drawn that the chain had cut"
    distance = sum(
        abs(counts[token_id] / NUM_DRAWS - probability)
        for token_id, probability in expected.items()
    )
    # The expected distance of a fair sample, Σ √(2 p (1 − p) / (π n)), with room for chance.
    fair = sum(math.sqrt(2 * p * (1 - p) / (math.pi * NUM_DRAWS)) for p in expected.values())
    assert distance < 1.5 * fair + 0.01


@pytest.mark.parametrize("name", CASES)
def test_greedy_takes_what_the_chain_puts_first(name: str) -> None:
    logits = _logits(seed=1)
    expected = _chain_probabilities(logits, CASES[name])
    params = replace(CASES[name], temperature=0.0)
    drawn = Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(params))
    assert drawn.token_id == max(expected, key=lambda token_id: expected[token_id])


def test_a_draw_depends_on_nothing_that_was_drawn_before() -> None:
    params, logits = CASES["everything"], _logits()
    fresh = Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(params))
    used = Sampler(VOCAB_SIZE, EOG)
    for seed in range(20):
        used.draw(_logits(seed), _sampling(replace(params, seed=seed)))
    assert used.draw(logits, _sampling(params)) == fresh


def test_each_position_of_an_answer_is_drawn_anew() -> None:
    sampler, logits = Sampler(VOCAB_SIZE, EOG), np.zeros(VOCAB_SIZE, np.float32)
    drawn = {sampler.draw(logits, _sampling(OPEN, [1] * n)).token_id for n in range(1, 51)}
    assert len(drawn) > 40


def test_the_prompt_does_not_move_the_position() -> None:
    sampler, logits = Sampler(VOCAB_SIZE, EOG), _logits()
    short = sampler.draw(logits, Sampling(OPEN, [1, 2, 3, 4], 2))
    long = sampler.draw(logits, Sampling(OPEN, [9, 8, 7, 1, 2, 3, 4], 5))
    assert short == long


def test_last_bits_of_the_logits_rarely_change_a_draw() -> None:
    sampler, logits = Sampler(VOCAB_SIZE, EOG), _logits()
    noise = np.random.default_rng(2).standard_normal(VOCAB_SIZE).astype(np.float32) * 1e-4
    params = [replace(SamplingParams(temperature=1.0), seed=seed) for seed in range(500)]
    changed = sum(
        sampler.draw(logits, _sampling(p)) != sampler.draw(logits + noise, _sampling(p))
        for p in params
    )
    assert changed <= 1


def test_a_token_beyond_the_window_is_not_penalized() -> None:
    sampler, logits = Sampler(VOCAB_SIZE, EOG), np.zeros(VOCAB_SIZE, np.float32)
    logits[50], logits[60] = 5.0, 4.9
    params = SamplingParams(temperature=0.0, presence_penalty=1.0)
    inside = [50, *[2] * (PENALTY_WINDOW_TOKENS - 1)]
    assert sampler.draw(logits, _sampling(params, inside)).token_id == 60
    assert sampler.draw(logits, _sampling(params, [50, *[2] * 64])).token_id == 50


def test_the_logits_are_left_unchanged() -> None:
    logits = _logits()
    before = logits.copy()
    Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(CASES["everything"]))
    np.testing.assert_array_equal(logits, before)


def test_every_token_may_win_although_most_are_never_looked_at() -> None:
    size = 20_000
    sampler, logits = Sampler(size, EOG), _logits(3, size=size, scale=1.0)
    for seed in range(100):
        params = replace(OPEN, temperature=1.5, seed=seed)
        # With one token cut, the candidates are listed, and every one is looked at.
        listed = replace(params, top_k=size - 1)
        shortcut = sampler.draw(logits, _sampling(params))
        assert shortcut == sampler.draw(logits, _sampling(listed))
        assert 0 <= shortcut.token_id < size


@pytest.mark.parametrize("size", [1, 63, 270, 4096, 49_152])
@pytest.mark.parametrize("count", [1, 40, 256])
def test_the_largest_logits_are_those_of_a_full_sort(size: int, count: int) -> None:
    # Rounded, so that many are equal and the lower id has to come first.
    logits = np.round(_logits(4, size=max(size, 300))[:size], 1)
    expected = np.argsort(-logits, kind="stable")[: min(count, size)]
    np.testing.assert_array_equal(largest_ids(logits, min(count, size)), expected)


def test_log_probabilities_of_all_tokens_add_up_to_one() -> None:
    logits = _logits()
    params = replace(CASES["everything"], logprobs=VOCAB_SIZE)
    drawn = Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(params))
    assert math.fsum(math.exp(entry.logprob) for entry in drawn.top) == pytest.approx(1.0)
    of_raw_logits = {entry.token_id: entry.logprob for entry in drawn.top}
    assert drawn.logprob == of_raw_logits[drawn.token_id]
    assert drawn.top[0].token_id == int(logits.argmax()), "bias and penalties are not in them"


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(value: float, temperature: float) -> None:
    logits = _logits()
    logits[123] = value
    with pytest.raises(NotFiniteError, match=str(value)):
        Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(replace(OPEN, temperature=temperature)))
    with pytest.raises(NotFiniteError, match=str(value)):
        Sampler(VOCAB_SIZE, EOG).draw(logits, _sampling(SamplingParams()))


@pytest.mark.parametrize("top_k", [1, 7, 40, 128])
def test_a_small_top_k_draws_what_the_general_way_draws(top_k: int) -> None:
    sampler = Sampler(VOCAB_SIZE, EOG)
    for seed in range(40):
        params = SamplingParams(top_k=top_k, top_p=0.9, min_p=0.02, temperature=1.3, seed=seed)
        logits = np.random.default_rng(seed).normal(0, 3, VOCAB_SIZE).astype(np.float32)
        candidates = _candidates(logits, float(logits.max()), params)
        index = len(_sampling(params).token_ids) - _sampling(params).num_prompt_tokens
        wanted = _draw(logits, candidates, params, index)
        assert sampler.draw(logits, _sampling(params)).token_id == wanted


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 6.0])
def test_a_small_top_k_draws_the_same_from_many_tokens(scale: float) -> None:
    sampler = Sampler(20_000, EOG)
    for seed in range(40):
        cuts = {"top_p": (0.5, 0.95, 1.0)[seed % 3], "min_p": (0.0, 0.05)[seed % 2]}
        params = SamplingParams(**cuts, ignore_eos=seed % 5 == 0, temperature=1.3, seed=seed)
        logits = _logits(seed, size=20_000, scale=scale)
        drawn = sampler.draw(logits, _sampling(params))
        if params.ignore_eos:
            logits[list(EOG)] = -math.inf
        candidates = _candidates(logits, float(logits.max()), params)
        assert drawn.token_id == _draw(logits, candidates, params, len(HISTORY))


def test_what_is_far_below_is_left_out_only_where_it_changes_nothing() -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(400):
        generator = np.random.default_rng(seed)
        values = sorted(generator.normal(0, 3, 60).tolist(), reverse=True)
        ranked = [(value, token_id) for token_id, value in enumerate(values)]
        floor = ranked[0][0] - 5
        near = [pair for pair in ranked if pair[0] >= floor]
        top_p, min_p = generator.uniform(0.5, 1), generator.choice([0.0, 0.001, 0.05])
        sampling = _sampling(SamplingParams(top_p=top_p, min_p=min_p, temperature=2.0, seed=seed))
        drawn = _draw_from_ranked(near, floor, sampling)
        outcomes[drawn is None] += 1
        assert drawn in (None, _draw_from_ranked(ranked, -math.inf, sampling))
    assert min(outcomes.values()) > 40, "both outcomes are to be seen"


def test_no_token_is_drawn_where_all_are_banned() -> None:
    params = SamplingParams(ignore_eos=True)
    with pytest.raises(NotFiniteError, match="nan"):
        Sampler(2, {0, 1}).draw(np.zeros(2, np.float32), _sampling(params))
