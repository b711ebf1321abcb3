"""What comes: work per second by when it is due, and how many prompts of each size were set
aside."""

from collections.abc import Sequence
from math import exp, frexp

RATE_S = 30.0
"""Seconds over which arrivals are averaged."""
_FORGOTTEN = 1e-6
"""Work per second that is as good as none."""
_SHORTEST_S, _LONGEST_S = 2.0**-4, 2.0**20
"""Horizons that are told apart."""
_FORGETTING = 0.999
_SPARED = 0.6
"""Of each size of prompts this part is kept, as large a part of all as is kept, before any size is
asked for more."""


class _Rate:
    """Of what is due about as long after it comes."""

    __slots__ = ("accepted", "horizons", "offered")

    def __init__(self) -> None:
        self.offered = 0.0
        """Seconds of work per second."""
        self.accepted = 0.0
        self.horizons = 0.0
        """The same as offered, times seconds until due."""


class Arrivals:
    """Work that comes, averaged over the last `RATE_S`, by the powers of two of its *horizon*: the
    seconds from its arrival until it is due. Mutable; owned by a forecast."""

    def __init__(self) -> None:
        self._rates: dict[int, _Rate] = {}
        self._at_s = 0.0

    def come(self, work_s: float, horizon_s: float, now_s: float) -> None:
        self._forget(now_s)
        rate = self._rates.setdefault(_octave(horizon_s), _Rate())
        rate.offered += work_s / RATE_S
        rate.accepted += work_s / RATE_S
        rate.horizons += work_s / RATE_S * max(0.0, horizon_s)

    def set_aside(self, work_s: float, horizon_s: float, now_s: float) -> None:
        self._forget(now_s)
        rate = self._rates.setdefault(_octave(horizon_s), _Rate())
        rate.accepted = max(0.0, rate.accepted - work_s / RATE_S)

    def take_back(self, work_s: float, horizon_s: float, now_s: float) -> None:
        self._forget(now_s)
        self._rates.setdefault(_octave(horizon_s), _Rate()).accepted += work_s / RATE_S

    def offered(self, now_s: float) -> float:
        """Seconds of work per second, in all."""
        return sum(rate.offered for rate in self._rates.values()) * self._kept(now_s)

    def expected(self, now_s: float) -> Sequence[tuple[float, float]]:
        """For each horizon: seconds of work per second that come and are not set aside, and how
        long after its arrival it is due. Those due later than what is asked for do not count: work
        that is due in `t` seconds is passed by `rate · (t − horizon)` seconds of it."""
        kept = self._kept(now_s)
        return [
            (rate.accepted * kept, rate.horizons / rate.offered)
            for rate in self._rates.values()
            if rate.offered > 0.0
        ]

    def offered_before(self, left_s: float, now_s: float) -> float:
        """Seconds of work that will come and be due within `left_s`, if none is set aside."""
        work_s = sum(
            rate.offered * max(0.0, left_s - rate.horizons / rate.offered)
            for rate in self._rates.values()
            if rate.offered > 0.0
        )
        return work_s * self._kept(now_s)

    def _kept(self, now_s: float) -> float:
        return exp((self._at_s - now_s) / RATE_S)

    def _forget(self, now_s: float) -> None:
        kept = self._kept(now_s)
        self._at_s = now_s
        for octave, rate in list(self._rates.items()):
            rate.offered *= kept
            rate.accepted *= kept
            rate.horizons *= kept
            if rate.offered < _FORGOTTEN and rate.accepted < _FORGOTTEN:
                del self._rates[octave]


def _octave(horizon_s: float) -> int:
    return frexp(min(max(horizon_s, _SHORTEST_S), _LONGEST_S))[1]


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

    def loss(self, num_tokens: int) -> tuple[bool, float]:
        """Whether that size is spared, and if so what it has lost."""
        spared = self.is_spared(num_tokens)
        return spared, self.lost(num_tokens) if spared else 0.0

    def is_spared(self, num_tokens: int) -> bool:
        """Whether that size has lost its part."""
        kept_of_all = 1.0 - self._num_aside / max(self._num_come, 1.0)
        return self.lost(num_tokens) >= 1.0 - _SPARED * kept_of_all
