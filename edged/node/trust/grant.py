"""Decides what a caller can be granted: tier, models, how much, and whether to operate."""

import math
import re
from dataclasses import dataclass

from edged.core.types import SloTier
from edged.errors import EdgedError, FieldViolation, Reason

MAX_MODELS = 64
MAX_REQUESTS_PER_MINUTE = 1_000_000.0
MAX_CONCURRENT_REQUESTS = 100_000

NAME_RULE = "1 to 32 characters out of A-Z a-z 0-9 . _ -"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_MODEL = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What one caller may do."""

    name: str
    """Its requests count for it, and are shown under it."""
    max_tier: SloTier = SloTier.INTERACTIVE
    """The most urgent tier it may ask for."""
    models: tuple[str, ...] = ()
    """Those it may use; empty: all."""
    is_admin: bool = False
    max_requests_per_minute: float | None = None
    max_concurrent_requests: int | None = None


def is_grant_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def check_grant(grant: Grant) -> None:
    """Whether it makes sense by itself; which models there are is not known here.

    Raises:
        EdgedError: INVALID_ARGUMENT, with every field that breaks a rule.
    """
    violations: list[FieldViolation] = []

    def require(holds: bool, field: str, value: object, expected: str) -> None:
        if not holds:
            described = f"is {value!r}; expected {expected}"
            violations.append(FieldViolation(f"grant.{field}", described))

    per_minute, concurrent = grant.max_requests_per_minute, grant.max_concurrent_requests
    require(is_grant_name(grant.name), "name", grant.name[:40], NAME_RULE)
    require(len(grant.models) <= MAX_MODELS, "models", len(grant.models), f"at most {MAX_MODELS}")
    for index, model in enumerate(grant.models[:MAX_MODELS]):
        expected = "the name of a model, 1 to 64 characters out of A-Z a-z 0-9 . _ -"
        require(_MODEL.fullmatch(model) is not None, f"models[{index}]", model[:70], expected)
    require(
        per_minute is None
        or (math.isfinite(per_minute) and 0 < per_minute <= MAX_REQUESTS_PER_MINUTE),
        "max_requests_per_minute",
        per_minute,
        f"above 0, at most {MAX_REQUESTS_PER_MINUTE:g}",
    )
    require(
        concurrent is None or 1 <= concurrent <= MAX_CONCURRENT_REQUESTS,
        "max_concurrent_requests",
        concurrent,
        f"1 to {MAX_CONCURRENT_REQUESTS}",
    )
    if violations:
        told = "; ".join(f"{found.field}: {found.description}" for found in violations)
        raise EdgedError(Reason.INVALID_ARGUMENT, told, violations=tuple(violations))
