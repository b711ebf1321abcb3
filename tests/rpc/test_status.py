"""Errors as clients read them: one code for each reason, details, limits."""

import re
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from edged.errors import OF_CLIENTS, EdgedError, FieldViolation, InvalidRequestError, Reason
from edged.rpc import status
from edged.rpc.violations import MAX_KEPT, Violations
from edged.v1 import inference_pb2 as pb
from tests.rpc.fakes import admitted
from tests.rpc.front import Front, read_all, text_request, told_by

PROTO = Path(__file__).parents[2] / "proto/edged/v1/inference.proto"
MAX_HEADERS_BYTES = 8192
"""What a gRPC client takes by default."""


def test_every_reason_has_a_code() -> None:
    assert set(status.CODES) == set(Reason)


def test_the_codes_are_those_the_proto_tells() -> None:
    rows = re.findall(r"^// \| ([A-Z_]+) \| ([A-Z_, ]+) \|$", PROTO.read_text(), re.MULTILINE)
    told = {
        Reason(reason): grpc.StatusCode[code] for code, row in rows for reason in row.split(", ")
    }
    assert told == {
        reason: code for reason, code in status.CODES.items() if reason not in OF_CLIENTS
    }


@pytest.mark.parametrize("reason", list(Reason))
async def test_a_refusal_carries_its_reason_to_the_client(front: Front, reason: Reason) -> None:
    front.models.refusal = EdgedError(reason, "this went wrong: 5; expected 4")
    told = await told_by(front.inference.Generate(text_request()))
    assert told.code == status.CODES[reason]
    assert told.detail == "this went wrong: 5; expected 4"
    assert (told.reason, told.domain) == (reason.value, "edged")
    assert not told.violations
    assert told.retry_s is None
    assert told.pushback_ms is None


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.QUEUE_FULL])
async def test_an_error_that_passes_says_when_to_try_again(front: Front, reason: Reason) -> None:
    front.models.refusal = EdgedError(reason, "not now", retry_after_s=2.0005)
    for call in (
        front.inference.Generate(text_request()),
        front.inference.Tokenize(pb.TokenizeRequest(prompt=pb.Prompt(text="Hi"))),
    ):
        told = await told_by(call)
        assert told.retry_s == 2.001
        assert told.pushback_ms == "2001"


async def test_an_error_in_mid_stream_comes_after_the_events(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(admitted(stream))
    assert (await call.read()).HasField("admitted")
    stream.fail(EdgedError(Reason.POISONED_REQUEST, "it took two engines down"))
    assert await read_all(call) == []
    told = await told_by(call)
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, Reason.POISONED_REQUEST)


async def test_a_field_that_the_engine_refuses_is_named(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.fail(InvalidRequestError("prompt", "has 900 tokens", Reason.PROMPT_TOO_LONG))
    told = await told_by(call)
    assert (told.code, told.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.PROMPT_TOO_LONG,
    )
    assert told.violations == {"prompt": "has 900 tokens"}


async def test_a_defect_is_told_by_an_id_and_logged_with_its_traceback(front: Front) -> None:
    front.models.refusal = ZeroDivisionError("secret of the server")
    with capture_logs() as logs:
        told = await told_by(front.inference.Generate(text_request()))
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    assert "secret" not in told.detail
    assert "ZeroDivision" not in told.detail
    assert told.metadata["error_id"] in told.detail
    [entry] = logs
    assert entry["event"] == "unexpected_error"
    assert entry["error_id"] == told.metadata["error_id"]
    assert entry["method"] == "/edged.v1.InferenceService/Generate"
    assert entry["exc_info"] is front.models.refusal


async def test_bytes_that_are_no_request_are_an_invalid_argument(front: Front) -> None:
    call = front.channel.unary_stream("/edged.v1.InferenceService/Generate")(b"\xff\xff\xff")
    told = await told_by(call)
    assert (told.code, told.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.INVALID_ARGUMENT,
    )
    assert "3 bytes" in told.detail


async def test_a_method_that_is_not_there_is_unimplemented(front: Front) -> None:
    call = front.channel.unary_unary("/edged.v1.InferenceService/Dream")(b"")
    assert await call.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
async def test_the_longest_error_still_reaches_the_client(front: Front, character: str) -> None:
    long = character * 100_000
    violations = tuple(FieldViolation(long, long) for _ in range(100))
    front.models.refusal = EdgedError(
        Reason.INVALID_ARGUMENT, long, retry_after_s=1e6, violations=violations
    )
    told = await told_by(front.inference.Generate(text_request()))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert told.reason == Reason.INVALID_ARGUMENT
    assert told.detail.startswith(character * 100)
    assert told.detail.endswith("…")
    assert "more fields are wrong" in told.violations["…"]


@pytest.mark.parametrize("num_violations", [16, 17])
def test_violations_beyond_the_limit_are_counted(num_violations: int) -> None:
    violations = tuple(FieldViolation(f"f{n}", "is wrong") for n in range(num_violations))
    error = EdgedError(Reason.INVALID_ARGUMENT, "wrong", violations=violations)
    failure = status.from_edged_error(error)
    assert (b"1 more fields" in dict(failure.trailers)[status.DETAILS_TRAILER]) == (
        num_violations == 17
    )


def test_an_error_fits_into_the_headers_a_client_takes() -> None:
    long = "\x01" * 100_000
    violations = tuple(FieldViolation(long, long) for _ in range(100))
    error = EdgedError(Reason.INVALID_ARGUMENT, long, retry_after_s=1e6, violations=violations)
    failure = status.from_edged_error(error)
    percent_encoded_bytes = 3 * len(failure.detail.encode())
    details = dict(failure.trailers)[status.DETAILS_TRAILER]
    assert percent_encoded_bytes + len(details) * 4 / 3 + 300 < MAX_HEADERS_BYTES


def test_text_is_cut_between_characters() -> None:
    assert status.clip("héllo", 6) == "héllo"
    assert status.clip("hééllo", 7) == "hé…"
    assert status.clip("hééllo", 8) == "hééllo"
    assert status.clip("hééééo", 8) == "héé…"


@pytest.mark.parametrize("num_violations", [MAX_KEPT, 5000])
def test_gathered_violations_are_bounded_and_all_are_counted(num_violations: int) -> None:
    violations = Violations()
    for index in range(num_violations):
        violations.add(f"list[{index}]", "is wrong")
    with pytest.raises(EdgedError) as caught:
        violations.raise_if_any()
    assert len(caught.value.violations) == MAX_KEPT
    details = dict(status.from_edged_error(caught.value).trailers)[status.DETAILS_TRAILER]
    more = f"{num_violations - status.MAX_VIOLATIONS} more fields are wrong"
    assert isinstance(details, bytes)
    assert more.encode() in details
