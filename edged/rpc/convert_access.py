"""Grants and tokens: protobuf in, values out, and back."""

from edged.errors import InvalidRequestError
from edged.node.trust.grant import Grant, check_grant
from edged.node.trust.token_file import TokenRecord
from edged.rpc.convert import TIER_OF, TIERS
from edged.v1 import access_pb2 as pb


def to_grant(message: pb.Grant) -> Grant:
    """What is asked for, checked by itself.

    Raises:
        EdgedError: INVALID_ARGUMENT, with every field that breaks a rule.
    """
    tier = TIER_OF.get(message.max_tier or TIERS[Grant("").max_tier])
    if tier is None:
        known = ", ".join(f"{one} ({name})" for name, one in TIERS.items())
        raise InvalidRequestError(
            "grant.max_tier", f"is {message.max_tier}; expected one of {known}"
        )
    has = message.HasField
    grant = Grant(
        name=message.name,
        max_tier=tier,
        models=tuple(message.models),
        is_admin=message.is_admin,
        max_requests_per_minute=(
            message.max_requests_per_minute if has("max_requests_per_minute") else None
        ),
        max_concurrent_requests=(
            message.max_concurrent_requests if has("max_concurrent_requests") else None
        ),
    )
    check_grant(grant)
    return grant


def from_grant(grant: Grant) -> pb.Grant:
    return pb.Grant(
        name=grant.name,
        max_tier=TIERS[grant.max_tier],
        models=grant.models,
        is_admin=grant.is_admin,
        max_requests_per_minute=grant.max_requests_per_minute,
        max_concurrent_requests=grant.max_concurrent_requests,
    )


def from_record(record: TokenRecord, last_used_s: float | None) -> pb.Token:
    return pb.Token(
        token_id=record.token_id,
        grant=from_grant(record.grant),
        created_s=record.created_s,
        revoked_s=record.revoked_s,
        last_used_s=last_used_s,
        is_credential=record.is_credential,
    )
