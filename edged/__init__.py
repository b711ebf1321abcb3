"""edged: one local model, many apps, service tiers."""

from importlib.metadata import version

__version__ = version("edged")
