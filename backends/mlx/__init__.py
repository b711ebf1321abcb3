"""The MLX backend: models of mlx-lm's zoo on Apple Silicon, and on a CPU to try them."""

from backends.mlx.load import create

__all__ = ["create"]
