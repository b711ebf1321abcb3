"""The only caller of llama.cpp's C API: thin, typed calls that decide nothing.

Theory of operation: every class owns one C object and frees it in `free`; nothing here is freed by
the garbage collector, because order matters (context before model). A call that fails raises
`NativeCallError` and has freed what it made; the reason is in the library's log.
Sequence ids are not checked by the library (a wrong one aborts the process): callers check them.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

try:
    from llama_cpp import llama_cpp as api
except RuntimeError as error:
    # llama-cpp-python raises this when its shared library is there but cannot be loaded.
    raise ImportError(str(error)) from error

GGML_TYPE_IDS = {
    "f16": api.GGML_TYPE_F16,
    "q8_0": api.GGML_TYPE_Q8_0,
    "q4_0": api.GGML_TYPE_Q4_0,
}
MAX_DEVICES = api.LLAMA_MAX_DEVICES
DECODE_OK = 0
"""`llama_decode` (llama.h): 1 no cells, 2 aborted, −1 bad batch, below −1 fatal."""

LOG_LEVEL_WARNING = 3
LOG_LEVEL_ERROR = 4
LOG_LEVEL_CONTINUED = 5
"""ggml_log_level (ggml.h); a continued line belongs to the one before."""
_DEVICE_TYPE_GPU = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU (ggml-backend.h)."""
_INT32_MIN = -(2**31)

# The binding's own function makes a pointer object, which costs more than the call.
_get_logits = api._lib["llama_get_logits"]
_get_logits.argtypes = [ctypes.c_void_p]
_get_logits.restype = ctypes.c_void_p


class NativeCallError(Exception):
    """The library refused; it told its log why."""


class LogHook:
    """Sends the library's log to `receive(level, text)`; ggml's levels.

    The library has one log for the whole process: the last hook attached gets everything.
    """

    def __init__(self, receive: Callable[[int, str], None]) -> None:
        def decode(level: int, text: bytes, _user_data: int | None) -> None:
            receive(level, text.decode("utf-8", "replace"))

        self._callback = api.llama_log_callback(decode)
        api.llama_log_set(self._callback, ctypes.c_void_p(None))

    def free(self) -> None:
        """Send later lines nowhere; unless another hook has been attached since."""
        current = api.llama_log_callback()
        api.llama_log_get(ctypes.byref(current), ctypes.byref(ctypes.c_void_p()))
        if bytes(current) == bytes(self._callback):
            api.llama_log_set(_DISCARD, ctypes.c_void_p(None))


_DISCARD = api.llama_log_callback(lambda _level, _text, _user_data: None)


def library_version() -> str:
    return str(api.llama_version(), "ascii")


def max_sequences() -> int:
    return int(api.llama_max_parallel_sequences())


def gpu_names() -> list[str]:
    """Names of the GPUs that this build can use, as ggml calls them: "CUDA0", "Metal"."""
    library = api._lib
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_name.restype = ctypes.c_char_p
    library.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    devices = [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]
    return [
        library.ggml_backend_dev_name(device).decode()
        for device in devices
        if library.ggml_backend_dev_type(device) in _DEVICE_TYPE_GPU
    ]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the library knows of a loaded model."""

    description: str
    num_bytes: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Of the first layer."""
    embedding_size: int
    train_context_tokens: int
    window_tokens: int
    """Size of the sliding attention window; 0 for a model without one."""
    generates_text: bool
    """Whether it is a decoder alone: no encoder, no diffusion."""
    has_recurrent_state: bool
    """Whether some layers keep a running state, which cannot be trimmed back."""
    chat_template: str | None


def _model_facts(handle: int) -> ModelFacts:
    description = ctypes.create_string_buffer(256)
    api.llama_model_desc(handle, description, len(description))
    template = api.llama_model_chat_template(handle, None)
    encodes = api.llama_model_has_encoder(handle) or not api.llama_model_has_decoder(handle)
    recurs = api.llama_model_is_recurrent(handle) or api.llama_model_is_hybrid(handle)
    return ModelFacts(
        description=description.value.decode("utf-8", "replace"),
        num_bytes=int(api.llama_model_size(handle)),
        num_layers=int(api.llama_model_n_layer(handle)),
        num_heads=int(api.llama_model_n_head(handle)),
        num_kv_heads=int(api.llama_model_n_head_kv(handle)),
        embedding_size=int(api.llama_model_n_embd(handle)),
        train_context_tokens=int(api.llama_model_n_ctx_train(handle)),
        window_tokens=int(api.llama_model_n_swa(handle)),
        generates_text=not encodes and not api.llama_model_is_diffusion(handle),
        has_recurrent_state=bool(recurs),
        chat_template=None if template is None else template.decode("utf-8", "replace"),
    )


class Model:
    """Weights and vocabulary, loaded from one GGUF file."""

    def __init__(
        self,
        path: str,
        *,
        gpu_layers: int,
        main_gpu: int,
        tensor_split: Sequence[float],
        progress: Callable[[float], bool],
    ) -> None:
        """Load; `progress` gets 0 … 1 and returns whether to go on.

        Raises:
            NativeCallError: the file cannot be loaded, or `progress` returned False.
        """
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.main_gpu = main_gpu
        if tensor_split:
            shares = (ctypes.c_float * MAX_DEVICES)(*tensor_split)
            params.tensor_split = shares
        elif main_gpu > 0:
            # The library heeds `main_gpu` only where it does not split the layers over all GPUs.
            params.split_mode = api.LLAMA_SPLIT_MODE_NONE
        callback = api.llama_progress_callback(lambda fraction, _user_data: progress(fraction))
        params.progress_callback = callback
        handle = api.llama_model_load_from_file(os.fsencode(path), params)
        if not handle:
            raise NativeCallError("the model was not loaded")
        self.handle = handle
        self.vocabulary = Vocabulary(api.llama_model_get_vocab(handle))
        self.facts = _model_facts(handle)

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text; arrays look like "[1, 2]"."""
        buffer = ctypes.create_string_buffer(8192)
        length = api.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    def free(self) -> None:
        api.llama_model_free(self.handle)


class Vocabulary:
    """Text to token ids and back; its calls are thread-safe. Lives as long as its model."""

    def __init__(self, handle: int) -> None:
        self._handle = api.llama_vocab_p(handle)
        self.size = int(api.llama_vocab_n_tokens(self._handle))

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of UTF-8 text.

        Raises:
            OverflowError: more tokens than the library can count.
        """
        # No token is shorter than a byte, but BOS, EOS and a leading space may be added.
        capacity = len(text) + 8
        for _ in range(2):
            token_ids = (api.llama_token * capacity)()
            count = api.llama_tokenize(
                self._handle, text, len(text), token_ids, capacity, add_special, parse_special
            )
            if count >= 0:
                return token_ids[:count]
            if count == _INT32_MIN:
                break
            capacity = -count
        raise OverflowError(f"text of {len(text)} bytes has more tokens than can be counted")

    def piece(self, token_id: int, *, special: bool) -> bytes:
        """Bytes of a token; of a control token only if `special`."""
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = api.llama_token_to_piece(self._handle, token_id, buffer, capacity, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            capacity = -length

    def ends_generation(self, token_id: int) -> bool:
        return bool(api.llama_vocab_is_eog(self._handle, token_id))

    @property
    def bos_id(self) -> int | None:
        return _token_or_none(api.llama_vocab_bos(self._handle))

    @property
    def eos_id(self) -> int | None:
        return _token_or_none(api.llama_vocab_eos(self._handle))


def _token_or_none(token_id: int) -> int | None:
    return None if token_id == api.LLAMA_TOKEN_NULL else int(token_id)


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

    def __init__(self, model: Model, shape: ContextShape) -> None:
        """Allocate.

        Raises:
            NativeCallError: memory is short, or the model cannot run with this KV type.
        """
        params = api.llama_context_default_params()
        params.n_ctx = shape.cells
        params.n_batch = shape.max_batch_tokens
        params.n_ubatch = shape.max_ubatch_tokens
        params.n_seq_max = shape.sequences
        # A step asks for at most one row of logits of each sequence; the default reserves one
        # row of the vocabulary for every token of a batch.
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
