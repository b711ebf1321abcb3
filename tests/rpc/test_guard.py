"""What the guard remembers of callers is bounded."""

import json
from pathlib import Path

import pytest

from edged.clock import ManualClock
from edged.errors import EdgedError, Reason
from edged.node.trust.grant import Grant
from edged.node.trust.tokens import TokenStore
from edged.rpc.access.caller import Door
from edged.rpc.access.guard import MAX_REMEMBERED_TOKENS, DoorRules, Guard, token_in, user_name


def guard_over(store: TokenStore, user: int | None = None) -> Guard:
    return Guard(store, DoorRules(), lambda _: user, ManualClock(), lambda: 5.0)


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


def test_a_token_and_a_user_of_one_name_are_two_clients(tmp_path: Path) -> None:
    tokens = TokenStore(tmp_path / "tokens.json")
    token, _ = tokens.create(Grant(user_name(1)), 0.0)
    guard = guard_over(tokens, user=1)
    with_token = guard.known(Door.UNIX, [("authorization", f"Bearer {token}")])
    assert with_token is not None
    counts_as = with_token.counts_as, guard.by_user("unix:7").counts_as
    assert counts_as == (f"token:{user_name(1)}", f"user:{user_name(1)}")


def test_no_metadata_is_no_token() -> None:
    assert token_in((("x", "y"),)) is None
    assert token_in((("authorization", "Bearer  x "),)) == "x"
