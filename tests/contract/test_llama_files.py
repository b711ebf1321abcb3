"""Every kind of bad model file, and every setting a model cannot have, is named and refused."""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from edged.backend import Backend, BackendConfig
from edged.errors import ModelLoadError, Reason
from tests.contract.cases import CONFIG
from tests.contract.driver import answer_alone
from tests.models import require_llama_cpp
from tests.tiny_gguf import write_tiny_gguf

require_llama_cpp()

from backends.host_memory import FreeMemory  # noqa: E402  # as above
from backends.llama_cpp import create  # noqa: E402  # after the skip where it is missing
from backends.llama_cpp.failures import context_failure  # noqa: E402  # as above
from backends.llama_cpp.load import load  # noqa: E402  # as above

WritesFile = Callable[[Path], object]


def _tiny_bytes(folder: Path) -> bytes:
    return write_tiny_gguf(folder / "whole.gguf").read_bytes()


def _cut(share: float) -> WritesFile:
    def write(path: Path) -> None:
        data = _tiny_bytes(path.parent)
        path.write_bytes(data[: int(len(data) * share)])

    return write


def _damaged(offset: int, replacement: bytes) -> WritesFile:
    def write(path: Path) -> None:
        data = bytearray(_tiny_bytes(path.parent))
        data[offset : offset + len(replacement)] = replacement
        path.write_bytes(data)

    return write


def _random(prefix: bytes) -> WritesFile:
    return lambda path: path.write_bytes(prefix + Random(1).randbytes(50_000))


BAD_FILES: dict[str, tuple[WritesFile, str]] = {
    "missing": (lambda path: None, "does not exist"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "pipe": (os.mkfifo, "no regular file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "three_bytes": (lambda path: path.write_bytes(b"GGU"), "truncated.*3 bytes"),
    "header_only": (lambda path: path.write_bytes(b"GGUF\x03\0\0\0"), "truncated.*8 bytes"),
    "other_format": (lambda path: path.write_bytes(b"PK\x03\x04" * 100), "not a GGUF file.*PK"),
    "random_bytes": (_random(b""), "not a GGUF file"),
    "random_after_magic": (_random(b"GGUF\x03\0\0\0"), "damaged"),
    "cut_in_metadata": (_cut(0.001), "truncated or damaged|damaged"),
    "cut_in_weights": (_cut(0.5), "truncated or damaged.*fetch it again"),
    "last_byte_missing": (_cut(0.99999), "truncated or damaged.*fetch it again"),
    "no_numbers": (
        lambda path: write_tiny_gguf(path, sick_token_id=0),
        "damaged: with its weights the largest logit is nan",
    ),
    "new_version": (_damaged(4, b"\x09\0\0\0"), "GGUF version 9; expected 2 to 3"),
    "many_tensors": (_damaged(8, b"\xff" * 7), "damaged: it announces"),
    "architecture": (
        lambda path: write_tiny_gguf(path, architecture="abacus"),
        "architecture 'abacus', which llama.cpp .* does not support",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    write, expected = BAD_FILES[kind]
    path = tmp_path / "model.gguf"
    write(path)
    with pytest.raises(ModelLoadError, match=expected) as raised:
        create(replace(CONFIG, model_path=str(path)), lambda _fraction: None)
    assert raised.value.reason is Reason.BAD_MODEL_FILE
    assert "model.gguf" in raised.value.detail
    assert str(tmp_path) not in raised.value.detail, "the folder is nobody's business"


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file: run the tests as another user than root")
    assert stat.S_IMODE(path.stat().st_mode) == 0
    with pytest.raises(ModelLoadError, match="Permission denied"):
        create(replace(CONFIG, model_path=str(path)), lambda _fraction: None)


def test_a_missing_part_of_a_split_model_is_named(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(ModelLoadError, match=r"big-00002-of-00002\.gguf' does not exist"):
        create(replace(CONFIG, model_path=str(path)), lambda _fraction: None)


def test_a_model_larger_than_memory_is_refused_with_both_numbers(config: BackendConfig) -> None:
    expected = "1 MiB for weights, but 0 MiB can be taken .0 MiB are free, 512 MiB stay free.; use"
    with pytest.raises(ModelLoadError, match=expected) as raised:
        load(config, lambda _fraction: None, FreeMemory(400_000, 2**30), ())
    assert raised.value.reason is Reason.OUT_OF_MEMORY


def test_a_cache_larger_than_memory_is_refused_with_both_numbers(config: BackendConfig) -> None:
    # 2 layers × 2 heads × (32 + 32) numbers of q8_0 are 272 bytes a token.
    huge = replace(config, context_tokens=2**20)
    expected = (
        "272 MiB for 1048576 tokens of q8_0 KV, but 200 MiB can be taken .712 MiB are free, "
        "512 MiB stay free.; what fits: context_tokens = [0-9]+ with kv_type q8_0, or "
        "context_tokens = [0-9]+ with kv_type q4_0"
    )
    with pytest.raises(ModelLoadError, match=expected) as raised:
        load(huge, lambda _fraction: None, FreeMemory(712 * 2**20, 2**30), ())
    assert raised.value.reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("logged", "reason", "expected"),
    [
        (
            "llama_init_from_model: failed to initialize the context: std::bad_alloc",
            Reason.OUT_OF_MEMORY,
            "not enough memory for a KV cache of 4096 tokens in q8_0: .*lower context_tokens",
        ),
        (
            "llama_init_from_model: failed to initialize the context: quantized V cache was "
            "requested, but this requires Flash Attention",
            Reason.BAD_CONFIG,
            "kv_type q8_0 needs flash attention.*use kv_type f16",
        ),
        ("something else", Reason.MODEL_FAILED, "4096 tokens of q8_0 KV: something else"),
    ],
)
def test_a_cache_that_was_not_allocated_has_a_reason(
    logged: str, reason: Reason, expected: str
) -> None:
    failure = context_failure("q8_0", 4096, [logged])
    assert failure.reason is reason
    assert re.search(expected, failure.detail)


def test_heads_that_do_not_divide_into_blocks_need_f16(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf", head_size=40)
    config = replace(CONFIG, model_path=str(path))
    with pytest.raises(ModelLoadError, match="multiple of 32, this model's is 40; use kv_type f16"):
        create(config, lambda _fraction: None)
    backend: Backend = create(replace(config, kv_type="f16"), lambda _fraction: None)
    try:
        assert len(answer_alone(backend, "the fox", 4)) == 4
        assert backend.info.kv.bytes_per_cell == 2 * 2 * (40 + 40) * 2
    finally:
        backend.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_sequences": 0}, "max_sequences is 0; expected 1 to 256"),
        ({"max_sequences": 257}, "max_sequences is 257; expected 1 to 256"),
        ({"cached_sequences": -1}, "cached_sequences is -1; expected 0 to 252"),
        ({"cached_sequences": 253}, "cached_sequences is 253; expected 0 to 252"),
        ({"context_tokens": 0}, "context_tokens is 0; expected 1 to"),
        ({"context_tokens": 2**31}, "context_tokens is 2147483648; expected 1 to 2147483647"),
        ({"max_step_tokens": 3}, "max_step_tokens is 3; expected at least max_sequences, 4"),
        ({"num_threads": 0}, "num_threads is 0; expected at least 1"),
        ({"tensor_split": (1.0,) * 100}, "tensor_split names 100 devices; at most"),
    ],
)
def test_a_setting_out_of_range_is_named(
    config: BackendConfig, change: dict[str, int], expected: str
) -> None:
    fields = {name: getattr(config, name) for name in BackendConfig.__slots__} | change
    with pytest.raises(ModelLoadError, match=expected) as raised:
        create(BackendConfig(**fields), lambda _fraction: None)
    assert raised.value.reason is Reason.BAD_CONFIG


def test_a_listener_that_fails_ends_the_load(config: BackendConfig) -> None:
    seen: list[float] = []

    def listen(fraction: float) -> None:
        seen.append(fraction)
        if fraction > 0.3:
            raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        create(config, listen)
    assert max(seen) < 0.9, "the rest of the weights was not read"


@pytest.fixture
def config(tmp_path: Path) -> BackendConfig:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    return replace(CONFIG, model_path=str(path))
