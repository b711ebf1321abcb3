"""What may be granted."""

import math

import pytest

from edged.errors import EdgedError, Reason
from edged.node.trust.grant import MAX_MODELS, Grant, check_grant


@pytest.mark.parametrize(
    ("grant", "fields"),
    [
        (Grant(""), {"grant.name"}),
        (Grant("a/b"), {"grant.name"}),
        (Grant("x" * 33), {"grant.name"}),
        (Grant("a\n"), {"grant.name"}),
        (Grant("user:a"), {"grant.name"}),
        (Grant("a", models=("",)), {"grant.models[0]"}),
        (Grant("a", models=("m",) * (MAX_MODELS + 1)), {"grant.models"}),
        (Grant("a", max_requests_per_minute=0.0), {"grant.max_requests_per_minute"}),
        (Grant("a", max_requests_per_minute=math.nan), {"grant.max_requests_per_minute"}),
        (Grant("a", max_requests_per_minute=math.inf), {"grant.max_requests_per_minute"}),
        (Grant("a", max_concurrent_requests=0), {"grant.max_concurrent_requests"}),
        (Grant("", models=("a b",)), {"grant.name", "grant.models[0]"}),
    ],
)
def test_a_grant_that_makes_no_sense_is_told_with_every_field(
    grant: Grant, fields: set[str]
) -> None:
    with pytest.raises(EdgedError) as caught:
        check_grant(grant)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert {violation.field for violation in caught.value.violations} == fields


@pytest.mark.parametrize(
    "grant",
    [
        Grant("x" * 32),
        Grant("a.b-c_D", models=("m",) * MAX_MODELS),
        Grant("a", max_requests_per_minute=0.5, max_concurrent_requests=1),
    ],
)
def test_a_grant_at_its_limits_makes_sense(grant: Grant) -> None:
    check_grant(grant)
