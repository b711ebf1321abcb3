"""One file per scheduling policy, and the table that names them."""

from collections.abc import Callable, Mapping

from edged.core.policies.fcfs import Fcfs
from edged.core.policies.strict import Strict
from edged.core.policy import Policy, SchedulerConfig

POLICIES: Mapping[str, Callable[[SchedulerConfig], Policy]] = {
    "strict": Strict,
    "fcfs": Fcfs,
}
