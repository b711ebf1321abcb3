"""When an engine that has work has finished no step for too long.

Theory of operation: the daemon looks now and then. Only time that it can have watched counts: the
span from one look to the next is taken for at most `longest_look_s`, so a host that slept, or a
daemon that was stopped together with its engine, does not make a stall.
"""


class StallWatch:
    def __init__(self, stall_s: float, longest_look_s: float, now_s: float) -> None:
        self._stall_s = stall_s
        self._longest_look_s = longest_look_s
        self._looked_at_s = now_s
        self._num_steps_ended = 0
        self._waited_s = 0.0

    def look(self, now_s: float, num_steps_ended: int | None, work_since_s: float | None) -> bool:
        """Whether the engine stalls.

        `num_steps_ended` is None when it cannot be read, which is no progress; `work_since_s` is
        None without work.
        """
        watched_s = min(now_s - self._looked_at_s, self._longest_look_s)
        self._looked_at_s = now_s
        has_progressed = num_steps_ended is not None and num_steps_ended != self._num_steps_ended
        if num_steps_ended is not None:
            self._num_steps_ended = num_steps_ended
        if work_since_s is None or has_progressed:
            self._waited_s = 0.0
            return False
        # Work that is younger than what was waited for is not what was waited for.
        self._waited_s = min(self._waited_s + watched_s, now_s - work_since_s)
        return self._waited_s >= self._stall_s
