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
    """For each cell that a chunk's slot holds after the step: attention reads them all."""
    swap_byte_s: float = 0.0
    """For each byte saved or restored."""

    def seconds(self, chunks: Iterable[Chunk]) -> float:
        """What a step of these chunks takes."""
        num_prefill_tokens = num_decodes = num_cells_read = 0
        for chunk in chunks:
            num_tokens = len(chunk.token_ids)
            if num_tokens == 1:
                num_decodes += 1
            else:
                num_prefill_tokens += num_tokens
            num_cells_read += chunk.start + num_tokens
        return (
            self.step_s
            + num_prefill_tokens * self.prefill_token_s
            + num_decodes * self.decode_token_s
            + num_cells_read * self.cell_s
        )
