"""When an engine that has work has finished no step for too long.

Theory of operation: the daemon looks now and then. Only time that it can have watched counts: the
span from one look to the next is taken for at most `longest_look_s`, so a host that slept, or a
daemon that was stopped together with its engine, does not make a stall. Nor does the time that an
engine without a step may take to tokenize what it was given.
"""

from edged.engine.wire import Prompt, num_characters

TOKENIZE_CHARACTER_S = 10e-6
"""Longest time to tokenize a character: ten times what llama.cpp's BPE takes on a slow core."""


class EngineWork:
    """Whether an engine has anything to do."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        """Since when it has had requests; None when it has none."""
        self.asked_since_s: float | None = None
        """Since when it has owed the tokens of a text that belongs to no request."""
        self.tokenizing_until_s = 0.0
        """Until then it may be tokenizing prompts it was given, and have no steps to run."""

    @property
    def any_since_s(self) -> float | None:
        """None when it has nothing to do."""
        times_s = [at_s for at_s in (self.since_s, self.asked_since_s) if at_s is not None]
        return min(times_s, default=None)

    def add(self, prompt: Prompt, now_s: float) -> None:
        """A request was given to the engine."""
        if self.since_s is None:
            self.since_s = now_s
        self.tokenize(prompt, now_s)

    def tokenize(self, prompt: Prompt, now_s: float) -> None:
        """A text was given to the engine."""
        until_s = now_s + num_characters(prompt) * TOKENIZE_CHARACTER_S
        self.tokenizing_until_s = max(self.tokenizing_until_s, until_s)

    def end(self) -> None:
        """The engine has no request any more."""
        self.since_s = None
        self.tokenizing_until_s = 0.0


class StallWatch:
    def __init__(self, stall_s: float, longest_look_s: float, now_s: float) -> None:
        self._stall_s = stall_s
        self._longest_look_s = longest_look_s
        self._looked_at_s = now_s
        self._num_steps_ended = 0
        self._waited_s = 0.0

    def look(
        self, now_s: float, num_steps_ended: int | None, work: EngineWork, *, is_executing: bool
    ) -> bool:
        """Whether the engine stalls. `num_steps_ended` is None when it cannot be read, which is no
        progress."""
        unwatched_s = self._looked_at_s
        if not is_executing:
            unwatched_s = max(unwatched_s, work.tokenizing_until_s)
        watched_s = min(max(now_s - unwatched_s, 0.0), self._longest_look_s)
        self._looked_at_s = now_s
        has_progressed = num_steps_ended is not None and num_steps_ended != self._num_steps_ended
        if num_steps_ended is not None:
            self._num_steps_ended = num_steps_ended
        since_s = work.any_since_s
        if since_s is None or has_progressed:
            self._waited_s = 0.0
            return False
        # Work that is younger than what was waited for is not what was waited for.
        self._waited_s = min(self._waited_s + watched_s, now_s - since_s)
        return self._waited_s >= self._stall_s
