"""What comes: work per second of each tier, and how many prompts of each size were set aside."""

from collections.abc import Sequence
from math import exp

from edged.core.types import SloTier

RATE_S = 30.0
"""Seconds over which arrivals are averaged."""
_COMPETING_PART = 0.5
"""Work that comes and is set aside, as far as it is expected to compete."""
_FORGETTING = 0.999
_SPARED = 0.6
"""Of each size of prompts this part is kept, as large a part of all as is kept, before any size is
asked for more."""


class Arrivals:
    """Work that comes, by tier, averaged over the last `RATE_S`. Mutable; owned by a forecast."""

    def __init__(self) -> None:
        self._offered = dict.fromkeys(SloTier, 0.0)
        """Seconds of work per second, as of `_at_s`."""
        self._accepted = dict.fromkeys(SloTier, 0.0)
        self._horizon_s = dict.fromkeys(SloTier, 0.0)
        """Time from the arrival until it is due, of the tier's last."""
        self._at_s = 0.0

    def come(self, tier: SloTier, work_s: float, horizon_s: float, now_s: float) -> None:
        self._forget(now_s)
        self._offered[tier] += work_s / RATE_S
        self._accepted[tier] += work_s / RATE_S
        self._horizon_s[tier] = max(0.0, horizon_s)

    def set_aside(self, tier: SloTier, work_s: float, now_s: float) -> None:
        self._forget(now_s)
        self._accepted[tier] = max(0.0, self._accepted[tier] - work_s / RATE_S)

    def take_back(self, tier: SloTier, work_s: float, now_s: float) -> None:
        self._forget(now_s)
        self._accepted[tier] += work_s / RATE_S

    def offered(self, now_s: float) -> float:
        """Seconds of work per second, of all tiers."""
        return sum(self._offered.values()) * self._kept(now_s)

    def expected(self, now_s: float) -> Sequence[tuple[float, float]]:
        """For each tier with arrivals: seconds of work per second that are to be counted with, and
        how long after its arrival it is due. Those due later than what is asked for do not count:
        work that is due in `t` seconds is passed by `rate · (t − horizon)` seconds of it."""
        kept = self._kept(now_s)
        return [
            (max(accepted, _COMPETING_PART * self._offered[tier]) * kept, self._horizon_s[tier])
            for tier, accepted in self._accepted.items()
            if self._offered[tier] > 0.0
        ]

    def offered_before(self, left_s: float, now_s: float) -> float:
        """Seconds of work that will come and be due within `left_s`, if none is set aside."""
        work_s = sum(
            rate * max(0.0, left_s - self._horizon_s[tier]) for tier, rate in self._offered.items()
        )
        return work_s * self._kept(now_s)

    def _kept(self, now_s: float) -> float:
        return exp((self._at_s - now_s) / RATE_S)

    def _forget(self, now_s: float) -> None:
        kept = self._kept(now_s)
        self._at_s = now_s
        for rates in (self._offered, self._accepted):
            for tier in rates:
                rates[tier] *= kept


class Sizes:
    """How many prompts of each size, by powers of two, came and were set aside. Mutable."""

    def __init__(self) -> None:
        self._come: dict[int, float] = {}
        self._aside: dict[int, float] = {}
        self._num_come = 0.0
        self._num_aside = 0.0

    def come(self, num_tokens: int) -> None:
        size = num_tokens.bit_length()
        self._aside[size] = self._aside.get(size, 0.0) * _FORGETTING
        self._come[size] = self._come.get(size, 0.0) * _FORGETTING + 1.0
        self._num_come = self._num_come * _FORGETTING + 1.0
        self._num_aside *= _FORGETTING

    def set_aside(self, num_tokens: int) -> None:
        size = num_tokens.bit_length()
        self._aside[size] = self._aside.get(size, 0.0) + 1.0
        self._num_aside += 1.0

    def take_back(self, num_tokens: int) -> None:
        size = num_tokens.bit_length()
        self._aside[size] = max(0.0, self._aside.get(size, 0.0) - 1.0)
        self._num_aside = max(0.0, self._num_aside - 1.0)

    def lost(self, num_tokens: int) -> float:
        """Part of that size that was set aside of late."""
        size = num_tokens.bit_length()
        return self._aside.get(size, 0.0) / max(self._come.get(size, 0.0), 1.0)

    def is_spared(self, num_tokens: int) -> bool:
        """Whether that size has lost its part."""
        kept_of_all = 1.0 - self._num_aside / max(self._num_come, 1.0)
        return self.lost(num_tokens) >= 1.0 - _SPARED * kept_of_all
