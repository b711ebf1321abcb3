"""How long it takes to move KV somewhere: seconds per byte, as measured."""

_FORGETTING = 0.7
_FIRST_BYTES = 2**16
"""What the guess before the first measurement counts as."""
_MOST_AT_ONCE = 4.0
"""Times the present figure that one measurement counts as at most: a stall says nothing of the
next move."""


class MovingCost:
    """Of the bytes that were moved lately; large moves say more than small ones. Mutable."""

    def __init__(self, guess_s: float) -> None:
        """`guess_s`: seconds per byte, until something was moved."""
        self._bytes = float(_FIRST_BYTES)
        self._seconds = guess_s * _FIRST_BYTES
        self._is_guess = True

    @property
    def byte_s(self) -> float:
        return self._seconds / self._bytes

    def observe(self, num_bytes: int, seconds: float) -> None:
        """So many bytes were moved, one way."""
        if num_bytes <= 0 or seconds <= 0:
            return
        if not self._is_guess:
            seconds = min(seconds, _MOST_AT_ONCE * self.byte_s * num_bytes)
        self._is_guess = False
        self._bytes = _FORGETTING * self._bytes + num_bytes
        self._seconds = _FORGETTING * self._seconds + seconds
