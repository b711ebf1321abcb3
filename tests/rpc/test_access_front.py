"""AccessService: who the daemon is, and the tokens as an administrator sees and changes them."""

import grpc
import pytest
from structlog.testing import capture_logs

from edged.errors import Reason
from edged.node.grant import Grant
from edged.v1 import access_pb2 as pb
from edged.v1 import admin_pb2, inference_pb2
from tests.rpc.front import (
    LOOPBACK,
    NETWORK,
    NOW_S,
    Front,
    bearer,
    running_front,
    told_by,
)

BOSS = Grant("boss", is_admin=True)


async def create(front: Front, **fields: object) -> pb.CreateTokenResponse:
    return await front.access.CreateToken(pb.CreateTokenRequest(grant=pb.Grant(**fields)))


async def tokens(front: Front) -> list[pb.Token]:
    return list((await front.access.ListTokens(pb.ListTokensRequest())).tokens)


async def test_a_token_is_made_and_lets_in() -> None:
    async with running_front(NETWORK, BOSS) as front:
        wanted = pb.Grant(
            name="laptop",
            max_tier=inference_pb2.TIER_BATCH,
            models=["tiny"],
            max_requests_per_minute=7.5,
            max_concurrent_requests=3,
        )
        made = await front.access.CreateToken(
            pb.CreateTokenRequest(grant=wanted), metadata=front.bearer("boss")
        )
        assert made.token.grant == wanted
        assert made.token.created_s == NOW_S
        assert made.secret.startswith(f"edged_{made.token.token_id}_")
        whoami = await front.access.GetIdentity(
            pb.GetIdentityRequest(), metadata=bearer(made.secret)
        )
        assert whoami.grant == wanted


async def test_a_token_is_for_every_tier_and_model_unless_it_says_otherwise(front: Front) -> None:
    made = await create(front, name="laptop")
    assert made.token.grant == pb.Grant(name="laptop", max_tier=inference_pb2.TIER_INTERACTIVE)


async def test_tokens_are_listed_without_their_secrets(front: Front) -> None:
    first = await create(front, name="first")
    await create(front, name="second")
    await front.access.RevokeToken(pb.RevokeTokenRequest(name_or_id="first"))
    listed = await tokens(front)
    assert [token.grant.name for token in listed] == ["first", "second"]
    assert [token.HasField("revoked_s") for token in listed] == [True, False]
    assert first.secret.split("_", 2)[2] not in str(listed)


async def test_when_a_token_was_used_last_is_told() -> None:
    async with running_front(NETWORK, BOSS) as front:
        request, metadata = pb.ListTokensRequest(), front.bearer("boss")
        front.trust.tokens.create(Grant("other"), NOW_S)
        listed = (await front.access.ListTokens(request, metadata=metadata)).tokens
        used = {one.grant.name: one.HasField("last_used_s") for one in listed}
        assert used == {"boss": True, "other": False}


async def test_a_token_is_revoked_by_its_name_or_its_id(front: Front) -> None:
    for number, by_id in enumerate((False, True)):
        made = await create(front, name=f"n{number}")
        named = made.token.token_id if by_id else f"n{number}"
        answer = await front.access.RevokeToken(pb.RevokeTokenRequest(name_or_id=named))
        assert answer.token.token_id == made.token.token_id
        assert answer.token.revoked_s == NOW_S
        call = front.admin.GetStatus(admin_pb2.GetStatusRequest(), metadata=bearer(made.secret))
        assert (await told_by(call)).reason == Reason.TOKEN_REVOKED


async def test_the_last_administrator_may_take_back_its_own_token() -> None:
    async with running_front(NETWORK, BOSS) as front:
        revoke = pb.RevokeTokenRequest(name_or_id="boss")
        await front.access.RevokeToken(revoke, metadata=front.bearer("boss"))
        again = front.access.RevokeToken(revoke, metadata=front.bearer("boss"))
        assert (await told_by(again)).reason == Reason.TOKEN_REVOKED


@pytest.mark.parametrize(
    ("grant", "field"),
    [
        (pb.Grant(), "grant.name"),
        (pb.Grant(name="a/b"), "grant.name"),
        (pb.Grant(name="a", max_tier=17), "grant.max_tier"),
        (pb.Grant(name="a", max_requests_per_minute=0.0), "grant.max_requests_per_minute"),
        (pb.Grant(name="a", max_concurrent_requests=0), "grant.max_concurrent_requests"),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(
    front: Front, grant: pb.Grant, field: str
) -> None:
    told = await told_by(front.access.CreateToken(pb.CreateTokenRequest(grant=grant)))
    assert told.reason == Reason.INVALID_ARGUMENT
    assert field in told.violations


async def test_a_name_that_is_taken_is_refused(front: Front) -> None:
    await create(front, name="laptop")
    call = front.access.CreateToken(pb.CreateTokenRequest(grant=pb.Grant(name="laptop")))
    told = await told_by(call)
    assert told.code == grpc.StatusCode.ALREADY_EXISTS
    assert told.reason == Reason.DUPLICATE_TOKEN


@pytest.mark.parametrize(
    ("named", "reason"), [("", Reason.INVALID_ARGUMENT), ("nope", Reason.UNKNOWN_TOKEN)]
)
async def test_what_is_no_token_cannot_be_revoked(front: Front, named: str, reason: Reason) -> None:
    call = front.access.RevokeToken(pb.RevokeTokenRequest(name_or_id=named))
    assert (await told_by(call)).reason == reason


async def test_a_file_that_cannot_be_written_is_told_without_its_path(front: Front) -> None:
    await create(front, name="laptop")
    path = front.trust.tokens.path
    path.write_text("nonsense")
    with capture_logs() as logs:
        call = front.access.CreateToken(pb.CreateTokenRequest(grant=pb.Grant(name="other")))
        told = await told_by(call)
    assert told.code == grpc.StatusCode.FAILED_PRECONDITION
    assert told.reason == Reason.BAD_CONFIG
    assert str(path) not in told.detail
    assert any(str(path) in str(line.get("detail")) for line in logs)


async def test_making_and_revoking_is_logged_and_no_secret_is(front: Front) -> None:
    with capture_logs() as logs:
        made = await create(front, name="laptop")
        await front.access.RevokeToken(pb.RevokeTokenRequest(name_or_id="laptop"))
    told = [(line["event"], line["token_id"], line["token"]) for line in logs]
    token_id = made.token.token_id
    assert told == [("token created", token_id, "laptop"), ("token revoked", token_id, "laptop")]
    assert made.secret.split("_", 2)[2] not in str(logs)


async def test_a_daemon_without_certificate_says_so() -> None:
    async with running_front(LOOPBACK) as front:
        whoami = await front.access.GetIdentity(pb.GetIdentityRequest())
        assert (whoami.fingerprint, whoami.certificate_pem) == ("", "")
        assert (whoami.name, whoami.is_advertised) == ("desk", False)
        assert list(whoami.listeners) == ["127.0.0.1:7411"]
