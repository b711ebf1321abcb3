"""One file per scheduling policy, and the table that names them."""

from collections.abc import Callable, Mapping

from edged.core.cost import StepCostModel
from edged.core.policies.edf import Edf
from edged.core.policies.edf_relegate import EdfRelegate
from edged.core.policies.fcfs import Fcfs
from edged.core.policies.hybrid import Hybrid
from edged.core.policies.sjf_oracle import SjfOracle
from edged.core.policies.slo import Slo
from edged.core.policies.srpf import Srpf
from edged.core.policies.strict import Strict
from edged.core.policy import Policy, SchedulerConfig

POLICIES: Mapping[str, Callable[[SchedulerConfig, StepCostModel], Policy]] = {
    "slo": Slo,
    "strict": Strict,
    "fcfs": Fcfs,
    "edf": Edf,
    "edf_relegate": EdfRelegate,
    "hybrid": Hybrid,
    "srpf": Srpf,
    "sjf_oracle": SjfOracle,
}
ORACLES = frozenset({"sjf_oracle"})
"""Policies that have to be told how long each answer will be: only a simulation knows."""
SERVING = tuple(name for name in POLICIES if name not in ORACLES)
