"""The one table of who may call which method."""

from collections.abc import Mapping
from enum import StrEnum

from edged.rpc.access.caller import Door

EDGED_PREFIX = "/edged.v1."


class Right(StrEnum):
    OPEN = "open"
    """Everybody who reaches the door."""
    USE = "use"
    """Whoever was let in."""
    ADMIN = "admin"


RIGHTS: Mapping[str, Right] = {
    "/edged.v1.InferenceService/Generate": Right.USE,
    "/edged.v1.InferenceService/Tokenize": Right.USE,
    "/edged.v1.InferenceService/CountTokens": Right.USE,
    "/edged.v1.AdminService/GetStatus": Right.USE,
    "/edged.v1.AdminService/WatchStatus": Right.USE,
    "/edged.v1.AdminService/ListRequests": Right.USE,
    "/edged.v1.AdminService/Cancel": Right.USE,
    "/edged.v1.AdminService/ListModels": Right.USE,
    "/edged.v1.AdminService/LoadModel": Right.ADMIN,
    "/edged.v1.AdminService/UnloadModel": Right.ADMIN,
    "/edged.v1.AdminService/ListTiers": Right.USE,
    "/edged.v1.AdminService/Drain": Right.ADMIN,
    "/edged.v1.AdminService/Reload": Right.ADMIN,
    "/edged.v1.AccessService/GetIdentity": Right.USE,
    "/edged.v1.AccessService/CreateToken": Right.ADMIN,
    "/edged.v1.AccessService/ListTokens": Right.ADMIN,
    "/edged.v1.AccessService/RevokeToken": Right.ADMIN,
    "/edged.v1.AccessService/BeginPairing": Right.OPEN,
    "/edged.v1.AccessService/FinishPairing": Right.OPEN,
    "/edged.v1.AccessService/WatchPairings": Right.ADMIN,
    "/edged.v1.AccessService/AnswerPairing": Right.ADMIN,
}
"""Every method of edged.v1. What they show and take is less for some callers: see the handlers."""

OPEN_TO_THE_NETWORK = frozenset({"/grpc.health.v1.Health/Check"})
"""Of health and reflection; on this host all of both is open."""


def right_of(method: str, door: Door) -> Right:
    if method.startswith(EDGED_PREFIX):
        # One that the table does not have is closed, whatever it is.
        return RIGHTS.get(method, Right.ADMIN)
    if door is not Door.NETWORK or method in OPEN_TO_THE_NETWORK:
        return Right.OPEN
    return Right.USE
