"""How often an engine is replaced before its model is given up, and how long each time waits."""

FIRST_BACK_OFF_S = 0.25
MAX_BACK_OFF_S = 10.0


class RestartBudget:
    """Counts losses in a row. Progress between two losses makes the later one the first again."""

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._num_losses = 0

    @property
    def num_losses(self) -> int:
        """Losses since there was progress."""
        return self._num_losses

    def lose(self, *, has_progressed: bool) -> float | None:
        """Seconds to wait before the engine is started again; None: it is to be given up.

        The first restart is at once, the next after 0.25 s, then twice as long each time, up to
        10 s.
        """
        self._num_losses = 1 if has_progressed else self._num_losses + 1
        if self._num_losses > self._max_restarts:
            return None
        if self._num_losses == 1:
            return 0.0
        doublings = min(self._num_losses - 2, 16)
        return min(FIRST_BACK_OFF_S * 2.0**doublings, MAX_BACK_OFF_S)
