"""The only caller of llama.cpp's C API: thin, typed calls that decide nothing.

Theory of operation: every class owns one C object and frees it in `free`; nothing here is freed by
the garbage collector, because order matters (context before model). A call that fails raises
`NativeCallError` and has freed what it made; the reason is in the library's log.
Sequence ids are not checked by the library (a wrong one aborts the process): callers check them.
"""

from backends.llama_cpp.native.context import (
    DECODE_ABORTED,
    DECODE_OK,
    AbortFlag,
    Batch,
    Context,
    ContextShape,
)
from backends.llama_cpp.native.library import (
    LOG_LEVEL_CONTINUED,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    MAX_DEVICES,
    Gpu,
    LogHook,
    NativeCallError,
    api,
    gpus,
    library_digest,
    library_version,
    max_sequences,
)
from backends.llama_cpp.native.model import Model, ModelFacts, Vocabulary

__all__ = [
    "DECODE_ABORTED",
    "DECODE_OK",
    "LOG_LEVEL_CONTINUED",
    "LOG_LEVEL_ERROR",
    "LOG_LEVEL_WARNING",
    "MAX_DEVICES",
    "AbortFlag",
    "Batch",
    "Context",
    "ContextShape",
    "Gpu",
    "LogHook",
    "Model",
    "ModelFacts",
    "NativeCallError",
    "Vocabulary",
    "api",
    "gpus",
    "library_digest",
    "library_version",
    "max_sequences",
]
