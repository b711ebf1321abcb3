"""The errors of the client library, and the one table from a `Reason` to its class.

Each is an `EdgedError`: `reason` is for programs, `detail` (and `str`) is a sentence for a person,
`retry_after_s` is there where the same call can succeed later, `violations` name wrong fields.
"""

from collections.abc import Mapping
from typing import Any

from edged.errors import EdgedError, FieldViolation, Reason


class ClientError(EdgedError):
    """A call failed. What is raised is always one of the classes below."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        retry_after_s: float | None = None,
        violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(reason, detail, retry_after_s=retry_after_s, violations=violations)
        self.daemon = ""
        """The daemon that was asked, as the caller named it; "" if none was."""
        self.request_id = ""
        """Of the request, once it was admitted."""
        self.text_so_far = ""
        """Of the answer, as far as it came."""
        self.error_id = ""
        """Under which the daemon's log tells of a defect."""

    def __reduce__(self) -> tuple[Any, ...]:
        """An error that cannot go from one process to another hangs pools of processes."""
        return type(self), (self.reason, self.detail), self.__dict__


class UnreachableError(ClientError):
    """No daemon answers there."""


class ConnectionLostError(ClientError):
    """The connection was lost, or silent for too long, in the middle of a call."""


class NotTrustedError(ClientError):
    """The daemon is not known (PEER_UNKNOWN), or is not the one that was known (PEER_CHANGED)."""


class UnauthenticatedError(ClientError):
    """The token is missing, wrong or revoked."""


class NotAllowedError(ClientError):
    """The token does not allow this."""


class BadRequestError(ClientError):
    """The request can never succeed as it is."""


class NotFoundError(ClientError):
    """No such model, request or token."""


class OverloadedError(ClientError):
    """There is too much to do, or this client asks for too much: later."""


class UnattainableError(ClientError):
    """Its targets cannot be promised, and `on_unattainable` says to refuse it then."""


class UnavailableError(ClientError):
    """The daemon is there and does not serve: it drains, or the model is not there."""


class DeadlineExceededError(ClientError):
    """The time that the caller gave has passed."""


class RequestCancelledError(ClientError):
    """By an operator, by a drain, or because the client or the stream was closed meanwhile."""


class SlowReaderError(ClientError):
    """This program did not read its answer."""


class ServerFaultError(ClientError):
    """A defect of the daemon, or a request that takes engines down."""


class ProtocolError(ClientError):
    """What answers is no daemon of this API, or breaks its rules."""


class MisconfiguredError(ClientError):
    """This client's own settings: a file of peers or authorities, or two choices that clash."""


CLASSES: Mapping[Reason, type[ClientError]] = {
    Reason.INVALID_ARGUMENT: BadRequestError,
    Reason.PROMPT_TOO_LONG: BadRequestError,
    Reason.DUPLICATE_REQUEST: BadRequestError,
    Reason.DUPLICATE_TOKEN: BadRequestError,
    Reason.UNKNOWN_MODEL: NotFoundError,
    Reason.UNKNOWN_REQUEST: NotFoundError,
    Reason.UNKNOWN_TOKEN: NotFoundError,
    Reason.QUEUE_FULL: OverloadedError,
    Reason.CLIENT_SHARE: OverloadedError,
    Reason.RATE_LIMITED: OverloadedError,
    Reason.CONCURRENCY_LIMITED: OverloadedError,
    Reason.QUEUE_TIMEOUT: OverloadedError,
    Reason.UNATTAINABLE: UnattainableError,
    Reason.SLOW_READER: SlowReaderError,
    Reason.DRAINING: UnavailableError,
    Reason.MODEL_LOADING: UnavailableError,
    Reason.MODEL_FAILED: UnavailableError,
    Reason.MODEL_UNLOADED: UnavailableError,
    Reason.ENGINE_LOST: UnavailableError,
    Reason.BAD_MODEL_FILE: UnavailableError,
    Reason.OUT_OF_MEMORY: UnavailableError,
    Reason.PAIRING_CLOSED: UnavailableError,
    Reason.DEADLINE_EXCEEDED: DeadlineExceededError,
    Reason.CANCELLED: RequestCancelledError,
    Reason.TOKEN_MISSING: UnauthenticatedError,
    Reason.TOKEN_INVALID: UnauthenticatedError,
    Reason.TOKEN_REVOKED: UnauthenticatedError,
    Reason.ADMIN_ONLY: NotAllowedError,
    Reason.TIER_NOT_ALLOWED: NotAllowedError,
    Reason.MODEL_NOT_ALLOWED: NotAllowedError,
    Reason.PAIRING_REFUSED: NotAllowedError,
    Reason.UNREACHABLE: UnreachableError,
    Reason.PEER_UNKNOWN: NotTrustedError,
    Reason.PEER_CHANGED: NotTrustedError,
    Reason.BAD_CONFIG: MisconfiguredError,
    Reason.POISONED_REQUEST: ServerFaultError,
    Reason.INTERNAL: ServerFaultError,
}


def client_error(error: EdgedError) -> ClientError:
    """The same, as one of the library's own."""
    if isinstance(error, ClientError):
        return error
    return CLASSES[error.reason](
        error.reason,
        error.detail,
        retry_after_s=error.retry_after_s,
        violations=error.violations,
    )


def bad_request(field: str, description: str) -> BadRequestError:
    """What the caller gave is refused here, before a daemon is asked."""
    violation = FieldViolation(field, description)
    detail = f"{field}: {description}"
    return BadRequestError(Reason.INVALID_ARGUMENT, detail, violations=(violation,))
