"""A model-free backend for tests, simulations and load tests of everything around a model.

Theory of operation: a token is drawn by hashing every token id that the sequence's slot holds, the
seed and the position, so an answer is the same however it was scheduled, and differs as soon as a
scheduler puts a wrong token into a cell, loses one or mixes two slots. Breaches of the contract
(`edged.backend`) are assertion errors. How long a step takes comes from a `StepProfile` and is
spent on the clock that was handed in.
"""

from backends.sim.backend import SimBackend, SimModel
from backends.sim.faults import Faults, SeededFaults, StepFault
from backends.sim.options import create, create_simulated
from backends.sim.profile import StepProfile

__all__ = [
    "Faults",
    "SeededFaults",
    "SimBackend",
    "SimModel",
    "StepFault",
    "StepProfile",
    "create",
    "create_simulated",
]
