"""llama.cpp's shared library as a whole: its constants, its log, its devices."""

import ctypes
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

try:
    from llama_cpp import llama_cpp
except RuntimeError as error:
    # llama-cpp-python raises this when its shared library is there but cannot be loaded.
    raise ImportError(str(error)) from error

api = llama_cpp
"""The binding's C functions; for the modules of this package only."""
GGML_TYPE_IDS = {
    "f16": api.GGML_TYPE_F16,
    "q8_0": api.GGML_TYPE_Q8_0,
    "q4_0": api.GGML_TYPE_Q4_0,
}
MAX_DEVICES = api.LLAMA_MAX_DEVICES

LOG_LEVEL_WARNING = 3
LOG_LEVEL_ERROR = 4
LOG_LEVEL_CONTINUED = 5
"""ggml_log_level (ggml.h); a continued line belongs to the one before."""
_DEVICE_TYPE_GPU = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU (ggml-backend.h)."""


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


@cache
def library_digest() -> str:
    """Of this build: its libraries, and the variables that change what it stores."""
    digest = hashlib.sha256()
    for path in sorted(Path(api._lib._name).parent.glob("lib*")):
        digest.update(path.read_bytes())
    settings = sorted(item for item in os.environ.items() if item[0].startswith("LLAMA_"))
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:12]


def max_sequences() -> int:
    return int(api.llama_max_parallel_sequences())


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that this build can use, as ggml calls it ("CUDA0", "Metal"), and its memory as the
    driver tells: what it recommends to use, where that is less than there is."""

    name: str
    free_bytes: int
    total_bytes: int


def gpus() -> list[Gpu]:
    library = api._lib
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_name.restype = ctypes.c_char_p
    library.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    devices = [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]
    return [
        Gpu(library.ggml_backend_dev_name(device).decode(), *_memory(library, device))
        for device in devices
        if library.ggml_backend_dev_type(device) in _DEVICE_TYPE_GPU
    ]


def _memory(library: ctypes.CDLL, device: int) -> tuple[int, int]:
    """Free and total bytes."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory.restype = None
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] + 2 * [ctypes.c_void_p]
    library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value
