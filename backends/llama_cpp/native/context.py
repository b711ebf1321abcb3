"""A KV cache with its compute buffers, and the batches that it runs."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from backends.llama_cpp.native.library import GGML_TYPE_IDS, NativeCallError, api
from backends.llama_cpp.native.model import Model

DECODE_OK = 0
DECODE_ABORTED = 2
"""`llama_decode` (llama.h): 1 no cells, 2 aborted, −1 bad batch, below −1 fatal."""

# The binding's own function makes a pointer object, which costs more than the call.
_get_logits = api._lib["llama_get_logits"]
_get_logits.argtypes = [ctypes.c_void_p]
_get_logits.restype = ctypes.c_void_p

# Before each operation of the graph the library asks a C function whether to abort. One of Python's
# would take the GIL a thousand times a step; C's own `strlen` of a text is 0 until there is a byte.
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, api.ggml_abort_callback)


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What to allocate for running a model."""

    cells: int
    max_batch_tokens: int
    max_ubatch_tokens: int
    sequences: int
    threads: int
    kv_type: str
    unified: bool


class AbortFlag:
    """Ends decodes within an operation of their graphs while it is set; any thread may set it. CPU
    only: the library does not ask while a GPU computes."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)
        self.address = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        self._text[0] = b"\1"

    def clear(self) -> None:
        self._text[0] = b"\0"


class Batch:
    """The tokens of one decode call, in arrays that are allocated once."""

    def __init__(self, max_tokens: int, num_sequences: int) -> None:
        self._token_ids = (ctypes.c_int32 * max_tokens)()
        self._positions = (ctypes.c_int32 * max_tokens)()
        self._outputs = (ctypes.c_int8 * max_tokens)()
        self._sequences_per_token = (ctypes.c_int32 * max_tokens)(*[1] * max_tokens)
        # A token names its sequences by a pointer to their ids: one constant id for each sequence.
        self._ids = (ctypes.c_int32 * num_sequences)(*range(num_sequences))
        size = ctypes.sizeof(ctypes.c_int32)
        self._id_addresses = [ctypes.addressof(self._ids) + size * i for i in range(num_sequences)]
        self._id_pointers = (ctypes.c_size_t * max_tokens)()
        self.native = api.llama_batch(
            n_tokens=0,
            token=self._token_ids,
            embd=None,
            pos=self._positions,
            n_seq_id=self._sequences_per_token,
            seq_id=ctypes.cast(self._id_pointers, ctypes.POINTER(ctypes.POINTER(api.llama_seq_id))),
            logits=self._outputs,
        )

    def fill(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
    ) -> None:
        """Replace the content; `outputs` says for each token whether its logits are wanted."""
        count = len(token_ids)
        addresses = self._id_addresses
        # Slices of ctypes arrays, because they cost less than NumPy's for a few numbers.
        self._token_ids[:count] = cast(list[ctypes.c_int32 | int], token_ids)
        self._positions[:count] = cast(list[ctypes.c_int32 | int], positions)
        self._id_pointers[:count] = [addresses[sequence] for sequence in sequences]
        self._outputs[:count] = cast(list[ctypes.c_int8 | int], outputs)
        self.native.n_tokens = count


class Context:
    """The KV cache and the compute buffers of one model."""

    def __init__(self, model: Model, shape: ContextShape, abort: "AbortFlag") -> None:
        """Allocate; decodes end early while `abort` is set.

        Raises:
            NativeCallError: memory is short, or the model cannot run with this KV type.
        """
        params = api.llama_context_default_params()
        params.n_ctx = shape.cells
        params.n_batch = shape.max_batch_tokens
        params.n_ubatch = shape.max_ubatch_tokens
        params.n_seq_max = shape.sequences
        # A step asks for at most one row of logits of each sequence; the default reserves one
        # row of the vocabulary for every token of a batch, and fewer abort the library.
        params.n_outputs_max = shape.sequences
        params.n_threads = shape.threads
        params.n_threads_batch = shape.threads
        params.type_k = GGML_TYPE_IDS[shape.kv_type]
        params.type_v = GGML_TYPE_IDS[shape.kv_type]
        # Automatic is on, but for a model or a device that has no such kernel. For a quantized V
        # the library insists on it, and refuses a model that cannot have it.
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.kv_unified = shape.unified
        # Sliding-window layers get a cell for every token, so that a slot can be trimmed back.
        params.swa_full = True
        params.no_perf = True
        handle = api.llama_init_from_model(model.handle, params)
        if not handle:
            raise NativeCallError("the KV cache was not allocated")
        self.num_cells = int(api.llama_n_ctx(handle))
        self.max_cells_per_sequence = int(api.llama_n_ctx_seq(handle))
        self.max_batch_tokens = int(api.llama_n_batch(handle))
        self._handle = handle
        self._memory = api.llama_get_memory(handle)
        self._vocab_size = model.vocabulary.size
        self._max_rows = shape.sequences
        self._logits_address = 0
        self._rows: list[NDArray[np.float32]] = []
        self._abort = abort
        api.llama_set_abort_callback(handle, _IS_SET, abort.address)

    def decode(self, batch: Batch) -> int:
        """Run a batch, without the GIL; returns `llama_decode`'s code."""
        return int(api.llama_decode(self._handle, batch.native))

    def logits(self, num_rows: int) -> list[NDArray[np.float32]]:
        """Of the last decode: a row of (vocab_size,) f32 for each output, valid until the next."""
        address = _get_logits(self._handle)
        if address != self._logits_address:
            assert address, "the last decode computed no logits"
            # The library keeps room for a row of each sequence.
            values = (ctypes.c_float * (self._max_rows * self._vocab_size)).from_address(address)
            self._rows = list(np.ctypeslib.as_array(values).reshape(-1, self._vocab_size))
            self._logits_address = address
        return self._rows[:num_rows]

    def remove(self, sequence: int, start: int) -> bool:
        """Free the cells from position `start` on; False, never at 0, if there is no cut there."""
        return bool(api.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, num_tokens: int) -> None:
        """Make the first cells of `source` belong to `target` too. Unified caches only."""
        api.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)

    def positions(self, sequence: int) -> tuple[int, int] | None:
        """First and last position that a sequence holds; None if it holds none."""
        last = api.llama_memory_seq_pos_max(self._memory, sequence)
        if last < 0:
            return None
        return int(api.llama_memory_seq_pos_min(self._memory, sequence)), int(last)

    def state_bytes(self, sequence: int) -> int:
        return int(api.llama_state_seq_get_size(self._handle, sequence))

    def read_state(self, sequence: int) -> NDArray[np.uint8]:
        """Copy the KV of a sequence.

        Raises:
            NativeCallError: fewer bytes were copied than announced.
            MemoryError: there is no room for the copy.
        """
        size = self.state_bytes(sequence)
        data = np.empty(size, np.uint8)
        copied = api.llama_state_seq_get_data(self._handle, _bytes_of(data), size, sequence)
        if copied != size:
            raise NativeCallError(f"{copied} of {size} bytes were copied")
        return data

    def write_state(self, sequence: int, data: NDArray[np.uint8]) -> None:
        """Replace the KV of a sequence.

        Raises:
            NativeCallError: the cells do not fit or the data are not of this model; the sequence
                holds an unknown part of them.
        """
        taken = api.llama_state_seq_set_data(self._handle, _bytes_of(data), data.size, sequence)
        if taken != data.size:
            raise NativeCallError(f"{taken} of {data.size} bytes were taken")

    def free(self) -> None:
        api.llama_free(self._handle)


def _bytes_of(data: NDArray[np.uint8]) -> "ctypes._Pointer[ctypes.c_uint8]":
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
