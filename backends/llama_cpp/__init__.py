"""The llama.cpp backend: GGUF models on CPU, CUDA and Metal, through the library's C API."""

from backends.llama_cpp.load import create

__all__ = ["create"]
