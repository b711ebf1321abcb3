"""Decides whether a request is within its caller's grant: tier, targets, models."""

from collections.abc import Sequence
from dataclasses import replace

from edged.core.types import TIER_RANK, ServiceLevel
from edged.errors import EdgedError, Reason, shown
from edged.node.trust.grant import Grant
from edged.rpc.convert import Tiers
from edged.supervise.model import ModelStatus
from edged.v1 import inference_pb2 as pb


def has_every_tier(grant: Grant) -> bool:
    """Whether its targets are its own affair: there is no tier that it may not ask for."""
    return TIER_RANK[grant.max_tier] == 0


def tiers_for(grant: Grant, tiers: Tiers) -> Tiers:
    """A request that names no tier gets the default one, or the most urgent that is allowed."""
    default = max(tiers.default, grant.max_tier, key=lambda tier: TIER_RANK[tier])
    return replace(tiers, default=default)


def check_service(grant: Grant, service: ServiceLevel, own: pb.Targets, tiers: Tiers) -> None:
    """A request asks for no more than the most urgent tier that its caller may ask for.

    Raises:
        EdgedError: TIER_NOT_ALLOWED; also for a target of its own that is nearer than that tier's,
            or that the tier does not have at all: by such it would be as urgent.
    """
    highest = grant.max_tier
    if TIER_RANK[service.tier] < TIER_RANK[highest]:
        raise EdgedError(
            Reason.TIER_NOT_ALLOWED,
            f"{grant.name!r} may ask for tier {highest} and those after it, not for {service.tier}",
        )
    spec = tiers.find(highest)
    if has_every_tier(grant) or spec is None:
        return
    for field, asked_s, least_s in (
        ("ttft_s", own.ttft_s if own.HasField("ttft_s") else None, spec.ttft_target_s),
        ("tpot_s", own.tpot_s if own.HasField("tpot_s") else None, spec.tpot_target_s),
        ("ttlt_s", own.ttlt_s if own.HasField("ttlt_s") else None, spec.ttlt_target_s),
    ):
        if asked_s is not None and (least_s is None or asked_s < least_s):
            allowed = "none" if least_s is None else f"{least_s:g} or more"
            raise EdgedError(
                Reason.TIER_NOT_ALLOWED,
                f"targets.{field} is {asked_s:g}; {grant.name!r} may ask for no more than tier "
                f"{highest} has: expected {allowed}",
            )


def may_see(grant: Grant, model: str) -> bool:
    return grant.is_admin or may_use(grant, model)


def may_use(grant: Grant, model: str) -> bool:
    return not grant.models or model in grant.models


def check_model(grant: Grant, asked: str, models: Sequence[ModelStatus]) -> None:
    """Raises EdgedError: MODEL_NOT_ALLOWED; "" asks for the default model."""
    name = asked or next((model.name for model in models if model.is_default), "")
    if may_use(grant, name):
        return
    # Which model is the default one is not told to who may not see it.
    which = f"the model {shown(asked)}" if asked else "the default model"
    raise EdgedError(
        Reason.MODEL_NOT_ALLOWED,
        f"{grant.name!r} may not use {which}; name one of {', '.join(grant.models)}",
    )
