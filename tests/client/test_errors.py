"""Every error of the one table, as programs see it, over a real front."""

import pickle
from typing import get_type_hints

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from edged.client import AsyncClient, ClientError
from edged.client import errors as tree
from edged.client.connect.told import told_by_daemon
from edged.client.errors import CLASSES, client_error
from edged.errors import OF_CLIENTS, EdgedError, FieldViolation, InvalidRequestError, Reason
from edged.rpc.status import DETAILS_TRAILER, CallFailure, from_edged_error
from tests.client.scripted import fails, playing
from tests.rpc.front import Front, running_front


async def error_of(front: Front) -> ClientError:
    async with AsyncClient(front.target, retry=None) as client:
        with pytest.raises(ClientError) as raised:
            await client.complete("Hi")
    return raised.value


@pytest.mark.parametrize("reason", [one for one in Reason if one not in OF_CLIENTS])
async def test_every_reason_of_a_daemon_has_its_class(reason: Reason) -> None:
    async with running_front() as front:
        front.models.refusal = EdgedError(reason, "a sentence", retry_after_s=1.5)
        error = await error_of(front)
    assert type(error) is CLASSES[reason]
    assert (error.reason, error.detail, str(error)) == (reason, "a sentence", "a sentence")
    assert error.retry_after_s == 1.5
    assert error.daemon == front.target


def test_every_reason_is_in_the_table() -> None:
    assert set(CLASSES) == set(Reason)


def test_every_class_of_the_tree_says_when_it_is_raised() -> None:
    classes = [one for one in vars(tree).values() if isinstance(one, type)]
    own = [one for one in classes if issubclass(one, ClientError) and one is not ClientError]
    assert {*CLASSES.values(), tree.ConnectionLostError, tree.ProtocolError} == set(own)
    assert all(one.__doc__ for one in own)
    assert get_type_hints(client_error)["return"] is ClientError


async def test_wrong_fields_are_named() -> None:
    async with running_front() as front:
        front.models.refusal = InvalidRequestError("sampling.top_p", "is 2; expected (0, 1]")
        error = await error_of(front)
    assert error.violations == (FieldViolation("sampling.top_p", "is 2; expected (0, 1]"),)


async def test_a_defect_has_the_id_under_which_the_log_tells_of_it() -> None:
    async with running_front() as front:
        front.models.refusal = ZeroDivisionError("a defect")
        error = await error_of(front)
    assert len(error.error_id) == 8
    assert error.error_id in error.detail


async def test_a_reason_of_a_newer_daemon_is_shown_and_not_asked_again() -> None:
    info = error_details_pb2.ErrorInfo(reason="TOO_WARM", domain="edged")
    status = status_pb2.Status(code=8, message="it is too warm")
    status.details.add().Pack(info)
    trailers = ((DETAILS_TRAILER, status.SerializeToString()),)
    failure = CallFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "it is too warm", trailers)
    async with playing(fails(failure)) as daemon, AsyncClient(daemon.address) as client:
        with pytest.raises(tree.ServerFaultError, match=r"it is too warm \(TOO_WARM\)"):
            await client.complete("Hi")
        assert daemon.num_calls == 1


@pytest.mark.parametrize("kind", sorted(set(CLASSES.values()), key=lambda one: one.__name__))
def test_an_error_goes_from_one_process_to_another(kind: type[ClientError]) -> None:
    error = kind(Reason.INTERNAL, "a sentence", retry_after_s=2.0)
    error.text_so_far, error.daemon = "Par", "gpu-box"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == "a sentence"


@pytest.mark.parametrize(
    "packed",
    [b"\xff", b"", status_pb2.Status(code=3).SerializeToString()],
)
def test_trailers_of_a_stranger_are_nothing_a_daemon_said(packed: bytes) -> None:
    assert told_by_daemon(((DETAILS_TRAILER, packed),)) is None


def test_trailers_that_are_text_or_missing_are_nothing_a_daemon_said() -> None:
    assert told_by_daemon(()) is None
    assert told_by_daemon(((DETAILS_TRAILER, "text"),)) is None


def test_details_that_are_damaged_are_nothing_a_daemon_said() -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", domain="edged"))
    status.details[0].value = b"\xff\xff"
    assert told_by_daemon(((DETAILS_TRAILER, status.SerializeToString()),)) is None


def test_the_words_of_another_service_are_not_a_daemons() -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", domain="other"))
    assert told_by_daemon(((DETAILS_TRAILER, status.SerializeToString()),)) is None


@pytest.mark.parametrize("seconds", [-5, 10**12])
def test_a_time_that_makes_no_sense_is_not_waited_for(seconds: int) -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", domain="edged"))
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))
    status.details.add().Pack(retry)
    told = told_by_daemon(((DETAILS_TRAILER, status.SerializeToString()),))
    assert told is not None
    assert told.retry_after_s in (0.0, 10**12)


def test_what_a_daemon_writes_is_what_a_client_reads() -> None:
    error = EdgedError(Reason.RATE_LIMITED, "too many", retry_after_s=2.5)
    told = told_by_daemon(from_edged_error(error, {"error_id": "abcd"}).trailers)
    assert told is not None
    assert (told.reason, told.retry_after_s, told.error_id) == ("RATE_LIMITED", 2.5, "abcd")
