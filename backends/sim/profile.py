"""How long the steps and transfers of the simulated model take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Linear in what a step does. A chunk of one token is a decode, a longer one a prefill."""

    step_s: float = 0.002
    """Every step, whatever is in it."""
    prefill_token_s: float = 0.000_05
    decode_token_s: float = 0.000_2
    cell_s: float = 0.0
    """For each cell that a chunk's slot holds after the step: attention reads them all."""
    swap_byte_s: float = 0.0
    """For each byte saved or restored."""
