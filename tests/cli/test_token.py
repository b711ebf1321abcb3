"""`edgectl token`: through a daemon, and in a file while none runs."""

import json
import os
import stat
from pathlib import Path

import pytest

from edged.core.types import SloTier
from edged.errors import EdgedError, Reason
from edged.node.trust.grant import Grant
from edged.node.trust.tokens import TokenStore
from edged.v1 import access_pb2, inference_pb2
from tests.cli.fake_access import SECRET, FakeAccess, token
from tests.cli.program import Program


@pytest.fixture
def edgectl(there: Program) -> Program:
    return Program("edgectl", {**there.environ, "TZ": "UTC"})


@pytest.fixture
def alone(environ: dict[str, str]) -> Program:
    """There is no daemon."""
    return Program("edgectl", {**environ, "EDGED_HOST": "unix:/nowhere"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens.json"


# ── Through a daemon ─────────────────────────────────────────────────────────────────────────────


def test_the_secret_is_alone_on_stdout_so_that_it_can_be_piped(
    edgectl: Program, access: FakeAccess
) -> None:
    done = edgectl.run("token", "create", "laptop")
    assert (done.returncode, done.stdout) == (0, f"{SECRET}\n")
    assert "token 'laptop', id 0badcafe: it cannot be shown again" in done.stderr
    assert access.asked == [
        access_pb2.CreateTokenRequest(
            grant=access_pb2.Grant(name="laptop", max_tier=inference_pb2.TIER_INTERACTIVE)
        )
    ]


def test_what_a_token_allows_is_what_was_asked_for(edgectl: Program, access: FakeAccess) -> None:
    options = ("--tier", "batch", "--model", "a", "--model", "b", "--admin")
    limits = ("--rate", "2.5", "--concurrency", "3")
    assert edgectl.run("token", "create", "laptop", *options, *limits).returncode == 0
    [asked] = access.asked
    assert isinstance(asked, access_pb2.CreateTokenRequest)
    assert asked.grant == access_pb2.Grant(
        name="laptop",
        max_tier=inference_pb2.TIER_BATCH,
        models=["a", "b"],
        is_admin=True,
        max_requests_per_minute=2.5,
        max_concurrent_requests=3,
    )


def test_as_json_a_new_token_is_the_message_of_the_protocol(edgectl: Program) -> None:
    told = json.loads(edgectl.run("token", "create", "laptop", "--json").stdout)
    assert (told["secret"], told["token"]["grant"]["name"]) == (SECRET, "laptop")


def test_the_tokens_are_listed_with_all_that_they_allow(
    edgectl: Program, access: FakeAccess
) -> None:
    limited = access_pb2.Grant(
        models=["a", "b"],
        max_tier=inference_pb2.TIER_BATCH,
        is_admin=True,
        max_requests_per_minute=30,
        max_concurrent_requests=2,
    )
    access.tokens = [
        token("old", "00000001", revoked_s=1_795_000_060.0),
        token("batch", "00000002", grant=limited, last_used_s=1_795_000_120.0),
        token("unit", "00000003", is_credential=True),
    ]
    head, *rows = edgectl.run("token", "list").stdout.splitlines()
    heads = "NAME ID TIER MODELS PER MINUTE AT ONCE ADMIN CREATED LAST USED STATE"
    assert " ".join(head.split()) == heads
    assert [" ".join(row.split()) for row in rows] == [
        "old 00000001 interactive all - - no 2026-11-18 11:06 - revoked 2026-11-18 11:07",
        "batch 00000002 batch a,b 30 2 yes 2026-11-18 11:06 2026-11-18 11:08 valid",
        "unit 00000003 interactive all - - no 2026-11-18 11:06 - valid (credential)",
    ]
    told = json.loads(edgectl.run("token", "list", "--json").stdout)
    assert [one["token_id"] for one in told["tokens"]] == ["00000001", "00000002", "00000003"]


def test_a_token_is_revoked_by_its_name_or_id(edgectl: Program, access: FakeAccess) -> None:
    done = edgectl.run("token", "revoke", "laptop")
    assert (done.returncode, done.stdout) == (0, "token 'laptop', id 0badcafe, is revoked\n")
    assert access.asked == [access_pb2.RevokeTokenRequest(name_or_id="laptop")]
    told = json.loads(edgectl.run("token", "revoke", "laptop", "--json").stdout)
    assert told["revoked_s"] == 1_795_000_060.0


def test_who_may_not_make_tokens_is_told(edgectl: Program, access: FakeAccess) -> None:
    access.error = EdgedError(Reason.ADMIN_ONLY, "CreateToken is for administrators")
    done = edgectl.run("token", "create", "laptop")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "edgectl: CreateToken is for administrators\n"


def test_a_daemon_may_be_named_before_the_subcommand(edgectl: Program, alone: Program) -> None:
    host = edgectl.environ["EDGED_HOST"]
    assert alone.run("token", "list").returncode == 3
    assert alone.run("token", "--host", host, "list").returncode == 0
    assert alone.run("token", "list", "--host", host).returncode == 0


# ── In a file ────────────────────────────────────────────────────────────────────────────────────


def test_a_token_can_be_made_while_no_daemon_runs(alone: Program, file: Path) -> None:
    done = alone.run("token", "create", "laptop", "--tier", "batch", "--file", str(file))
    assert done.returncode == 0
    record = TokenStore(file).find(done.stdout.strip())
    assert record.grant == Grant("laptop", max_tier=SloTier.BATCH)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_directory_stands_for_the_file_in_it(alone: Program, file: Path) -> None:
    file.parent.mkdir(mode=0o700)
    alone.run("token", "create", "laptop", "--file", str(file.parent))
    assert [one.grant.name for one in TokenStore(file).all()] == ["laptop"]


def test_a_file_is_listed_and_its_tokens_revoked(alone: Program, file: Path) -> None:
    secret = alone.run("token", "create", "laptop", "--file", str(file)).stdout.strip()
    assert "valid" in alone.run("token", "list", "--file", str(file)).stdout
    done = alone.run("token", "revoke", "laptop", "--file", str(file))
    assert (done.returncode, "is revoked" in done.stdout) == (0, True)
    assert "revoked 20" in alone.run("token", "list", "--file", str(file)).stdout
    with pytest.raises(EdgedError, check=lambda one: one.reason is Reason.TOKEN_REVOKED):
        TokenStore(file).find(secret)


def test_what_a_file_refuses_is_told_in_one_sentence(alone: Program, file: Path) -> None:
    wanted = ("token", "create", "laptop", "--file", str(file))
    alone.run(*wanted)
    again = alone.run(*wanted)
    assert (again.returncode, again.stdout) == (1, "")
    assert "a token is named 'laptop' already" in again.stderr
    unknown = alone.run("token", "revoke", "nobody", "--file", str(file))
    assert "no token has the name or the id 'nobody'" in unknown.stderr
    wrong = alone.run("token", "create", "a b", "--rate", "-1", "--file", str(file))
    assert wrong.returncode == 1
    assert "name" in wrong.stderr
    assert "max_requests_per_minute" in wrong.stderr
    file.write_text("{")
    damaged = alone.run("token", "list", "--file", str(file))
    assert (damaged.returncode, "is no file of tokens" in damaged.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(alone: Program, file: Path) -> None:
    file.parent.mkdir(mode=0o700)
    os.chown(file.parent, 12345, 12346)
    assert alone.run("token", "create", "laptop", "--file", str(file)).returncode == 0
    assert {one.stat().st_uid for one in file.parent.iterdir()} == {12345}
    assert alone.run("token", "revoke", "laptop", "--file", str(file)).returncode == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)


def test_a_time_that_no_calendar_has_is_shown_all_the_same(
    edgectl: Program, access: FakeAccess
) -> None:
    access.tokens = [access_pb2.Token(token_id="0badcafe", created_s=1e300)]
    done = edgectl.run("token", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout
