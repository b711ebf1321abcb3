"""How long answers get: learned from those that ended, per client, tier and shape of the prompt.

Theory of operation. Lengths are counted in geometric buckets, an older answer for less than a newer
one. What is known of a client's answers to prompts of a size is little at first, so each level is
put over the one above it, which counts as `_TRUST` answers: all answers, those of the tier, those
of the tier's prompts of that size, those of the client among them. The length of an answer that has
*n* tokens already is a quantile of those that got longer than *n*: the estimate is refined while
tokens come. A wrong estimate costs time, never correctness.

A client may say how long an answer will be. That is counted on as long as its answers do not
outgrow what it said more often than what is expected here: else others' promises would pay for it.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Numbers
from math import ceil, log2

from edged.core.sequence import Sequence
from edged.core.types import ClientId, Request, SeqId, SloTier

_PER_OCTAVE = 2
_NUM_BUCKETS = 20 * _PER_OCTAVE
_BORDERS: tuple[float, ...] = tuple(
    2.0 ** (place / _PER_OCTAVE) for place in range(_NUM_BUCKETS + 1)
)
_FORGETTING = 0.995
_TRUST = 8.0
_EXPECTED_PART = 0.6
"""Part of the answers like it that an answer is expected not to outgrow."""
_SURE_PART = 0.9
"""The same, for what is promised."""
_REFINED_AFTER = 16
"""Tokens after which an answer's expected length is looked at again, if it has not outgrown that;
half of it, if more."""
_OUTGROWN_WEIGHT = 0.1
"""Of the last answer in how often a client's answers outgrew what it said."""
MAX_KEYS = 4096
"""Combinations of client, tier and size that are remembered; the one unused for longest goes."""
_PRIOR_MEDIAN = 128.0
_PRIOR_OCTAVES = 1.5
"""Before any answer ended: log-normal about the median."""

_Key = tuple[object, ...]


class AnswerLengths:
    """Mutable; owned by the policy."""

    def __init__(self) -> None:
        self._counts: OrderedDict[_Key, _Counts] = OrderedDict()
        self._prior = _normal_in_octaves(log2(_PRIOR_MEDIAN), _PRIOR_OCTAVES)

    def __len__(self) -> int:
        return len(self._counts)

    def observe(
        self, client_id: ClientId, tier: SloTier, num_prompt_tokens: int, num_tokens: int
    ) -> None:
        """An answer came to its own end, or to its limit, after so many tokens."""
        bucket = _bucket(num_tokens)
        for key in _keys(client_id, tier, num_prompt_tokens):
            counts = self._counts.get(key)
            if counts is None:
                counts = self._counts[key] = _Counts()
                if len(self._counts) > MAX_KEYS:
                    self._counts.popitem(last=False)
            else:
                self._counts.move_to_end(key)
            counts.add(bucket)

    def quantile(
        self,
        part: float,
        client_id: ClientId,
        tier: SloTier,
        num_prompt_tokens: int,
        longer_than: int = 0,
    ) -> float:
        """Length, in tokens, that this part of the answers like it does not exceed, out of those
        that got longer than `longer_than`."""
        first = _bucket(longer_than)
        weights, part_of_above = [0.0] * (_NUM_BUCKETS - first), 1.0
        for key in reversed(_keys(client_id, tier, num_prompt_tokens)):
            level = self._counts.get(key)
            if level is not None:
                part_of_above /= level.total + _TRUST
                weights = _plus(weights, level.counts, first, part_of_above)
                part_of_above *= _TRUST
        return _quantile(_plus(weights, self._prior, first, part_of_above), part, longer_than)


class _Counts:
    """Of one group of answers, by bucket: an array, since there may be `MAX_KEYS` of them."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = array("d", bytes(8 * _NUM_BUCKETS))
        self.total = 0.0

    def add(self, bucket: int) -> None:
        self.counts = array("d", [_FORGETTING * count for count in self.counts])
        self.counts[bucket] += 1.0
        self.total = _FORGETTING * self.total + 1.0


class ExpectedLengths:
    """Of the answers in progress, from admission to the end. Mutable; owned by the policy."""

    def __init__(self) -> None:
        self._lengths = AnswerLengths()
        self._known: dict[SeqId, tuple[float, int]] = {}
        """Of each sequence: its expected length, and the length at which to look anew."""
        self._outgrown: OrderedDict[ClientId, float] = OrderedDict()
        """Part of the answers that got longer than their client said; of clients of which any
        did."""

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, seq: Sequence) -> None:
        self._known[seq.seq_id] = self._estimate(seq)

    def end(self, seq: Sequence, *, by_itself: bool) -> None:
        """It ended; `by_itself`: so that its length says how long such answers are."""
        self._known.pop(seq.seq_id, None)
        request, num_tokens = seq.request, seq.num_generated_tokens
        given = request.expected_tokens
        if given is not None and (by_itself or num_tokens > given):
            self._learn_word(request.client_id, has_outgrown=num_tokens > given)
        if by_itself:
            self._lengths.observe(request.client_id, seq.tier, seq.num_prompt_tokens, num_tokens)

    def tokens(self, seq: Sequence) -> float:
        """Length of the whole answer."""
        num_tokens = seq.num_generated_tokens
        known = self._known.get(seq.seq_id)
        if known is not None and num_tokens < known[1]:
            return known[0]
        expected, until = self._estimate(seq)
        if known is not None:  # it was admitted
            self._known[seq.seq_id] = expected, until
        return expected

    def left(self, seq: Sequence) -> float:
        """Tokens still to come."""
        num_tokens = len(seq.token_ids) - seq.num_prompt_tokens
        known = self._known.get(seq.seq_id)
        expected = known[0] if known is not None and num_tokens < known[1] else self.tokens(seq)
        return max(1.0, expected - num_tokens)

    def sure_tokens(self, seq: Sequence) -> float:
        """What nine in ten answers like an arrival's do not outgrow."""
        request = seq.request
        if self._given(request) is not None:
            return self.tokens(seq)
        length = self._lengths.quantile(
            _SURE_PART, request.client_id, seq.tier, seq.num_prompt_tokens
        )
        return min(length, seq.max_tokens)

    def _estimate(self, seq: Sequence) -> tuple[float, int]:
        request, num_tokens = seq.request, seq.num_generated_tokens
        given = self._given(request)
        if given is not None and given > num_tokens:
            expected, until = float(given), given
        else:
            expected = self._lengths.quantile(
                _EXPECTED_PART, request.client_id, seq.tier, seq.num_prompt_tokens, num_tokens
            )
            until = min(num_tokens + max(_REFINED_AFTER, num_tokens // 2), ceil(expected))
        return min(expected, seq.max_tokens), until

    def _given(self, request: Request) -> int | None:
        """What the client said, if that is to be counted on."""
        is_kept = self._outgrown.get(request.client_id, 0.0) <= 1.0 - _EXPECTED_PART
        return request.expected_tokens if is_kept else None

    def _learn_word(self, client_id: ClientId, *, has_outgrown: bool) -> None:
        part = self._outgrown.pop(client_id, 0.0)
        part += _OUTGROWN_WEIGHT * (has_outgrown - part)
        if part > _OUTGROWN_WEIGHT / 10:
            self._outgrown[client_id] = part
        if len(self._outgrown) > MAX_KEYS:
            self._outgrown.popitem(last=False)


def _keys(client_id: ClientId, tier: SloTier, num_prompt_tokens: int) -> tuple[_Key, ...]:
    """From the widest group of answers to the narrowest."""
    size = num_prompt_tokens.bit_length()
    return (), (tier,), (tier, size), (tier, size, client_id)


def _bucket(num_tokens: int) -> int:
    return min(_NUM_BUCKETS - 1, int(_PER_OCTAVE * log2(max(num_tokens, 1))))


def _plus(weights: list[float], others: Numbers[float], first: int, part: float) -> list[float]:
    """Weights from the first bucket on, and a part of those of others."""
    pairs = zip(weights, others[first:], strict=True)
    return [weight + part * other for weight, other in pairs]


def _quantile(weights: list[float], part: float, longer_than: int) -> float:
    """Of lengths above one, by the weights of its bucket and of those that follow. Within a
    bucket, lengths are evenly spread."""
    first = _bucket(longer_than)
    low, high = max(_BORDERS[first], float(longer_than)), _BORDERS[first + 1]
    weights[0] *= (high - low) / (high - _BORDERS[first])
    wanted = part * sum(weights)
    for place, mass in enumerate(weights, start=first):
        if mass >= wanted > 0 or place == _NUM_BUCKETS - 1:
            start = low if place == first else _BORDERS[place]
            return start + (_BORDERS[place + 1] - start) * min(1.0, wanted / max(mass, 1e-12))
        wanted -= mass
    raise AssertionError("the last bucket takes what is left")


def _normal_in_octaves(mean: float, deviation: float) -> list[float]:
    """Weights of the buckets, of sum 1."""
    raw = [
        2.0 ** -((((place + 0.5) / _PER_OCTAVE - mean) / deviation) ** 2)
        for place in range(_NUM_BUCKETS)
    ]
    total = sum(raw)
    return [one / total for one in raw]
