"""How long the steps and transfers of the simulated model take."""

from collections.abc import Iterable
from dataclasses import dataclass

from edged.core.plan import Chunk


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Linear in what a step does. A chunk of one token is a decode, a longer one a prefill."""

    step_s: float = 0.002
    """Every step, whatever is in it."""
    prefill_token_s: float = 0.000_05
    decode_token_s: float = 0.000_2
    cell_s: float = 0.0
    """For each cell that a decode's slot holds after the step: attention reads them all."""
    prefill_cell_s: float = 0.0
    """For each cell that each token of a prefill attends to."""
    swap_byte_s: float = 0.0
    """For each byte saved or restored."""

    def seconds(self, chunks: Iterable[Chunk]) -> float:
        """What a step of these chunks takes."""
        num_prefill_tokens = num_decodes = num_decode_cells = 0
        num_prefill_cells = 0.0
        for chunk in chunks:
            num_tokens = len(chunk.token_ids)
            if num_tokens == 1:
                num_decodes += 1
                num_decode_cells += chunk.start + 1
            else:
                num_prefill_tokens += num_tokens
                num_prefill_cells += num_tokens * (chunk.start + (num_tokens + 1) / 2)
        return (
            self.step_s
            + num_prefill_tokens * self.prefill_token_s
            + num_decodes * self.decode_token_s
            + num_decode_cells * self.cell_s
            + num_prefill_cells * self.prefill_cell_s
        )
