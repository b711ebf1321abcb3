"""Knows whose each request is, so that a caller sees and ends its own alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from edged.core.types import RequestId
from edged.errors import EdgedError, Reason, shown
from edged.rpc.access.caller import Caller


class OwnRequests:
    """Requests in progress. No more of them than there are calls of Generate."""

    def __init__(self) -> None:
        self._keys: dict[RequestId, str] = {}

    @contextmanager
    def held(self, request_id: RequestId, caller: Caller) -> Iterator[None]:
        self._keys[request_id] = caller.key
        try:
            yield
        finally:
            del self._keys[request_id]

    def may_see(self, request_id: RequestId, caller: Caller) -> bool:
        return caller.grant.is_admin or self._keys.get(request_id) == caller.key

    def named(self, prefix: str, caller: Caller) -> str:
        """What names a request to the models: for an administrator the prefix itself, for others
        the id of their own request that begins so.

        Raises:
            EdgedError: UNKNOWN_REQUEST; none of its own does, or several do.
        """
        if caller.grant.is_admin:
            return prefix
        own = [one for one, key in self._keys.items() if key == caller.key]
        found = [one for one in own if one.startswith(prefix)]
        if len(found) != 1:
            which = (
                f"{len(found)} of your requests begin" if found else "no request of yours begins"
            )
            raise EdgedError(Reason.UNKNOWN_REQUEST, f"{which} with {shown(prefix)}")
        return found[0]
