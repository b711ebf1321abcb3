"""What the guard remembers of callers is bounded."""

import json
from pathlib import Path

import pytest

from edged.clock import ManualClock
from edged.errors import EdgedError, Reason
from edged.node.trust.grant import Grant, is_grant_name
from edged.node.trust.tokens import TokenStore
from edged.rpc.access.caller import Door
from edged.rpc.access.guard import MAX_REMEMBERED_TOKENS, DoorRules, Guard, token_in, user_name
from edged.rpc.convert import caller_address


def nobody(peer: str) -> int | None:
    return None


def guard_over(store: TokenStore) -> Guard:
    return Guard(store, DoorRules(), nobody, ManualClock(), lambda: 5.0)


def test_the_last_use_of_so_many_tokens_is_remembered(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens.json")
    guard = guard_over(store)
    token, record = store.create(Grant("first"), 1.0)
    [kept] = json.loads(store.path.read_text())["tokens"]

    def use(token_id: str) -> None:
        """A token that is there for this one use."""
        store.path.write_text(json.dumps({"tokens": [{**kept, "token_id": token_id}]}))
        shown = token.replace(record.token_id, token_id)
        guard.known(Door.NETWORK, (("authorization", f"Bearer {shown}"),))

    for number in range(MAX_REMEMBERED_TOKENS):
        use(f"{number:08x}")
    assert guard.last_used_s(f"{0:08x}") == 5.0
    use("ffffffff")
    assert guard.last_used_s(f"{0:08x}") is None
    assert guard.last_used_s(f"{1:08x}") == 5.0
    assert guard.last_used_s("ffffffff") == 5.0


def test_a_user_whom_the_system_does_not_tell_is_asked_for_a_token(tmp_path: Path) -> None:
    guard = guard_over(TokenStore(tmp_path / "tokens.json"))
    with pytest.raises(EdgedError) as caught:
        guard.by_user("unix:7")
    assert caught.value.reason is Reason.TOKEN_MISSING


def test_a_name_that_no_client_could_have_is_a_number() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000) == "uid4000000"


@pytest.mark.parametrize("peer", ["unix:7", "ipv4:127.0.0.1:5", "ipv6:[::1]:5"])
def test_nobody_can_be_called_like_those_who_come_without_a_token(peer: str) -> None:
    assert not is_grant_name(caller_address(peer))


def test_no_metadata_is_no_token() -> None:
    assert token_in((("x", "y"),)) is None
    assert token_in((("authorization", "Bearer  x "),)) == "x"
