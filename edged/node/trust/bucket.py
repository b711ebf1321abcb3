"""How often something may happen: a bucket of permits that fills at an even rate."""

BURST_S = 60.0
"""A bucket holds what this long fills …"""
MAX_BURST = 60.0
"""… but no more permits than this."""


class RateBucket:
    """Full at first. Holds at least one permit."""

    def __init__(self, per_minute: float, now_s: float) -> None:
        assert per_minute > 0, f"{per_minute} per minute never lets anything happen"
        self._per_s = per_minute / 60.0
        self._most = max(1.0, min(self._per_s * BURST_S, MAX_BURST))
        self._permits = self._most
        self._filled_s = now_s

    def take(self, now_s: float) -> float | None:
        """Take one permit: None; or the seconds until there is one, and nothing is taken."""
        self._permits = min(self._most, self._permits + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        # Sums of many small parts may fall short of a whole by a rounding error.
        if self._permits >= 1.0 - 1e-9:
            self._permits = max(0.0, self._permits - 1.0)
            return None
        return (1.0 - self._permits) / self._per_s
