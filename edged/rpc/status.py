"""The one table from a `Reason` to a gRPC code, and the status a client is sent for an error.

Theory of operation: the rich status travels in the trailers, which gRPC limits to 8 KiB in all
and drops the call's answer over. So every part of it has a limit here, chosen so that the message
(percent-encoded, up to three bytes for one) and the details (base64, four bytes for three) fit.
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import (  # type: ignore[import-untyped]  # ships no type information
    error_details_pb2,
    status_pb2,
)

from edged.errors import EdgedError, FieldViolation, Reason
from edged.log import get_logger

ERROR_DOMAIN = "edged"
DETAILS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"

MAX_DETAIL_BYTES = 768
MAX_VIOLATIONS = 16
MAX_VIOLATION_BYTES = 2560
"""Bytes of all fields and descriptions together."""

_log = get_logger("rpc")

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PROMPT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_REQUEST: grpc.StatusCode.NOT_FOUND,
    Reason.DUPLICATE_REQUEST: grpc.StatusCode.ALREADY_EXISTS,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNATTAINABLE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CLIENT_SHARE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.SLOW_READER: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.OUT_OF_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MODEL_UNLOADED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BAD_MODEL_FILE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BAD_CONFIG: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.MODEL_LOADING: grpc.StatusCode.UNAVAILABLE,
    Reason.MODEL_FAILED: grpc.StatusCode.UNAVAILABLE,
    Reason.ENGINE_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.TOKEN_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_REVOKED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.ADMIN_ONLY: grpc.StatusCode.PERMISSION_DENIED,
    Reason.TIER_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.MODEL_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.PAIRING_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CONCURRENCY_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNKNOWN_TOKEN: grpc.StatusCode.NOT_FOUND,
    Reason.DUPLICATE_TOKEN: grpc.StatusCode.ALREADY_EXISTS,
    Reason.PAIRING_CLOSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.PEER_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.PEER_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.QUEUE_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.POISONED_REQUEST: grpc.StatusCode.INTERNAL,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class CallFailure:
    """How a call ends: what `ServicerContext.abort` takes."""

    code: grpc.StatusCode
    detail: str
    trailers: tuple[tuple[str, str | bytes], ...]


def from_edged_error(error: EdgedError, metadata: Mapping[str, str] | None = None) -> CallFailure:
    """The status of an operating error; `metadata` goes into its ErrorInfo."""
    code = CODES[error.reason]
    detail = clip(error.detail, MAX_DETAIL_BYTES)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value, domain=ERROR_DOMAIN, metadata=metadata or {}
    )
    # gRPC types a code's value as (number, name); the number is what google.rpc.Status carries.
    rich = status_pb2.Status(code=code.value[0], message=detail)
    rich.details.add().Pack(info)
    if error.violations:
        told = _bad_request(error.violations, error.num_further_violations)
        rich.details.add().Pack(told)
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    if error.retry_after_s is not None:
        pushback_ms = math.ceil(error.retry_after_s * 1000)
        retry_delay = Duration()
        retry_delay.FromMilliseconds(pushback_ms)
        rich.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry_delay))
        trailers = ((PUSHBACK_TRAILER, str(pushback_ms)),)
    return CallFailure(code, detail, ((DETAILS_TRAILER, rich.SerializeToString()), *trailers))


def from_unexpected(error: Exception, method: str) -> CallFailure:
    """The status of a defect: logged with its traceback, of which the client is told only an id."""
    error_id = secrets.token_hex(4)
    _log.error("unexpected_error", error_id=error_id, method=method, exc_info=error)
    told = EdgedError(
        Reason.INTERNAL, f"an unexpected error in the server; its log has it as error_id={error_id}"
    )
    return from_edged_error(told, {"error_id": error_id})


def clip(text: str, max_bytes: int) -> str:
    """`text`, cut between characters to `max_bytes` of UTF-8; "…" shows that it was."""
    encoded = text[: max_bytes + 1].encode()  # a character has at least a byte
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _bad_request(
    violations: tuple[FieldViolation, ...], num_further: int
) -> error_details_pb2.BadRequest:
    """As many violations as fit, and how many there were beyond them."""
    bad_request = error_details_pb2.BadRequest()
    num_bytes = num_told = 0
    for violation in violations:
        field, description = clip(violation.field, 128), clip(violation.description, 512)
        num_bytes += len(field.encode()) + len(description.encode())
        if num_told == MAX_VIOLATIONS or num_bytes > MAX_VIOLATION_BYTES:
            break
        bad_request.field_violations.add(field=field, description=description)
        num_told += 1
    num_more = len(violations) - num_told + num_further
    if num_more:
        more = f"{num_more} more fields are wrong"
        bad_request.field_violations.add(field="…", description=more)
    return bad_request
