"""Decides the next token: a pure function of logits, parameters and the tokens so far.

Theory of operation: in llama.cpp's order, bias → penalties → top-k → top-p → min-p → temperature,
then one draw. Nothing is remembered between tokens, so a sequence that was swapped, recomputed or
moved to another process goes on as if nothing had happened. The draw is Gumbel-max: the candidate
with the largest logit/temperature + g wins, where g is a hash of (seed, index in the answer, token
id). That samples exactly the softmax, needs no order of candidates, and a last-bit difference of
the logits (another batch shape) changes the winner only where two sums tie.

The largest logits are found without sorting the vocabulary: the k-th largest of the maxima of
blocks is a lower bound of the k-th largest logit, and few logits reach it. A small top-k is mostly
decided by less: the tokens near the largest logit, where the most that the others could weigh would
not move a cut.
"""

import math
from collections import Counter
from collections.abc import Collection
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from edged.core.plan import Sampling
from edged.core.types import SampledToken, SamplingParams, TokenLogprob

Logits = NDArray[np.float32]
TokenIds = NDArray[np.intp]

PENALTY_WINDOW_TOKENS = 64
"""Penalties look at this many last tokens of prompt and answer."""

_BY_LOGIT = itemgetter(0)
_FEW = 128
"""Largest top-k that is drawn from in plain numbers."""
_NEAR = 5.0
"""How far below the largest logit a small top-k looks first. What is further down has less than a
hundredth of the likeliest token's weight."""
_MANY = 256
"""Near tokens, from where on numpy finds the largest of them faster."""
_BLOCK = 128
_FIRST_GUESS = 256
"""Candidates that top-p looks at first; a peaked distribution needs no more."""
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK_64 = 2**64 - 1


class NotFiniteError(ValueError):
    """The model computed no usable logits: the largest is NaN or infinite."""


class Sampler:
    """Draws tokens for one vocabulary. Holds no state of any sequence."""

    def __init__(self, vocab_size: int, eog_token_ids: Collection[int]) -> None:
        self._vocab_size = vocab_size
        self._eog = np.array(sorted(eog_token_ids), np.intp)
        self._eog_ids = frozenset(eog_token_ids)

    def draw(self, logits: Logits, sampling: Sampling) -> SampledToken:
        """The next token of one sequence. `logits`: (vocab_size,) f32, the same afterwards.

        Raises:
            NotFiniteError: nothing can be drawn from these logits.
        """
        adjusted_ids = self._adjusted_ids(sampling)
        if adjusted_ids is None:
            token_id = self._choose(logits, sampling)
        else:
            # A few of many logits are lowered in place and put back: a copy of all of them would
            # take longer than anything else here.
            raw = logits[adjusted_ids]
            try:
                self._adjust(logits, sampling)
                token_id = self._choose(logits, sampling)
            finally:
                logits[adjusted_ids] = raw
        if sampling.params.logprobs is None:
            return SampledToken(token_id)
        return _with_logprobs(logits, token_id, sampling.params.logprobs)

    def _choose(self, logits: Logits, sampling: Sampling) -> int:
        params = sampling.params
        if _draws_from_few(params):
            banned = self._eog_ids if params.ignore_eos else frozenset[int]()
            return _draw_from_few(logits, sampling, banned)
        greedy = int(logits.argmax())
        largest = float(logits[greedy])
        _check_finite(largest)
        if params.temperature == 0:
            return greedy
        index = len(sampling.token_ids) - sampling.num_prompt_tokens
        return _draw(logits, _candidates(logits, largest, params), params, index)

    def _adjusted_ids(self, sampling: Sampling) -> TokenIds | None:
        """Ids whose logits `_adjust` may change; None if there are none."""
        params = sampling.params
        parts: list[TokenIds] = []
        if params.ignore_eos and not _draws_from_few(params):
            parts.append(self._eog)
        if params.logit_bias:
            biased = [token_id for token_id, _ in params.logit_bias]
            parts.append(np.array([i for i in biased if 0 <= i < self._vocab_size], np.intp))
        if _has_penalties(params):
            parts.append(np.array(sampling.token_ids[-PENALTY_WINDOW_TOKENS:], np.intp))
        if len(parts) < 2:
            return parts[0] if parts else None
        return np.concatenate(parts)

    def _adjust(self, logits: Logits, sampling: Sampling) -> None:
        """Apply bias and penalties, in place."""
        params = sampling.params
        for token_id, bias in params.logit_bias:
            if 0 <= token_id < self._vocab_size:
                logits[token_id] += bias
        if params.ignore_eos and not _draws_from_few(params):
            logits[self._eog] = -np.inf
        if _has_penalties(params):
            _penalize(logits, sampling)


def _check_finite(largest: float) -> None:
    if not math.isfinite(largest):
        raise NotFiniteError(f"the largest logit is {largest}")


def _draws_from_few(params: SamplingParams) -> bool:
    return 0 < params.top_k <= _FEW and params.temperature > 0


def _draw_from_few(logits: Logits, sampling: Sampling, banned: frozenset[int]) -> int:
    """As `_candidates` and `_draw`, for a small top-k: the few that are left fit plain numbers, and
    a dozen calls of numpy on forty of them would take longer than the vocabulary does."""
    count = sampling.params.top_k + len(banned)
    largest: float = logits.item(logits.argmax())
    _check_finite(largest)
    floor = largest - _NEAR
    near = (logits >= floor).nonzero()[0]
    if near.size > _MANY:
        near = near[_not_below_kth(logits[near], count)]
    token_id = _draw_from_ranked(_ranked(logits, near, banned), floor, sampling)
    if token_id is None:
        ranked = _ranked(logits, _not_below_kth(logits, count), banned)
        _check_finite(ranked[0][0] if ranked else math.nan)
        token_id = _draw_from_ranked(ranked, -math.inf, sampling)
        assert token_id is not None, "a draw depends on logits below −∞"
    return token_id


def _ranked(logits: Logits, token_ids: TokenIds, banned: frozenset[int]) -> list[tuple[float, int]]:
    """(logit, token id) of those that are not banned, largest first. `token_ids` ascend."""
    logit = logits.item
    pairs = [
        (logit(token_id), token_id) for token_id in token_ids.tolist() if token_id not in banned
    ]
    # Sorting is stable, so the lower id comes first among equals.
    pairs.sort(key=_BY_LOGIT, reverse=True)
    return pairs


def _draw_from_ranked(
    ranked: list[tuple[float, int]], floor: float, sampling: Sampling
) -> int | None:
    """Cut by top-k, top-p and min-p, and draw. `ranked` lacks nothing of the `top_k` largest but
    what is below `floor`; None if that could change the draw."""
    params = sampling.params
    few = ranked[: params.top_k]
    if not few:
        return None
    largest, likeliest = few[0]
    least = largest + math.log(params.min_p) if params.min_p > 0 else -math.inf
    if least >= floor and (len(few) == 1 or few[1][0] < least):
        return likeliest
    num_missing = params.top_k - len(few)
    wanted = most_wanted = math.inf
    if params.top_p < 1:
        total = sum([math.exp(value - largest) for value, _ in few])
        wanted = params.top_p * total
        most_wanted = params.top_p * (total + num_missing * math.exp(floor - largest))
    key = _noise_key(params.seed, len(sampling.token_ids) - sampling.num_prompt_tokens)
    best_score, best_id, reached = -math.inf, likeliest, 0.0
    for value, token_id in few:
        if value < least or reached >= most_wanted:
            return best_id
        if reached >= wanted:
            return None
        score = value / params.temperature + _noise(token_id, key)
        if score > best_score:
            best_score, best_id = score, token_id
        reached += math.exp(value - largest)
    none_missing = num_missing == 0 or least >= floor or reached >= most_wanted
    return best_id if none_missing else None


def _has_penalties(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )


def _penalize(logits: Logits, sampling: Sampling) -> None:
    """Lower the logits of recent tokens, in place (formula: llama-sampler.cpp, penalties)."""
    params = sampling.params
    counts = Counter(sampling.token_ids[-PENALTY_WINDOW_TOKENS:])
    token_ids = np.fromiter(counts.keys(), np.intp, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    values = logits[token_ids]
    factor = np.float32(params.repetition_penalty)
    values = np.where(values <= 0, values * factor, values / factor)
    values -= times * np.float32(params.frequency_penalty) + np.float32(params.presence_penalty)
    logits[token_ids] = values


def _candidates(logits: Logits, largest: float, params: SamplingParams) -> TokenIds | None:
    """Ids of the tokens that top-k, top-p and min-p leave; None if they leave every token."""
    cuts_p = params.top_p < 1
    keeps_all = params.top_k == 0 or params.top_k >= logits.size
    if keeps_all and not cuts_p:
        if params.min_p == 0:
            return None
        return np.flatnonzero(logits >= _min_p_bound(largest, params))
    if keeps_all:
        candidates = _top_p_of_all(logits, largest, params.top_p)
    else:
        candidates = largest_ids(logits, params.top_k)
        if cuts_p:
            weights = np.exp(logits[candidates].astype(np.float64) - largest)
            candidates = candidates[: _num_in_top_p(weights, float(weights.sum()), params.top_p)]
    if params.min_p > 0:
        candidates = candidates[logits[candidates] >= _min_p_bound(largest, params)]
    return candidates


def _min_p_bound(largest: float, params: SamplingParams) -> float:
    return largest + math.log(params.min_p)


def _top_p_of_all(logits: Logits, largest: float, top_p: float) -> TokenIds:
    """The likeliest tokens of the whole vocabulary that add up to `top_p`."""
    total = float(np.exp(logits - np.float32(largest)).sum(dtype=np.float64))
    count = _FIRST_GUESS
    while True:
        candidates = largest_ids(logits, min(count, logits.size))
        weights = np.exp(logits[candidates].astype(np.float64) - largest)
        if count >= logits.size or float(weights.sum()) >= top_p * total:
            return candidates[: _num_in_top_p(weights, total, top_p)]
        count *= 8


def _noise(token_id: int, key: int) -> float:
    """What `_scores` adds to a logit, for one token."""
    bits = ((token_id + 1) * _GOLDEN + key) & _MASK_64
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK_64
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK_64
    bits ^= bits >> 31
    return -math.log(-math.log(((bits >> 12) + 0.5) * 2.0**-52))


def _num_in_top_p(weights: NDArray[np.float64], total: float, top_p: float) -> int:
    """How many leading weights add up to `top_p` of the total; at least one."""
    reached = int(np.searchsorted(np.cumsum(weights), top_p * total))
    return min(reached + 1, weights.size)


def largest_ids(logits: Logits, count: int) -> TokenIds:
    """Ids of the `count` largest logits, largest first, lower id first among equals."""
    found = _not_below_kth(logits, count)
    # `found` is in order of id, so a stable sort keeps the lower id first.
    order = np.argsort(-logits[found], kind="stable")[:count]
    return found[order]


def _not_below_kth(logits: Logits, count: int) -> TokenIds:
    """Ids, ascending, of a superset of the `count` largest logits.

    Raises:
        NotFiniteError: the largest is NaN, which sorts above everything, or infinite.
    """
    num_blocks = logits.size // _BLOCK
    if count >= logits.size:
        _check_finite(float(logits.max()))
        return np.arange(logits.size)
    if count * 4 <= num_blocks:
        # A block is a column here: the maximum over rows is the one that numpy vectorizes.
        num_in_blocks = num_blocks * _BLOCK
        rows = logits[:num_in_blocks].reshape(_BLOCK, num_blocks)
        ordered = np.maximum.reduce(rows, axis=0)
        if num_in_blocks < logits.size:
            ordered[0] = np.maximum(ordered[0], logits[num_in_blocks:].max())
    else:
        ordered = logits.copy()
    # Methods, because numpy's functions of the same names go through more code to get there.
    ordered.partition((ordered.size - count, ordered.size - 1))
    _check_finite(float(ordered[-1]))
    found: TokenIds = (logits >= ordered[ordered.size - count]).nonzero()[0]
    return found


def _draw(logits: Logits, candidates: TokenIds | None, params: SamplingParams, index: int) -> int:
    """Sample the softmax of logits/temperature over the candidates."""
    key = _noise_key(params.seed, index)
    if candidates is None:
        candidates = _possible_winners(logits, params.temperature, key)
    if candidates.size == 1:
        return int(candidates[0])
    return int(candidates[_scores(logits, candidates, params.temperature, key).argmax()])


def _scores(
    logits: Logits, token_ids: TokenIds, temperature: float, key: int
) -> NDArray[np.float64]:
    scaled = logits[token_ids].astype(np.float64) / temperature
    return scaled - np.log(-np.log(_uniform(_hash(token_ids, key))))


def _possible_winners(logits: Logits, temperature: float, key: int) -> TokenIds:
    """Ids, of the whole vocabulary, that may have the largest score: the likeliest, and those
    whose noise is large enough to beat the best of them from below."""
    likeliest = largest_ids(logits, min(_FIRST_GUESS, logits.size))
    best = float(_scores(logits, likeliest, temperature, key).max())
    least_noise = best - float(logits[likeliest[-1]]) / temperature
    # Noise g = −log(−log u) is at least x where u ≥ exp(−exp(−x)).
    least_uniform = math.exp(-math.exp(min(-least_noise, 700.0)))
    lucky = np.flatnonzero(_uniform(_hash(np.arange(logits.size), key)) >= least_uniform)
    return np.concatenate((likeliest, lucky))


def _noise_key(seed: int, index: int) -> int:
    return _mix(_mix(seed & _MASK_64) + index & _MASK_64)


def _hash(token_ids: TokenIds, key: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood 2014): its output function over a counter."""
    bits = token_ids.astype(np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(_GOLDEN)
    bits += np.uint64(key)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(_MIX_1)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    return bits


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in (0, 1), never 0 or 1."""
    uniform = (bits >> np.uint64(12)).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-52
    return uniform


def _mix(value: int) -> int:
    """SplitMix64's output function on one integer."""
    value = (value + _GOLDEN) & _MASK_64
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK_64
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK_64
    return value ^ (value >> 31)


def _with_logprobs(logits: Logits, token_id: int, num_top: int) -> SampledToken:
    """The token with its and the likeliest tokens' log-probabilities, of the raw logits."""
    largest = logits.max()
    total = float(np.exp(logits - largest).sum(dtype=np.float64))
    normalizer = float(largest) + math.log(total)
    top: tuple[TokenLogprob, ...] = ()
    if num_top > 0:
        ids = largest_ids(logits, min(num_top, logits.size))
        top = tuple(TokenLogprob(int(i), float(logits[i]) - normalizer) for i in ids)
    return SampledToken(token_id, float(logits[token_id]) - normalizer, top)
