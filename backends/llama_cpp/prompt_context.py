"""A second context of the same model, for prompts: there they meet no other sequence's cells.

Theory of operation: in a unified cache the CPU's attention looks, for every token and head, at the
mask of every cell in use, whoever holds it. With 2800 cells of others a prompt of 70 tokens takes
17 % longer, and with more cells the more. So a chunk of a prompt is computed here, alone, and its
KV is copied to its slot; what the slot held before comes over first. The copies take about a
hundredth of the chunk's time. Nothing stays here when a call returns.
"""

import numpy as np
from numpy.typing import NDArray

from backends.llama_cpp.native import DECODE_OK, Batch, Context
from edged.core.plan import Chunk

LEAST_TOKENS = 16
"""Shorter chunks gain less than the copies take."""
LEAST_OTHER_CELLS = 512
"""Cells of other sequences, from which on it is worth it."""
MAX_CELLS = 1024
"""Of this context; what a prompt has beyond it is computed among the others."""
UBATCH_TOKENS = 128
"""Enough for the CPU; more would only need more memory."""


class PromptContext:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._batch = Batch(context.max_batch_tokens, 1)

    def suits(self, chunk: Chunk, other_cells: int) -> bool:
        """Whether it is faster to compute the chunk here."""
        num_tokens = len(chunk.token_ids)
        return (
            LEAST_TOKENS <= num_tokens <= self._context.max_batch_tokens
            and chunk.start + num_tokens <= self._context.num_cells
            and other_cells >= LEAST_OTHER_CELLS
        )

    def compute(self, chunk: Chunk, main: Context) -> int:
        """Run a chunk on what its slot of `main` holds, and put all of it there;
        `llama_decode`'s code. The slot stays as it is unless that is `DECODE_OK`.

        Raises:
            NativeCallError: the KV could not be copied; the slot holds an unknown part of it.
            MemoryError: there is no room for the copy; the slot stays as it is.
        """
        start, count = chunk.start, len(chunk.token_ids)
        outputs = [False] * count
        outputs[-1] = chunk.sampling is not None
        self._batch.fill(chunk.token_ids, range(start, start + count), [0] * count, outputs)
        try:
            if start > 0:
                self._context.write_state(0, main.read_state(chunk.slot))
            code = self._context.decode(self._batch)
            if code == DECODE_OK:
                main.write_state(chunk.slot, self._context.read_state(0))
            return code
        finally:
            self._context.remove(0, 0)

    def logits(self) -> NDArray[np.float32]:
        """Of the last chunk, (vocab_size,) f32, valid until the next."""
        return self._context.logits(1)[0]

    def free(self) -> None:
        self._context.free()
