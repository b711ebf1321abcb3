"""How fast work goes while several share the engine: measured, and forgotten where it is not.

| quantity | unit |
|---|---|
| `speed` | seconds of prefill, as they would take alone, per second in which prefills waited |
| `step_s` | seconds between two tokens of an answer |
"""

from math import exp

from edged.core.cost import StepCostModel
from edged.core.plan import StepPlan, StepResult

_PART = 0.02
"""What one step changes of an average."""
_FIRST_SPEED = 0.8
_FORGOTTEN_S = 60.0
"""Seconds over which is forgotten what is not measured again: at a low speed or a slow pace nothing
is promised, and where nothing is promised nothing is measured."""
_PACE_FORGOTTEN_S = 5.0
"""The same for the pace of answers, which is measured as long as there are any."""
_CLIP = 8.0
"""A step that is this many times as long as usual, or more, says no more than that: the host has
hiccups."""


class Pace:
    """Mutable; owned by a policy."""

    def __init__(self, cost: StepCostModel) -> None:
        self._cost = cost
        self._step_s: float | None = None
        self._stepped_s = 0.0
        self._speed = _FIRST_SPEED
        self._measured_s = 0.0

    def step_s(self, now_s: float) -> float:
        alone_s = self._cost.base_s + self._cost.decode_s
        if self._step_s is None:
            return alone_s
        return alone_s + exp((self._stepped_s - now_s) / _PACE_FORGOTTEN_S) * (
            self._step_s - alone_s
        )

    def speed(self, now_s: float) -> float:
        kept = exp((self._measured_s - now_s) / _FORGOTTEN_S)
        return _FIRST_SPEED + kept * (self._speed - _FIRST_SPEED)

    def observe(self, plan: StepPlan, result: StepResult, *, has_more: bool) -> None:
        """Learn from a step; `has_more`: some prefill that was due waited for the next one."""
        elapsed_s = result.finished_s - result.started_s
        if elapsed_s <= 0 or result.interrupted:
            return
        prefill_s, decodes = 0.0, False
        for chunk in plan.chunks:
            num_tokens = len(chunk.token_ids)
            if num_tokens > 1:
                prefill_s += self._cost.prefill_cost_s(chunk.start, num_tokens)
            else:
                decodes = True
        if decodes:
            step_s, part = self.step_s(result.started_s), _PART if self._step_s else 1.0
            self._step_s = step_s + part * (min(elapsed_s, _CLIP * step_s) - step_s)
            self._stepped_s = result.finished_s
        if has_more and prefill_s:
            speed = self.speed(result.started_s)
            self._speed = speed + _PART * (min(1.0, prefill_s / elapsed_s) - speed)
            self._measured_s = result.finished_s
