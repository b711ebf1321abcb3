"""How fast work goes while several share the engine: measured, and slowly forgotten.

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
"""Seconds over which a speed is forgotten that is not measured again: with a small one nothing is
promised, and where nothing is promised nothing is measured."""


class Pace:
    """Mutable; owned by a policy."""

    def __init__(self, cost: StepCostModel) -> None:
        self._cost = cost
        self._step_s: float | None = None
        self._speed = _FIRST_SPEED
        self._measured_s = 0.0

    @property
    def step_s(self) -> float:
        if self._step_s is None:
            return self._cost.base_s + self._cost.decode_s
        return self._step_s

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
            step_s = elapsed_s if self._step_s is None else self._step_s
            self._step_s = step_s + _PART * (elapsed_s - step_s)
        if has_more and prefill_s:
            speed = self.speed(result.started_s)
            self._speed = speed + _PART * (min(1.0, prefill_s / elapsed_s) - speed)
            self._measured_s = result.finished_s
