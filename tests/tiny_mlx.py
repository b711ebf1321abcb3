"""The tiny models of `tests.tiny_gguf` as folders for MLX: the same weights, converted."""

from pathlib import Path

from tests.tiny_gguf import HEAD_SIZE, write_tiny_gguf, write_tiny_windowed_gguf


def write_tiny_mlx(path: Path, *, bits: int | None = None, head_size: int = HEAD_SIZE) -> Path:
    """Write the folder and return it; the GGUF file lies beside it. `bits`: of the weights."""
    return _converted(write_tiny_gguf(path.with_suffix(".gguf"), head_size=head_size), path, bits)


def write_tiny_windowed_mlx(path: Path) -> Path:
    """A model five of whose six layers attend to the last 32 tokens."""
    return _converted(write_tiny_windowed_gguf(path.with_suffix(".gguf")), path, None)


def _converted(file: Path, folder: Path, bits: int | None) -> Path:
    from backends.mlx.from_gguf import write_folder  # needs MLX, which may not be installed

    return write_folder(file, folder.with_suffix(""), bits=bits, group_size=32)
