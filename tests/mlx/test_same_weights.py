"""The same weights through both runtimes: MLX computes what llama.cpp computes."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.models import require_llama_cpp, require_mlx

require_mlx()
require_llama_cpp()

from backends.llama_cpp.native import (  # noqa: E402  # after the skip where it is missing
    DECODE_OK,
    Batch,
    Model,
    api,
)
from tests.mlx.driver import TinyModel  # noqa: E402  # as above

NUM_PROMPTS, NUM_TOKENS, TOLERANCE = 20, 64, 1e-3


class _LlamaModel:
    """A model in llama.cpp with KV of 32-bit numbers and attention that rounds none of them."""

    def __init__(self, path: Path) -> None:
        self._model = Model(
            str(path), gpu_layers=0, main_gpu=0, tensor_split=(), progress=lambda _: True
        )
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 256
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = api.llama_init_from_model(self._model.handle, params)
        self._batch = Batch(256, 1)
        self._vocab_size = self._model.vocabulary.size

    def logits(self, token_ids: list[int], start: int) -> NDArray[np.float32]:
        """After tokens that follow `start` others."""
        count = len(token_ids)
        positions = list(range(start, start + count))
        self._batch.fill(token_ids, positions, [0] * count, [False] * (count - 1) + [True])
        assert api.llama_decode(self._context, self._batch.native) == DECODE_OK
        row = api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(row, (self._vocab_size,)).copy()

    def forget(self) -> None:
        api.llama_memory_clear(api.llama_get_memory(self._context), True)

    def free(self) -> None:
        api.llama_free(self._context)
        self._model.free()


@pytest.fixture
def llama(tiny_folder: Path) -> Iterator[_LlamaModel]:
    model = _LlamaModel(tiny_folder.with_suffix(".gguf"))
    yield model
    model.free()


def test_logits_and_greedy_answers_are_those_of_llama_cpp(
    tiny_folder: Path, llama: _LlamaModel
) -> None:
    model = TinyModel(tiny_folder, "f16")  # which stores what is computed: 32-bit numbers
    draw = random.Random(5)
    for _ in range(NUM_PROMPTS):
        prompt = [draw.randrange(model.layers.vocab_size) for _ in range(draw.randrange(2, 64))]
        llama.forget()
        expected = llama.logits(prompt, 0)
        row = model.row(prompt[:-1])
        found = model.decode(row, prompt[-1:])[0]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
        for index in range(NUM_TOKENS):
            token_id = int(found.argmax())
            assert token_id == int(expected.argmax()), f"token {index} of {prompt}"
            found = model.decode(row, [token_id])[0]
            expected = llama.logits([token_id], len(prompt) + index)


def test_windowed_logits_are_those_of_llama_cpp(windowed_folder: Path) -> None:
    llama = _LlamaModel(windowed_folder.with_suffix(".gguf"))
    model = TinyModel(windowed_folder, "f16")
    draw = random.Random(6)
    tokens = [draw.randrange(model.layers.vocab_size) for _ in range(200)]
    row = model.row(tokens[:-1], chunk=50)
    found = model.decode(row, tokens[-1:])[0]
    expected = llama.logits(tokens, 0)
    llama.free()
    # mlx-lm rounds the factor of a Gemma's embedding to 16 bits.
    np.testing.assert_allclose(found, expected, atol=5 * TOLERANCE, rtol=0)
