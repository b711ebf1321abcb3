"""Tokens: made, found, revoked, kept; by several processes, and against what may be in the file."""

import hashlib
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edged.core.types import SloTier
from edged.errors import ConfigError, EdgedError, Reason
from edged.node.trust.grant import Grant
from edged.node.trust.private_files import locked
from edged.node.trust.token_file import MAX_FILE_BYTES, MAX_TOKENS
from edged.node.trust.tokens import TokenStore, id_in

LAPTOP = Grant("laptop")


def store_in(folder: Path) -> TokenStore:
    return TokenStore(folder / "state" / "tokens.json")


def refused(store: TokenStore, token: str) -> Reason:
    with pytest.raises(EdgedError) as caught:
        store.find(token)
    assert not token or token not in caught.value.detail
    return caught.value.reason


def test_a_token_is_found_by_its_text(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    grant = Grant("laptop", SloTier.BATCH, ("chat",), True, 30.0, 2)
    token, record = store.create(grant, 1000.0)
    assert store.find(token) == record
    assert (record.grant, record.created_s, record.revoked_s) == (grant, 1000.0, None)
    assert id_in(token) == record.token_id
    assert TokenStore(store.path).find(token) == record, "it is in the file"


def test_the_file_has_no_secret_and_is_the_users_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, _ = store.create(LAPTOP, 1000.0)
    secret = token.split("_", 2)[2]
    text = store.path.read_text()
    assert secret not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in store.path.parent.iterdir()) == [
        "tokens.json",
        "tokens.json.lock",
    ]


def test_another_secret_or_another_id_is_no_token(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, _ = store.create(LAPTOP, 1000.0)
    other, _ = store.create(Grant("other"), 1000.0)
    mixed = token[:15] + other[15:]
    for wrong in (
        mixed,
        token[:-1],
        token + "x",
        "",
        "edged_",
        f"{token}\n",
        "é" * 60,
        "x" * 10**6,
    ):
        assert refused(store, wrong) is Reason.TOKEN_INVALID


def test_a_revoked_token_is_told_apart_only_by_who_has_its_secret(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, record = store.create(LAPTOP, 1000.0)
    revoked = store.revoke("laptop", 2000.0)
    assert (revoked.token_id, revoked.revoked_s) == (record.token_id, 2000.0)
    assert refused(store, token) is Reason.TOKEN_REVOKED
    assert refused(store, token[:15] + "A" * 43) is Reason.TOKEN_INVALID
    assert store.revoke("laptop", 3000.0).revoked_s == 2000.0, "it stays as it was"
    assert not store.has_valid


def test_a_name_that_is_the_id_of_another_token_keeps_nobody_from_revoking_that(
    tmp_path: Path,
) -> None:
    store = store_in(tmp_path)
    _, first = store.create(LAPTOP, 1000.0)
    _, second = store.create(Grant(first.token_id), 1001.0)
    assert store.revoke(first.token_id, 2000.0).token_id == first.token_id
    assert store.revoke(first.token_id, 2001.0).token_id == second.token_id, "then by its name"
    assert store.revoke(first.token_id, 2002.0).revoked_s == 2000.0


def test_a_name_belongs_to_one_valid_token(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    _, first = store.create(LAPTOP, 1000.0)
    with pytest.raises(EdgedError, match=first.token_id) as caught:
        store.create(LAPTOP, 1001.0)
    assert caught.value.reason is Reason.DUPLICATE_TOKEN
    store.revoke(first.token_id, 1002.0)
    _, second = store.create(LAPTOP, 1003.0)
    assert store.revoke("laptop", 1004.0).token_id == second.token_id
    assert [record.token_id for record in store.all()] == [first.token_id, second.token_id]


def test_a_token_that_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    with pytest.raises(EdgedError, match="'desk'") as caught:
        store_in(tmp_path).revoke("desk", 1000.0)
    assert caught.value.reason is Reason.UNKNOWN_TOKEN


def test_what_another_process_changes_is_known_at_once(tmp_path: Path) -> None:
    daemon, command = store_in(tmp_path), store_in(tmp_path)
    token, record = command.create(LAPTOP, 1000.0)
    assert daemon.find(token) == record
    command.revoke("laptop", 1001.0)
    assert refused(daemon, token) is Reason.TOKEN_REVOKED
    other, _ = daemon.create(Grant("other"), 1002.0)
    assert command.find(other).grant.name == "other"
    assert len(command.all()) == 2, "nobody's change is lost"


def test_a_file_that_is_written_in_place_with_its_old_time_is_read_anew(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, _ = store.create(Grant("boss", is_admin=True), 1000.0)
    assert store.find(token).grant.is_admin
    before = store.path.stat()
    content = store.path.read_bytes()
    store.path.write_bytes(content.replace(b'"is_admin": true,', b'"is_admin":false,'))
    os.utime(store.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.path.stat().st_size == before.st_size
    assert not store.find(token).grant.is_admin


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no file of tokens"),
        (b"\xff\xfe", "no file of tokens"),
        (b"[]", "no file of tokens"),
        (b'{"tokens": 1}', "no file of tokens"),
        (b'{"tokens": [], "version": 2}', "version 2"),
        (b'{"tokens": [], "more": 1}', "no file of tokens"),
        (b" " * (MAX_FILE_BYTES + 1), "bytes"),
    ],
)
def test_a_damaged_file_is_told_with_its_name(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        TokenStore(path)
    assert str(path) in caught.value.detail


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"token_id": "x"}, "8 hexadecimal digits"),
        ({"secret_sha256": "x"}, "no SHA-256"),
        ({"name": "a b"}, "grant.name"),
        ({"max_tier": "urgent"}, "no file of tokens"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests"),
        ({"max_requests_per_minute": -1.0}, "max_requests_per_minute"),
    ],
)
def test_a_token_written_by_hand_is_checked(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    store = store_in(tmp_path)
    store.create(LAPTOP, 1000.0)
    file = json.loads(store.path.read_text())
    file["tokens"][0] |= change
    store.path.write_text(json.dumps(file))
    with pytest.raises(ConfigError, match=told):
        store.reload()


def test_two_tokens_of_one_id_are_an_error(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create(LAPTOP, 1000.0)
    file = json.loads(store.path.read_text())
    file["tokens"] *= 2
    store.path.write_text(json.dumps(file))
    with pytest.raises(ConfigError, match="two tokens of one id"):
        store.reload()


def test_a_file_damaged_later_leaves_the_tokens_known_before(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, record = store.create(LAPTOP, 1000.0)
    store.path.write_text("{")
    with capture_logs() as logs:
        for _ in range(3):
            assert store.find(token) == record
    assert [line["event"] for line in logs] == ["the tokens' file is unusable, the last ones hold"]
    with pytest.raises(ConfigError):
        store.create(Grant("other"), 1001.0)
    assert store.path.read_text() == "{", "what cannot be read is not overwritten"


def test_a_file_that_cannot_be_read_for_a_moment_is_read_after_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    token, _ = store.create(LAPTOP, 1000.0)
    TokenStore(store.path).revoke("laptop", 1001.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as lines:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            found = [store.find(token) for _ in range(2)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [one.is_valid for one in found] == [True, True], "nobody could know better"
    assert [line["log_level"] for line in lines] == ["error"]
    assert refused(store, token) is Reason.TOKEN_REVOKED


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.json"
    path.write_text('{"tokens": []}')
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write to .* `chmod go-w"):
        TokenStore(path)


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.path.parent.mkdir()
    store.path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="nobody else may write"):
        store.create(LAPTOP, 1000.0)


def test_a_directory_behind_a_link_is_taken(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "private")
    token, record = store_in(tmp_path).create(LAPTOP, 1000.0)
    assert store_in(tmp_path).find(token) == record


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_something_else_in_place_of_the_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "tokens.json"
    store = TokenStore(path)
    token, _ = store.create(LAPTOP, 1000.0)
    path.unlink()
    make(path)
    with pytest.raises(ConfigError, match="is no file"):
        TokenStore(path)
    with capture_logs() as lines:
        assert store.find(token).grant == LAPTOP, "what was known before holds"
    assert [line["log_level"] for line in lines] == ["error"]


def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to give a directory away: run as root")
    store = store_in(tmp_path)
    store.path.parent.mkdir(mode=0o700)
    os.chown(store.path.parent, 4321, 4321)
    store.create(LAPTOP, 1000.0)
    owners = {one.stat().st_uid for one in store.path.parent.iterdir()}
    assert owners == {4321}


def test_root_gives_no_file_away_that_somebody_has_linked_to(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to give a directory away: run as root")
    store = store_in(tmp_path)
    store.path.parent.mkdir(mode=0o700)
    os.chown(store.path.parent, 4321, 4321)
    roots = tmp_path / "of root"
    roots.touch()
    os.link(roots, store.path.with_name("tokens.json.lock"))
    store.create(LAPTOP, 1000.0)
    assert roots.stat().st_uid == 0
    assert store.path.stat().st_uid == 4321


def test_a_lock_that_is_held_for_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with (
        locked(path),
        pytest.raises(TimeoutError, match=r"another process has held tokens\.json\.lock"),
        locked(path, wait_s=0.05),
    ):
        pass
    with locked(path, wait_s=0.0):
        """It is free again."""


# ── The credential of a service manager ──────────────────────────────────────────────────────────


def with_credential(folder: Path) -> tuple[TokenStore, str]:
    """A store beside a credential that has one token, named laptop."""
    given = TokenStore(folder / "edged.tokens")
    token, _ = given.create(LAPTOP, 1000.0)
    given.path.chmod(0o400)
    return TokenStore(folder / "state" / "tokens.json", given.path), token


def test_tokens_of_a_credential_are_valid_and_marked(tmp_path: Path) -> None:
    store, token = with_credential(tmp_path)
    own, _ = store.create(Grant("own"), 1001.0)
    assert store.find(token).is_credential
    assert not store.find(own).is_credential
    assert [record.grant.name for record in store.all()] == ["laptop", "own"]
    assert "laptop" not in store.path.read_text()


def test_the_name_of_a_token_of_a_credential_is_taken(tmp_path: Path) -> None:
    store, token = with_credential(tmp_path)
    with pytest.raises(EdgedError, match="already"):
        store.create(LAPTOP, 1001.0)
    assert store.find(token).is_valid


def test_a_revoked_token_of_a_credential_stays_revoked(tmp_path: Path) -> None:
    store, token = with_credential(tmp_path)
    assert store.revoke("laptop", 1001.0).revoked_s == 1001.0
    after_restart = TokenStore(store.path, tmp_path / "edged.tokens")
    for one in (store, after_restart):
        assert refused(one, token) is Reason.TOKEN_REVOKED
        assert [record.is_credential for record in one.all()] == [True]
    again, _ = store.create(LAPTOP, 1002.0)
    assert store.find(again).grant == LAPTOP
    written = json.loads(store.path.read_text())["tokens"]
    assert ["is_credential" in token for token in written] == [True, False], (
        "a version that does not know it can read what it need not know"
    )


# ── The limit ────────────────────────────────────────────────────────────────────────────────────


def full_store(folder: Path, *, revoked: tuple[int, ...] = ()) -> TokenStore:
    """As many tokens as there may be; those of these numbers are revoked, the later the later."""
    token = {"secret_sha256": "0" * 64, "created_s": 1.0}
    tokens = [
        {**token, "token_id": f"{number:08x}", "name": f"n{number}"}
        | ({"revoked_s": 10.0 + number} if number in revoked else {})
        for number in range(MAX_TOKENS)
    ]
    path = folder / "tokens.json"
    path.write_text(json.dumps({"tokens": tokens}))
    return TokenStore(path)


def test_there_is_a_most_of_tokens(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    with pytest.raises(EdgedError, match=f"{MAX_TOKENS} tokens.*revoke one") as caught:
        store.create(LAPTOP, 1000.0)
    assert str(tmp_path) not in caught.value.detail, "it is told to clients"
    assert len(store.all()) == MAX_TOKENS


def test_the_token_revoked_first_makes_room(tmp_path: Path) -> None:
    store = full_store(tmp_path, revoked=(5, 3))
    token, record = store.create(LAPTOP, 1000.0)
    assert store.find(token) == record
    ids = {one.token_id for one in store.all()}
    assert len(ids) == MAX_TOKENS
    assert f"{3:08x}" not in ids
    assert f"{5:08x}" in ids


def test_a_token_of_a_credential_is_revoked_though_there_is_no_room(tmp_path: Path) -> None:
    _, token = with_credential(tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    full_store(tmp_path / "state")
    path, credential = tmp_path / "state" / "tokens.json", tmp_path / "edged.tokens"
    store = TokenStore(path, credential)
    store.revoke("laptop", 2.0)
    store.revoke("n5", 3.0)
    TokenStore(path).create(Grant("other"), 1000.0)
    assert refused(TokenStore(path, credential), token) is Reason.TOKEN_REVOKED
    credential.unlink()
    TokenStore(credential).create(Grant("phone"), 1001.0)
    TokenStore(path, credential).revoke("phone", 1002.0)
    revoked = [one.grant.name for one in TokenStore(path).all() if one.is_credential]
    assert revoked == ["phone"], "what the credential has no more takes no room for ever"


def test_a_file_with_one_token_too_many_is_refused(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    file = json.loads(store.path.read_text())
    file["tokens"].append({**file["tokens"][0], "token_id": "ffffffff", "name": "last"})
    store.path.write_text(json.dumps(file))
    with pytest.raises(ConfigError, match=f"{MAX_TOKENS + 1} tokens"):
        store.reload()
