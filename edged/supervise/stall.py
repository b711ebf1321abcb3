"""When an engine that has work has finished no step for too long.

Theory of operation: the daemon looks now and then. Only time that it can have watched counts: the
span from one look to the next is taken for at most `longest_look_s`, so a host that slept, or a
daemon that was stopped together with its engine, does not make a stall. Nor does the time that an
engine may take to tokenize what it was given.
"""

from edged.engine.wire import Prompt, num_characters

TOKENIZE_CHARACTER_S = 10e-6
"""Longest time to tokenize a character: ten times what llama.cpp's BPE takes on a slow core."""


class EngineWork:
    """Whether an engine has requests; written by the book alone."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        """None when it has none."""
        self.tokenizing_until_s = 0.0
        """Until then it may be tokenizing prompts it was given, and have no steps to run."""

    def add(self, prompt: Prompt, now_s: float) -> None:
        if self.since_s is None:
            self.since_s = now_s
        until_s = now_s + num_characters(prompt) * TOKENIZE_CHARACTER_S
        self.tokenizing_until_s = max(self.tokenizing_until_s, until_s)

    def end(self) -> None:
        self.since_s = None
        self.tokenizing_until_s = 0.0


class StallWatch:
    def __init__(self, stall_s: float, longest_look_s: float, now_s: float) -> None:
        self._stall_s = stall_s
        self._longest_look_s = longest_look_s
        self._looked_at_s = now_s
        self._num_steps_ended = 0
        self._waited_s = 0.0

    def look(self, now_s: float, num_steps_ended: int | None, work: EngineWork) -> bool:
        """Whether the engine stalls. `num_steps_ended` is None when it cannot be read, which is no
        progress."""
        unwatched_s = max(self._looked_at_s, work.tokenizing_until_s)
        watched_s = min(max(now_s - unwatched_s, 0.0), self._longest_look_s)
        self._looked_at_s = now_s
        has_progressed = num_steps_ended is not None and num_steps_ended != self._num_steps_ended
        if num_steps_ended is not None:
            self._num_steps_ended = num_steps_ended
        if work.since_s is None or has_progressed:
            self._waited_s = 0.0
            return False
        # Work that is younger than what was waited for is not what was waited for.
        self._waited_s = min(self._waited_s + watched_s, now_s - work.since_s)
        return self._waited_s >= self._stall_s
