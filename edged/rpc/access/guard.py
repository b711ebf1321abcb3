"""Decides who a caller is: by its token, else by the door and the user it came through."""

import functools
import os
import pwd
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from edged.clock import Clock, wall_s
from edged.errors import EdgedError, Reason
from edged.log import get_logger
from edged.node.trust.bucket import RateBucket
from edged.node.trust.grant import Grant, is_grant_name
from edged.node.trust.tokens import TokenStore, id_in
from edged.rpc.access.caller import Caller, Door
from edged.rpc.access.rights import Right
from edged.rpc.convert import caller_address

LoopbackAccess = Literal["use", "admin", "token"]
Metadata = Iterable[tuple[str, str | bytes]]

AUTHORIZATION = "authorization"
SCHEME = "bearer"
REFUSALS_LOGGED_PER_MINUTE = 30.0
MAX_REMEMBERED_TOKENS = 4096
"""Tokens whose last use is known; of more, the one that came first is forgotten."""

_log = get_logger("access")


@dataclass(frozen=True, slots=True)
class DoorRules:
    """What callers without a token may do."""

    loopback_access: LoopbackAccess = "use"
    network_needs_token: bool = True


class Guard:
    """Lives on the daemon's event loop."""

    def __init__(
        self,
        tokens: TokenStore,
        rules: DoorRules,
        user_of: Callable[[str], int | None],
        clock: Clock,
        wall: Callable[[], float] = wall_s,
    ) -> None:
        """`user_of` tells the user at the other end of a connection over the unix socket; `wall`
        the time of day."""
        self._tokens = tokens
        self._rules = rules
        self._user_of = user_of
        self._clock = clock
        self._may_log = RateBucket(REFUSALS_LOGGED_PER_MINUTE, clock.now_s())
        self._num_unlogged = 0
        self._wall = wall
        self._last_used_s: dict[str, float] = {}

    def last_used_s(self, token_id: str) -> float | None:
        """When a token let somebody in; None: not since the daemon started."""
        return self._last_used_s.get(token_id)

    def known(self, door: Door, metadata: Metadata) -> Caller | None:
        """Who calls, as far as is known before the request is read; None: only the connection
        tells.

        Raises:
            EdgedError: TOKEN_MISSING, TOKEN_INVALID, TOKEN_REVOKED.
        """
        token = token_in(metadata)
        if token is not None:
            record = self._tokens.find(token)
            self._remember_use(record.token_id)
            counts_as = f"token:{record.grant.name}"
            key = f"token {record.token_id}"
            return Caller(door, record.grant, key, counts_as, record.token_id)
        match door:
            case Door.UNIX:
                return None
            case Door.LOOPBACK if self._rules.loopback_access != "token":
                is_admin = self._rules.loopback_access == "admin"
                grant = Grant("loopback", is_admin=is_admin)
                return Caller(door, grant, "loopback", counts_as=None)
            case Door.NETWORK if not self._rules.network_needs_token:
                return Caller(door, Grant("network"), "network", counts_as=None)
        raise EdgedError(
            Reason.TOKEN_MISSING,
            f"the {door} listener asks for a token; send it as the metadata "
            f"`{AUTHORIZATION}: Bearer TOKEN`",
        )

    def check_still_in(self, caller: Caller) -> None:
        """For what a caller holds open for long. Raises EdgedError: TOKEN_REVOKED."""
        if caller.token_id is not None:
            self._tokens.check_still_valid(caller.token_id)

    def by_user(self, peer: str) -> Caller:
        """Who calls over the unix socket without a token; `peer` is the connection.

        Raises:
            EdgedError: TOKEN_MISSING; the system does not tell the user.
        """
        user = self._user_of(peer)
        if user is None:
            raise EdgedError(
                Reason.TOKEN_MISSING,
                "the system does not say which user is at the other end of the socket; send a "
                f"token as the metadata `{AUTHORIZATION}: Bearer TOKEN`",
            )
        is_owner = user in (os.geteuid(), 0)
        name = user_name(user)
        grant = Grant(name, is_admin=is_owner)
        counts_as = None if is_owner else f"user:{name}"
        return Caller(Door.UNIX, grant, f"user {user}", counts_as)

    def check(self, caller: Caller, right: Right, method: str) -> None:
        """Raises EdgedError: ADMIN_ONLY."""
        if right is Right.ADMIN and not caller.grant.is_admin:
            raise EdgedError(
                Reason.ADMIN_ONLY,
                f"{method.rpartition('/')[2]} is for administrators, and {caller.grant.name!r} is "
                "none: ask over the unix socket as the user that the daemon runs as, or with the "
                "token of an administrator",
            )

    def note_refusal(
        self, error: EdgedError, door: Door, method: str, peer: str, metadata: Metadata
    ) -> None:
        """Log a caller that was not let in; of a flood, only so many a minute."""
        if self._may_log.take(self._clock.now_s()) is not None:
            self._num_unlogged += 1
            return
        address = f"user {self._user_of(peer)}" if door is Door.UNIX else caller_address(peer)
        unlogged, self._num_unlogged = self._num_unlogged, 0
        _log.warning(
            "caller refused",
            door=door.value,
            address=address,
            reason=error.reason.value,
            method=method,
            token_id=_claimed_id(metadata),
            **({"unlogged": unlogged} if unlogged else {}),
        )

    def _remember_use(self, token_id: str) -> None:
        used_s = self._last_used_s
        if token_id not in used_s and len(used_s) >= MAX_REMEMBERED_TOKENS:
            del used_s[next(iter(used_s))]
        used_s[token_id] = self._wall()


def token_in(metadata: Metadata) -> str | None:
    """The token that a call shows; None if it shows none.

    Raises:
        EdgedError: TOKEN_INVALID; it is not shown as it should be.
    """
    values = [value for key, value in metadata if key == AUTHORIZATION]
    if not values:
        return None
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != SCHEME or not token:
        raise EdgedError(
            Reason.TOKEN_INVALID,
            f"the metadata {AUTHORIZATION} is not as expected: once, `Bearer TOKEN`",
        )
    return token.strip()


def _claimed_id(metadata: Metadata) -> str | None:
    try:
        token = token_in(metadata)
    except EdgedError:
        return None
    return None if token is None else id_in(token)


@functools.lru_cache(maxsize=256)
def user_name(user: int) -> str:
    """The name of a user, or "uid1001" where there is none that a client id could have."""
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = ""
    return name if is_grant_name(name) else f"uid{user}"
