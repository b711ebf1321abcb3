"""What a caller may do, as a person reads it."""

from edged.cli.as_json import enum_name
from edged.core.types import SloTier
from edged.v1 import access_pb2, inference_pb2


def tier_of(grant: access_pb2.Grant) -> str:
    """The most urgent it may ask for."""
    if not grant.max_tier:
        return SloTier.INTERACTIVE
    return enum_name(inference_pb2.Tier.DESCRIPTOR, grant.max_tier)


def what_it_allows(grant: access_pb2.Grant) -> str:
    """In one line: "may use every model up to tier interactive, and operate the daemon"."""
    models = ", ".join(grant.models) if grant.models else "every model"
    told = f"may use {models} up to tier {tier_of(grant)}"
    if grant.HasField("max_requests_per_minute"):
        told += f", {grant.max_requests_per_minute:g} requests per minute"
    if grant.HasField("max_concurrent_requests"):
        told += f", {grant.max_concurrent_requests} at once"
    return told + (", and operate the daemon" if grant.is_admin else "")
