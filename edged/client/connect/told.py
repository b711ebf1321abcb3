"""Reads what a failed call says: a daemon's own words, or those of gRPC on the way.

Theory of operation: an error that carries google.rpc.ErrorInfo of the domain "edged" was made by a
daemon; one that does not was made by gRPC, or by whatever else listens there. Trailers come from a
stranger: nothing in them may raise.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from edged.client.errors import (
    CLASSES,
    BadRequestError,
    ClientError,
    ConnectionLostError,
    DeadlineExceededError,
    OverloadedError,
    ProtocolError,
    ServerFaultError,
)
from edged.errors import FieldViolation, Reason

ERROR_DOMAIN = "edged"
TOO_LARGE = "larger than max"
"""In what gRPC says of a message that it refuses."""
MAX_SHOWN_CHARACTERS = 300
"""Of a sentence that no daemon wrote."""
_DETAILS_TRAILER = "grpc-status-details-bin"
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True)
class Told:
    """What a daemon says of a call that failed, besides code and sentence."""

    reason: str
    """Of `Reason`, unless the daemon is newer."""
    retry_after_s: float | None = None
    violations: tuple[FieldViolation, ...] = ()
    error_id: str = ""


def told_by_daemon(trailers: Iterable[tuple[str, str | bytes]]) -> Told | None:
    """None: no daemon made this error."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415  # needed for errors alone

    packed = dict(trailers).get(_DETAILS_TRAILER)
    if not isinstance(packed, bytes):
        return None
    try:
        return _unpacked(packed)
    except (DecodeError, ValueError, OverflowError):
        return None


def _unpacked(packed: bytes) -> Told | None:
    from google.rpc import (  # type: ignore[import-untyped]  # noqa: PLC0415  # ships no type information; needed for errors alone
        error_details_pb2,
        status_pb2,
    )

    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    wrong = error_details_pb2.BadRequest()
    retry_after_s: float | None = None
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(info)
        detail.Unpack(wrong)
        if detail.Unpack(retry):
            retry_after_s = max(0.0, retry.retry_delay.ToMilliseconds() / 1000)
    if info.domain != ERROR_DOMAIN:
        return None
    violations = tuple(FieldViolation(one.field, one.description) for one in wrong.field_violations)
    return Told(info.reason, retry_after_s, violations, info.metadata.get("error_id", ""))


def error_of_call(
    failed: grpc.aio.AioRpcError, shown: str, limit_s: float | None = None
) -> ClientError:
    """The error of a call that reached something at `shown`, within `limit_s` if it had a limit."""
    code, detail = failed.code(), (failed.details() or "").strip().rstrip(".")
    told = told_by_daemon(failed.trailing_metadata() or ())
    error = _by_grpc(code, detail, shown, limit_s) if told is None else _by_daemon(told, detail)
    error.daemon = shown
    return error


def _by_daemon(told: Told, detail: str) -> ClientError:
    if told.reason not in Reason.__members__:
        # A newer daemon: whatever it means, nothing that is known here follows from it.
        return ServerFaultError(Reason.INTERNAL, f"{detail} ({told.reason})")
    reason = Reason(told.reason)
    error = CLASSES[reason](
        reason, detail, retry_after_s=told.retry_after_s, violations=told.violations
    )
    error.error_id = told.error_id
    return error


def _by_grpc(code: grpc.StatusCode, detail: str, shown: str, limit_s: float | None) -> ClientError:
    said = detail[:MAX_SHOWN_CHARACTERS]
    if code in _LOST:
        return ConnectionLostError(
            Reason.UNREACHABLE, f"the connection to the daemon at {shown} was lost: {said}"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        within = "in time" if limit_s is None else f"within {limit_s:.3g} s"
        return DeadlineExceededError(
            Reason.DEADLINE_EXCEEDED, f"the daemon at {shown} did not answer {within}"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if TOO_LARGE in detail:
            return BadRequestError(Reason.INVALID_ARGUMENT, said)
        return OverloadedError(Reason.QUEUE_FULL, f"the daemon at {shown} is full: {said}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolError(Reason.INTERNAL, f"what listens at {shown} does not know this call")
    return ProtocolError(
        Reason.INTERNAL, f"what listens at {shown} answers as no daemon does: {code.name} {said}"
    )
