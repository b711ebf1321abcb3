"""What the engine says about itself: when counters are sent, and the rate of recent tokens."""

from collections import deque

from edged.core.metrics import SchedulerStatistics
from edged.engine.wire import Statistics, TierStatistics

INTERVAL_S = 0.5
"""Least time between two reports."""
_RATE_SAMPLES = 6
"""The token rate is taken over this many intervals."""


class StatisticsMeter:
    """Turns the scheduler's counters into reports; owned by the engine thread."""

    def __init__(self) -> None:
        self.due_s = 0.0
        """When `sample` is next of use."""
        self.is_settled = False
        """Whether the last sample changed nothing, so that an idle engine may stop sampling."""
        self._generated: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES + 1)
        self._last_sent: Statistics | None = None

    def sample(self, statistics: SchedulerStatistics, now_s: float) -> Statistics | None:
        """The report to send, or None if nothing changed since the last one."""
        self.due_s = now_s + INTERVAL_S
        self._generated.append((now_s, statistics.num_generated_tokens))
        report = _report(statistics, self._tokens_per_s())
        self.is_settled = report == self._last_sent
        if self.is_settled:
            return None
        self._last_sent = report
        return report

    def _tokens_per_s(self) -> float:
        (first_s, first), (last_s, last) = self._generated[0], self._generated[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def _report(statistics: SchedulerStatistics, decode_tokens_per_s: float) -> Statistics:
    return Statistics(
        num_slots_used=statistics.num_used_slots,
        num_cells_used=statistics.num_used_cells,
        num_cells_parked=statistics.num_parked_cells,
        num_cells_cached=statistics.num_cached_cells,
        swapped_bytes=statistics.swapped_bytes,
        cached_bytes=statistics.cached_bytes,
        disk_bytes=statistics.disk_bytes,
        num_steps=statistics.num_steps,
        num_interrupted_steps=statistics.num_interrupted_steps,
        num_parks=statistics.num_parks,
        num_swaps=statistics.num_swaps,
        num_recomputes=statistics.num_recomputes,
        num_prompt_tokens=statistics.num_prompt_tokens,
        num_cached_tokens=statistics.num_cached_tokens,
        decode_tokens_per_s=decode_tokens_per_s,
        cost_model_error=statistics.cost_model_error,
        step_costs=statistics.step_costs,
        tiers=tuple(
            TierStatistics(
                tier=tier,
                num_waiting=counts.num_waiting,
                num_running=counts.num_running,
                num_preempted=counts.num_preempted,
                num_finished=counts.num_finished,
                num_generated_tokens=counts.num_generated_tokens,
                num_promised=counts.num_promised,
                num_broken=counts.num_broken,
                num_relegated=counts.num_relegated,
            )
            for tier, counts in statistics.tiers.items()
        ),
    )
