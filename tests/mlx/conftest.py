"""Tests of the MLX backend's own parts; skipped where MLX is not installed."""

from pathlib import Path

import pytest

from tests.models import require_mlx
from tests.tiny_mlx import write_tiny_mlx, write_tiny_windowed_mlx


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_mlx()
    return write_tiny_mlx(tmp_path_factory.mktemp("mlx") / "tiny")


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With heads of 128 numbers, which groups of any size divide."""
    require_mlx()
    return write_tiny_mlx(tmp_path_factory.mktemp("mlx") / "wide", head_size=128)


@pytest.fixture(scope="session")
def windowed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_mlx()
    return write_tiny_windowed_mlx(tmp_path_factory.mktemp("mlx") / "windowed")
