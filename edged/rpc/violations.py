"""What is wrong with a request: gathered field by field, told all together."""

from edged.errors import EdgedError, FieldViolation, Reason, shown

MAX_KEPT = 32
"""Violations kept with their text; further ones are counted only."""


class Violations:
    """The broken rules of one request, in the order of its fields."""

    def __init__(self) -> None:
        self._kept: list[FieldViolation] = []
        self._num_further = 0

    def add(self, field: str, description: str) -> None:
        if len(self._kept) < MAX_KEPT:
            self._kept.append(FieldViolation(field, description))
        else:
            self._num_further += 1

    def require(self, holds: bool, field: str, value: float | str | None, expected: str) -> None:
        """Note that `field` is `value` and should be what `expected` says, unless it `holds`."""
        if not holds:
            self.add(field, f"is {shown(value)}; expected {expected}")

    def require_size(self, field: str, size: int, low: int, high: int, of: str) -> None:
        """Note that `field` has `size` things and should have `low` to `high`, unless it has."""
        if not low <= size <= high:
            span = f"at most {high}" if low == 0 else f"{low} to {high}"
            self.add(field, f"has {size} {of}; expected {span}")

    def raise_if_any(self) -> None:
        """Raises EdgedError: INVALID_ARGUMENT, with every violation."""
        if not self._kept:
            return
        told = "; ".join(f"{found.field}: {found.description}" for found in self._kept)
        raise EdgedError(
            Reason.INVALID_ARGUMENT,
            told,
            violations=tuple(self._kept),
            num_further_violations=self._num_further,
        )
