"""SmolLM2, converted from the embedded GGUF file: both runtimes say the same."""

from contextlib import closing
from pathlib import Path

import pytest

from edged.backend import Backend, BackendConfig
from tests.contract.driver import Run, step
from tests.models import embedded_model, require_llama_cpp, require_mlx

require_mlx()
require_llama_cpp()

import gguf  # noqa: E402  # after the skip where it is missing
from gguf.quants import dequantize  # noqa: E402  # as above

from backends.llama_cpp import create as create_llama  # noqa: E402  # as above
from backends.mlx import create as create_mlx  # noqa: E402  # as above
from backends.mlx.from_gguf import write_folder  # noqa: E402  # as above

pytestmark = pytest.mark.model

NUM_TOKENS, LEAST_EQUAL = 32, 8
QUESTIONS = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "Name three primary colors.",
    "What is the largest planet of the solar system?",
    "How many days has a week?",
    "Write a short sentence about the sea.",
    "What is water made of?",
    "Who wrote Romeo and Juliet?",
    "What do bees make?",
    "Count from one to ten.",
)


def _answers(backend: Backend) -> list[list[int]]:
    runs = []
    for slot, question in enumerate(QUESTIONS):
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        prompt = backend.tokenizer.encode(text, add_special=False, parse_special=True)
        runs.append(Run(backend, prompt, slot=slot))
    while any(len(run.answer) < NUM_TOKENS for run in runs):
        step(backend, runs, max_tokens=32)
    return [run.answer[:NUM_TOKENS] for run in runs]


def _write_unquantized(source: Path, target: Path) -> Path:
    """The same weights as 32-bit numbers: with quantized ones llama.cpp rounds what it multiplies
    them with to 8 bits, and a model so small often has two tokens that are nearly as likely."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.timeout(300)
def test_greedy_answers_are_those_of_llama_cpp(tmp_path: Path) -> None:
    embedded = embedded_model()
    file = _write_unquantized(embedded, tmp_path / "smollm2-f32.gguf")
    config = BackendConfig(str(file), kv_type="f16", context_tokens=2048, num_threads=2)
    with closing(create_llama(config, lambda _fraction: None)) as backend:
        expected = _answers(backend)
    folder = write_folder(embedded, tmp_path / "smollm2")
    config = BackendConfig(str(folder), kv_type="f16", context_tokens=2048)
    with closing(create_mlx(config, lambda _fraction: None)) as backend:
        found = _answers(backend)

        def text(token_ids: list[int]) -> str:
            return b"".join(map(backend.tokenizer.piece, token_ids)).decode("utf-8", "replace")

        others = [
            f"{question}\n  llama.cpp: {text(ours)!r}\n  MLX:       {text(theirs)!r}"
            for question, ours, theirs in zip(QUESTIONS, expected, found, strict=True)
            if ours != theirs
        ]
        print(*others, sep="\n")
        assert "Paris" in text(found[0])
    assert len(QUESTIONS) - len(others) >= LEAST_EQUAL, "\n".join(others)
