"""Who waits, in order: one sorted queue per tier, bounded per tier and per client."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice

from edged.core.sequence import Sequence, SequenceState, by_rank
from edged.core.types import ClientId, SloTier, TierSpec


class WaitingQueue:
    """Waiting and preempted sequences; mutable, owned by the scheduler.

    Only sequences that never ran count against the limits: a preempted one was admitted once.
    """

    def __init__(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        self._tiers = tiers
        self._queues: dict[SloTier, list[Sequence]] = {tier: [] for tier in tiers}
        self._promised: list[Sequence] = []
        """Those of all tiers that are kept in time."""
        self._length = 0
        self._num_new: Counter[SloTier] = Counter()
        self._num_new_by_client: Counter[tuple[SloTier, ClientId]] = Counter()
        self._missing_tokens: Counter[SloTier] = Counter()

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        """Other limits from now on; nobody who waits already is sent away."""
        self._tiers = tiers

    def __len__(self) -> int:
        return self._length

    def __contains__(self, seq: Sequence) -> bool:
        queue = self._queues[seq.tier]
        index = bisect_left(queue, by_rank(seq), key=by_rank)
        return index < len(queue) and queue[index] is seq

    def has(self, tier: SloTier) -> bool:
        """Whether somebody of that tier waits."""
        return bool(self._queues[tier])

    def is_full(self, tier: SloTier) -> bool:
        return self._num_new[tier] >= self._tiers[tier].max_waiting

    def is_client_full(self, tier: SloTier, client_id: ClientId) -> bool:
        limit = self._tiers[tier].max_waiting_per_client
        return self._num_new_by_client[tier, client_id] >= limit

    def add(self, seq: Sequence) -> None:
        insort(self._queues[seq.tier], seq, key=by_rank)
        if seq.is_kept_in_time:
            insort(self._promised, seq, key=by_rank)
        self._length += 1
        self._missing_tokens[seq.tier] += seq.num_missing_tokens
        if seq.state is SequenceState.WAITING:
            self._num_new[seq.tier] += 1
            self._num_new_by_client[seq.tier, seq.request.client_id] += 1

    def remove(self, seq: Sequence) -> None:
        """Called before the sequence's state or tokens change."""
        queue = self._queues[seq.tier]
        index = bisect_left(queue, by_rank(seq), key=by_rank)
        assert queue[index] is seq, f"{seq.seq_id} is not in its queue"
        del queue[index]
        if seq.is_kept_in_time:
            del self._promised[bisect_left(self._promised, by_rank(seq), key=by_rank)]
        self._length -= 1
        self._missing_tokens[seq.tier] -= seq.num_missing_tokens
        if seq.state is SequenceState.WAITING:
            self._num_new[seq.tier] -= 1
            client = (seq.tier, seq.request.client_id)
            self._num_new_by_client[client] -= 1
            if not self._num_new_by_client[client]:
                del self._num_new_by_client[client]

    def in_order(self, owed: frozenset[SloTier]) -> Iterator[Sequence]:
        """Most urgent first, lazily. The first sequence of a tier that is owed time comes before
        all but those that are kept in time."""
        if not owed:
            yield from merge(*self._queues.values(), key=by_rank)
            return
        yield from self._promised
        heads: list[Sequence] = []
        for tier in SloTier:
            if tier in owed:
                heads.extend(islice(_not_kept(self._queues[tier]), 1))
        yield from heads
        rest = merge(*map(_not_kept, self._queues.values()), key=by_rank)
        yield from (seq for seq in rest if seq not in heads)

    def position(self, seq: Sequence) -> int:
        """How many that wait are more urgent."""
        return sum(bisect_left(queue, by_rank(seq), key=by_rank) for queue in self._queues.values())

    def num_in_band(self, tier: SloTier, band: int) -> int:
        """How many of that tier wait in that band."""
        queue = self._queues[tier]
        first = bisect_left(queue, band, key=_band)
        return bisect_left(queue, band + 1, lo=first, key=_band) - first

    def ahead_in_band(self, seq: Sequence) -> int:
        """How many of its tier and band that wait are more urgent."""
        queue = self._queues[seq.tier]
        first = bisect_left(queue, seq.rank.band, key=_band)
        return bisect_left(queue, by_rank(seq), key=by_rank) - first

    def missing_tokens_before(self, seq: Sequence) -> int:
        """Tokens to compute for those that wait and are more urgent: exact for whole tiers, and an
        even share of the sequence's own tier."""
        total = 0
        for tier, queue in self._queues.items():
            before = bisect_left(queue, by_rank(seq), key=by_rank)
            if before:
                total += self._missing_tokens[tier] * before // len(queue)
        return total

    def counts(self, tier: SloTier) -> tuple[int, int]:
        """(never run, preempted)"""
        new = self._num_new[tier]
        return new, len(self._queues[tier]) - new


def _not_kept(queue: Iterable[Sequence]) -> Iterator[Sequence]:
    return (seq for seq in queue if not seq.is_kept_in_time)


def _band(seq: Sequence) -> int:
    return seq.rank.band
