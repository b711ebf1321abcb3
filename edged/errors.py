"""The error tree: everything edged raises on purpose, each with a stable reason.

An operating error (bad input, a limit reached, a lost process) is an `EdgedError`. A programmer's
error is an `assert` that names the invariant it broke. `edged.rpc.status` is the one table that
turns a `Reason` into a gRPC code.
"""

from dataclasses import dataclass
from enum import StrEnum

MAX_SHOWN_CHARACTERS = 40
"""Of a value that somebody else chose, in a sentence about it."""


class Reason(StrEnum):
    """Stable, machine-readable causes. Clients may match on them: never rename one."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_REQUEST = "UNKNOWN_REQUEST"
    DUPLICATE_REQUEST = "DUPLICATE_REQUEST"
    MODEL_LOADING = "MODEL_LOADING"
    MODEL_FAILED = "MODEL_FAILED"
    MODEL_UNLOADED = "MODEL_UNLOADED"
    QUEUE_FULL = "QUEUE_FULL"
    CLIENT_SHARE = "CLIENT_SHARE"
    UNATTAINABLE = "UNATTAINABLE"
    SLOW_READER = "SLOW_READER"
    DRAINING = "DRAINING"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    POISONED_REQUEST = "POISONED_REQUEST"
    ENGINE_LOST = "ENGINE_LOST"
    BAD_MODEL_FILE = "BAD_MODEL_FILE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BAD_CONFIG = "BAD_CONFIG"
    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    ADMIN_ONLY = "ADMIN_ONLY"
    TIER_NOT_ALLOWED = "TIER_NOT_ALLOWED"
    MODEL_NOT_ALLOWED = "MODEL_NOT_ALLOWED"
    RATE_LIMITED = "RATE_LIMITED"
    CONCURRENCY_LIMITED = "CONCURRENCY_LIMITED"
    UNKNOWN_TOKEN = "UNKNOWN_TOKEN"
    DUPLICATE_TOKEN = "DUPLICATE_TOKEN"
    PAIRING_CLOSED = "PAIRING_CLOSED"
    PAIRING_REFUSED = "PAIRING_REFUSED"
    UNREACHABLE = "UNREACHABLE"
    PEER_UNKNOWN = "PEER_UNKNOWN"
    PEER_CHANGED = "PEER_CHANGED"
    INTERNAL = "INTERNAL"


OF_CLIENTS = frozenset({Reason.UNREACHABLE, Reason.PEER_UNKNOWN, Reason.PEER_CHANGED})
"""What a client says of a daemon that it cannot ask; no daemon answers so."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that broke a rule; `field` is its path in the request."""

    field: str
    description: str


class EdgedError(Exception):
    """An operating error.

    `detail` is a sentence for a person: what, which value, what was expected; no paths, no
    traceback. `retry_after_s` is set only where the same call can succeed later.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        retry_after_s: float | None = None,
        violations: tuple[FieldViolation, ...] = (),
        num_further_violations: int = 0,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.violations = violations
        self.num_further_violations = num_further_violations
        """Beyond those that are listed."""


class ConfigError(EdgedError):
    """The configuration is unusable; `detail` names the source, the key, the value and the rule."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.BAD_CONFIG, detail)


class AddressError(ConfigError):
    """An address cannot be listened on now. It may be free, or there, a moment later."""


class InvalidRequestError(EdgedError):
    """A request that can never succeed as it stands; names the field."""

    def __init__(
        self, field: str, description: str, reason: Reason = Reason.INVALID_ARGUMENT
    ) -> None:
        violation = FieldViolation(field, description)
        super().__init__(reason, f"{field}: {description}", violations=(violation,))


class ModelLoadError(EdgedError):
    """A model that cannot be served; raised by a backend's `create`, nothing is left allocated."""


class BackendStepError(EdgedError):
    """A forward pass failed. The backend has trimmed each named slot back to its chunk's start,
    or cleared it (`lost`)."""

    def __init__(self, detail: str, *, lost: tuple[int, ...]) -> None:
        super().__init__(Reason.INTERNAL, detail)
        self.lost = lost
        """Slots whose KV could not be trimmed back and was cleared."""


class StepInterruptedError(EdgedError):
    """A forward pass was cut short; every slot holds what it held before."""

    def __init__(self) -> None:
        super().__init__(Reason.INTERNAL, "the step was interrupted")


class KvTransferError(EdgedError):
    """Saving one slot's KV failed, and the slot is as it was; or restoring it, and it is empty."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.INTERNAL, detail)


def shown(value: float | str | None) -> str:
    """A value as a message shows it: numbers short, texts quoted and cut."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and len(value) > MAX_SHOWN_CHARACTERS:
        return f"{value[:MAX_SHOWN_CHARACTERS]!r}… ({len(value)} characters)"
    return repr(value) if isinstance(value, str) else str(value)
