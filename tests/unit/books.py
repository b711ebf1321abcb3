"""What the policy slo remembers."""

from edged.core.policies.slo import Slo
from edged.core.scheduler import Scheduler
from edged.core.sequence import Sequence
from edged.core.types import RequestId


def policy_of(core: Scheduler) -> Slo:
    policy = core._policy
    assert isinstance(policy, Slo)
    return policy


def sequence_of(core: Scheduler, name: str) -> Sequence:
    return core._sequences[RequestId(name)]


def books_of(core: Scheduler) -> dict[str, int]:
    """What the policy remembers of single requests."""
    policy = policy_of(core)
    forecast = policy._forecast
    return {
        "promises": len(policy._promises),
        "turns": len(policy._turns) + len(policy._best_effort_turns),
        "expected": len(policy._outlook.lengths),
        "paused": len(policy._paused),
        "relegated": len(policy._relegated),
        "best effort": len(policy._best_effort),
        "forecast": len(forecast),
        "aside": len(forecast._aside),
        "promised": len(forecast._promised),
    }
