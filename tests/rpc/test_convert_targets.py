"""Targets of a request: what it names is put over its tier's, and what is out of range is said."""

import math

import pytest

from edged.core.types import OnUnattainable, RequestId, SloTier
from edged.errors import EdgedError, Reason
from edged.rpc.convert import Call, to_submission
from edged.v1 import inference_pb2 as pb
from tests.rpc.front import TIERS, text_request

CALL = Call(RequestId("abcdef"), seed=77, peer="ipv4:10.0.0.9:5000", remaining_s=None, now_s=100)


def test_what_is_not_named_is_the_tiers() -> None:
    submission = to_submission(text_request(targets=pb.Targets(ttlt_s=40)), CALL, TIERS)
    spec = TIERS.find(SloTier.STANDARD)
    assert spec is not None
    service = submission.service
    assert (service.ttft_target_s, service.tpot_target_s) == (
        spec.ttft_target_s,
        spec.tpot_target_s,
    )
    assert service.ttlt_target_s == 40
    assert submission.expected_tokens is None
    assert submission.on_unattainable is OnUnattainable.BEST_EFFORT


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (pb.ON_UNATTAINABLE_UNSPECIFIED, OnUnattainable.BEST_EFFORT),
        (pb.ON_UNATTAINABLE_BEST_EFFORT, OnUnattainable.BEST_EFFORT),
        (pb.ON_UNATTAINABLE_REJECT, OnUnattainable.REJECT),
    ],
)
def test_what_to_do_without_a_promise(
    asked: pb.OnUnattainable.ValueType, taken: OnUnattainable
) -> None:
    submission = to_submission(text_request(on_unattainable=asked), CALL, TIERS)
    assert submission.on_unattainable is taken


@pytest.mark.parametrize("num_tokens", [1, 2**32 - 1])
def test_any_length_may_be_expected(num_tokens: int) -> None:
    submission = to_submission(text_request(expected_tokens=num_tokens), CALL, TIERS)
    assert submission.expected_tokens == num_tokens


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        (pb.GenerateRequest(expected_tokens=0), "expected_tokens", "is 0; expected at least 1"),
        (
            pb.GenerateRequest(targets=pb.Targets(ttlt_s=0)),
            "targets.ttlt_s",
            "is 0; expected a finite number > 0",
        ),
        (
            pb.GenerateRequest(targets=pb.Targets(ttlt_s=math.nan)),
            "targets.ttlt_s",
            "is nan; expected a finite number > 0",
        ),
        (
            pb.GenerateRequest(targets=pb.Targets(ttlt_s=math.inf)),
            "targets.ttlt_s",
            "is inf; expected a finite number > 0",
        ),
    ],
)
def test_what_is_out_of_range_is_named(asked: pb.GenerateRequest, field: str, said: str) -> None:
    asked.MergeFrom(text_request())
    with pytest.raises(EdgedError) as caught:
        to_submission(asked, CALL, TIERS)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    told = {one.field: one.description for one in caught.value.violations}
    assert list(told) == [field]
    assert said in told[field]


def test_an_unknown_wish_is_refused() -> None:
    asked = text_request()
    asked.on_unattainable = 99
    with pytest.raises(EdgedError) as caught:
        to_submission(asked, CALL, TIERS)
    assert [one.field for one in caught.value.violations] == ["on_unattainable"]
