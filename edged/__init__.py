"""edged: one local model, many apps, service tiers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, read when it is asked for: reading package metadata takes longer than
        importing all the rest, and every start of a command or an engine would pay for it."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415  # see above

            return version("edged")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
