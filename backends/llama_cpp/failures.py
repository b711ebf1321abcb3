"""Turns what llama.cpp logged about a failed load into a reason and a sentence for the operator."""

import re
from collections.abc import Sequence

from backends.llama_cpp.native import library_version
from edged.errors import ModelLoadError, Reason

_UNKNOWN_ARCHITECTURE = re.compile(r"unknown model architecture: '([^']*)'")
_CUT_OFF = re.compile(
    r"not within the file bounds|corrupted or incomplete|exceeds remaining file size"
    r"|failed to read|unexpectedly reached end of file",
)
_NO_MEMORY = re.compile(r"bad_alloc|failed to allocate|unable to allocate|out of memory", re.I)
_NO_FLASH_ATTENTION = re.compile(r"requires Flash Attention|flash_attn", re.I)
_PREFIX = re.compile(r"^[a-z_0-9:~]+: (error loading model: )?")
_NAMES_A_PATH = re.compile(r"failed to load model|failed to open")


def model_failure(name: str, log: Sequence[str]) -> ModelLoadError:
    """A model file that the library refused; `name` without its folder."""
    text = "\n".join(log)
    if found := _UNKNOWN_ARCHITECTURE.search(text):
        return ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"model file {name!r} has the architecture {found[1]!r}, which llama.cpp "
            f"{library_version()} does not support",
        )
    if _NO_MEMORY.search(text):
        return ModelLoadError(
            Reason.OUT_OF_MEMORY,
            f"there is not enough memory for the weights of {name!r}: {_last_word(log)}",
        )
    if _CUT_OFF.search(text):
        return ModelLoadError(
            Reason.BAD_MODEL_FILE,
            f"model file {name!r} is truncated or damaged: {_last_word(log)}; fetch it again",
        )
    return ModelLoadError(
        Reason.BAD_MODEL_FILE,
        f"llama.cpp {library_version()} cannot load {name!r}: {_last_word(log)}",
    )


def context_failure(kv_type: str, context_tokens: int, log: Sequence[str]) -> ModelLoadError:
    """A KV cache that the library did not allocate."""
    text = "\n".join(log)
    if _NO_FLASH_ATTENTION.search(text):
        return ModelLoadError(
            Reason.BAD_CONFIG,
            f"kv_type {kv_type} needs flash attention, which this model does not have on this "
            f"device: {_last_word(log)}; use kv_type f16",
        )
    if _NO_MEMORY.search(text):
        return ModelLoadError(
            Reason.OUT_OF_MEMORY,
            f"there is not enough memory for a KV cache of {context_tokens} tokens in {kv_type}: "
            f"{_last_word(log)}; lower context_tokens",
        )
    return ModelLoadError(
        Reason.MODEL_FAILED,
        f"llama.cpp {library_version()} cannot run this model with {context_tokens} tokens of "
        f"{kv_type} KV: {_last_word(log)}",
    )


def _last_word(log: Sequence[str]) -> str:
    """The most telling line: the first that names no path, without the function's name."""
    for line in log:
        if not _NAMES_A_PATH.search(line):
            return _PREFIX.sub("", line)
    return "it gave no reason"
