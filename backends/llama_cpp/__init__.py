"""The llama.cpp backend: GGUF models on CPU, CUDA and Metal, through the library's C API."""

from .load import create

__all__ = ["create"]
