"""What the front is handed to know callers, and to be known by them."""

from collections.abc import Callable
from dataclasses import dataclass

from edged.clock import wall_s
from edged.node.trust.identity import IdentitySource
from edged.node.trust.tokens import TokenStore


@dataclass(frozen=True, slots=True)
class Trust:
    tokens: TokenStore
    identity: IdentitySource
    """Loaded, and made, only where a listener needs it."""
    wall: Callable[[], float] = wall_s
    """Seconds since 1970."""
