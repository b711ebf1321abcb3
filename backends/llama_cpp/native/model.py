"""A loaded model and its vocabulary."""

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.llama_cpp.native.library import MAX_DEVICES, NativeCallError, api

_INT32_MIN = -(2**31)


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
