"""The backends that the contract suite runs over: how to make one, and how to make a step fail.

A backend of your own joins with one more `BackendCase` in `CASES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edged.backend import Backend, BackendConfig, LoadProgress, find_backend
from tests.models import require_llama_cpp, require_mlx
from tests.tiny_gguf import write_tiny_gguf, write_tiny_windowed_gguf
from tests.tiny_mlx import write_tiny_mlx, write_tiny_windowed_mlx

CONFIG = BackendConfig(
    model_path="",
    kv_type="q8_0",
    context_tokens=512,
    max_sequences=4,
    cached_sequences=2,
    max_step_tokens=256,
    num_threads=1,
)
"""What the suite loads: 512 cells for 4 sequences is the least that every backend can allocate."""


@dataclass(frozen=True, slots=True)
class BackendCase:
    """One way to make a backend."""

    name: str
    backend: str
    poison_token_id: int
    """A step with this token raises `BackendStepError`."""
    kv_unified: bool = True
    kv_type: str = "q8_0"
    options: Mapping[str, str] = field(default_factory=dict)
    needs: Callable[[], None] | None = None
    """Skips the test where something is not installed."""
    write_model: Callable[[Path], Path] | None = None

    def config(self, folder: Path) -> BackendConfig:
        """The suite's configuration of this backend; a model file is written to `folder`."""
        path = "" if self.write_model is None else str(self.write_model(folder / "tiny.gguf"))
        return replace(
            CONFIG,
            model_path=path,
            kv_type=self.kv_type,
            kv_unified=self.kv_unified,
            options=self.options,
        )

    def create(self, config: BackendConfig, progress: LoadProgress) -> Backend:
        if self.needs is not None:
            self.needs()
        return find_backend(self.backend)(config, progress)


def _llama(
    name: str,
    *,
    kv_unified: bool,
    kv_type: str,
    write_model: Callable[[Path], Path] = write_tiny_gguf,
) -> BackendCase:
    return BackendCase(
        name=name,
        backend="llama_cpp",
        poison_token_id=1_000_000,
        kv_unified=kv_unified,
        kv_type=kv_type,
        needs=require_llama_cpp,
        write_model=write_model,
    )


def _mlx(
    name: str,
    kv_type: str,
    write_model: Callable[[Path], Path] = write_tiny_mlx,
    *,
    kv_unified: bool = True,
) -> BackendCase:
    return BackendCase(
        name=name,
        backend="mlx",
        poison_token_id=1_000_000,
        kv_unified=kv_unified,
        kv_type=kv_type,
        needs=require_mlx,
        write_model=write_model,
    )


CASES = (
    _llama("llama_cpp", kv_unified=True, kv_type="q8_0"),
    _llama("llama_cpp_separate", kv_unified=False, kv_type="q8_0"),
    _llama("llama_cpp_f16", kv_unified=True, kv_type="f16"),
    _llama("llama_cpp_q4_0", kv_unified=True, kv_type="q4_0"),
    _llama(
        "llama_cpp_windowed",
        kv_unified=True,
        kv_type="q8_0",
        write_model=write_tiny_windowed_gguf,
    ),
    _mlx("mlx", "q8_0"),
    _mlx("mlx_separate", "q8_0", kv_unified=False),
    _mlx("mlx_f16", "f16"),
    _mlx("mlx_q4_0", "q4_0"),
    _mlx("mlx_windowed", "q8_0", write_tiny_windowed_mlx),
    BackendCase(
        name="sim",
        backend="sim",
        poison_token_id=7,
        options={"fail_step_on_token": "7", "step_s": "0", "prefill_token_s": "0"}
        | {"decode_token_s": "0", "cell_s": "0", "prefill_cell_s": "0", "swap_byte_s": "0"},
    ),
)
