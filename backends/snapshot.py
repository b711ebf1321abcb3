"""One sequence's KV in host memory, as bytes that only the backend that made them can read."""

import numpy as np
from numpy.typing import NDArray


class HostSnapshot:
    """Immutable; any thread may read it."""

    __slots__ = ("_array", "num_tokens")

    def __init__(self, num_tokens: int, array: NDArray[np.uint8]) -> None:
        """`array`: (bytes,)."""
        self.num_tokens = num_tokens
        self._array = array

    @property
    def num_bytes(self) -> int:
        return int(self._array.nbytes)

    @property
    def data(self) -> memoryview:
        return self._array.data

    @property
    def array(self) -> NDArray[np.uint8]:
        return self._array
