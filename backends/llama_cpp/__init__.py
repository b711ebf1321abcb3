"""The llama.cpp backend: GGUF models on CPU, CUDA and Metal, through the library's C API."""

import os

# Read by the libraries when they are loaded, so set before anything imports them; what the operator
# has set stands. OpenMP's threads would spin for milliseconds at every barrier, and where another
# program wants the cores too a step then takes seconds. ggml would start a debugger in a process
# that is aborting, which delays the replacement of the engine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

from backends.llama_cpp.load import create  # after the environment is set

__all__ = ["create"]
