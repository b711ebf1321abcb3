"""Cuts a running step short when a request arrives that should not wait for its end.

Theory of operation: the engine thread is inside the backend while a step runs, so the I/O thread
has to act for it. `begin` shows it the step, `end` takes it away again; between the two the
scheduler changes nothing, and an arrival may read the plan and the cost model. The step then ends
with nothing computed, and the engine thread plans again with the new request in its queue.
"""

import threading
from collections.abc import Callable

from edged.clock import Clock
from edged.core.cost import StepCostModel, step_shape
from edged.core.plan import StepPlan
from edged.core.types import ServiceLevel


def is_worth_interrupting(
    plan: StepPlan, service: ServiceLevel, elapsed_s: float, cost: StepCostModel
) -> bool:
    """Whether an arrival with that service cuts a step short that has run for `elapsed_s`. Of one
    that is overdue the rest is taken to be as long as it is overdue already."""
    part = plan.yields_to.get(service.tier)
    if part is None or service.ttft_target_s is None:
        return False
    rest_s = abs(cost.predict_s(step_shape(plan.chunks)) - elapsed_s)
    return rest_s > part * service.ttft_target_s


class StepInterrupter:
    def __init__(self, interrupt: Callable[[], None], cost: StepCostModel, clock: Clock) -> None:
        """`interrupt` is the backend's."""
        self._interrupt = interrupt
        self._cost = cost
        self._clock = clock
        self._lock = threading.Lock()
        self._plan: StepPlan | None = None
        """The step that is running, if it yields to anybody and has not been told to."""
        self._began_s = 0.0

    def begin(self, plan: StepPlan) -> None:
        """Engine thread: the step is about to run."""
        with self._lock:
            self._plan = plan
            self._began_s = self._clock.now_s()

    def end(self) -> None:
        """Engine thread: the step is over."""
        with self._lock:
            self._plan = None

    def arrive(self, service: ServiceLevel) -> None:
        """Any thread: a request has come, and the engine thread will not see it before the step
        is over."""
        with self._lock:
            if self._plan is not None:
                elapsed_s = self._clock.now_s() - self._began_s
                if is_worth_interrupting(self._plan, service, elapsed_s, self._cost):
                    self._cut()

    def plan_again(self) -> None:
        """Engine thread: something came after the plan was made and before `begin`."""
        with self._lock:
            self._cut()

    def _cut(self) -> None:
        self._plan = None
        self._interrupt()
