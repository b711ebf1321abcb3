"""What has waited or lived too long: deadlines of answers, and the longest waits of tiers."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edged.core.moments import Moments
from edged.core.sequence import Sequence
from edged.core.types import FinishReason, SeqId, SloTier, TierSpec


class Expired(NamedTuple):
    seq: Sequence
    reason: FinishReason
    detail: str
    """A sentence for the client."""


class Expiries:
    """Mutable; owned by the scheduler."""

    def __init__(self, tiers: Mapping[SloTier, TierSpec], live: Mapping[SeqId, Sequence]) -> None:
        """`live` is the owner's own mapping, as it changes."""
        self._tiers = tiers
        self._live = live
        self._moments = Moments(live)

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def first_s(self) -> float | None:
        return self._moments.first_s

    def set_tiers(self, tiers: Mapping[SloTier, TierSpec]) -> None:
        """Other waits from now on, for those that wait already too."""
        self._tiers = tiers
        for seq in self._live.values():
            self.watch(seq)

    def watch(self, seq: Sequence) -> None:
        request = seq.request
        moments_s = [] if request.deadline_s is None else [request.deadline_s]
        max_queue_s = self._tiers[seq.tier].max_queue_s
        if max_queue_s is not None and seq.first_scheduled_s is None:
            moments_s.append(request.arrival_s + max_queue_s)
        if moments_s:
            self._moments.add(min(moments_s), seq.seq_id)

    def due(self, now_s: float) -> Iterator[Expired]:
        """Those whose time is over; their owner ends them one by one."""
        for seq_id in self._moments.due(now_s):
            seq = self._live[seq_id]
            expired = self._expired(seq, now_s)
            if expired is None:
                self.watch(seq)  # it got its slot in time, or may wait longer now
            else:
                yield expired

    def _expired(self, seq: Sequence, now_s: float) -> Expired | None:
        deadline_s = seq.request.deadline_s
        if deadline_s is not None and deadline_s <= now_s:
            allowed_s = deadline_s - seq.request.arrival_s
            detail = (
                f"the deadline of {allowed_s:.3g} s passed after "
                f"{seq.num_generated_tokens} of at most {seq.max_tokens} tokens"
            )
            return Expired(seq, FinishReason.DEADLINE, detail)
        max_queue_s = self._tiers[seq.tier].max_queue_s
        if seq.first_scheduled_s is not None or max_queue_s is None:
            return None
        if seq.request.arrival_s + max_queue_s <= now_s:
            detail = f"waited longer than the {seq.tier} tier allows ({max_queue_s:.3g} s)"
            return Expired(seq, FinishReason.QUEUE_TIMEOUT, detail)
        return None
