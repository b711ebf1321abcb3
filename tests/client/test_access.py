"""A daemon on the network, with TLS and tokens: what each token allows, and how what it does not
is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edged.client import AsyncClient, RetryPolicy
from edged.client.connect.target import Pinned, Target
from edged.client.errors import ClientError, NotAllowedError, OverloadedError, UnauthenticatedError
from edged.core.types import SloTier
from edged.errors import Reason
from edged.node.trust.grant import Grant
from tests.rpc.fakes import admitted, delta, finished
from tests.rpc.front import NETWORK, Front, running_front

LAPTOP = Grant("laptop", max_tier=SloTier.STANDARD, models=("tiny",), max_concurrent_requests=1)
ONCE = Grant("once", max_requests_per_minute=1.0)


def target_of(front: Front, token: str | None) -> Target:
    assert front.server.identity is not None, "it listens with TLS"
    security = Pinned(front.server.identity.certificate_pem)
    return Target("desk", front.server.network_listeners[0], security, token)


@asynccontextmanager
async def asking(
    token: str | None = None, retry: RetryPolicy | None = None
) -> AsyncIterator[tuple[Front, AsyncClient]]:
    """With the laptop's token, unless another is given."""
    async with running_front(NETWORK, LAPTOP, ONCE) as front:
        secret = front.secrets["laptop"] if token is None else front.secrets.get(token, token)
        target = target_of(front, secret or None)
        async with AsyncClient(target, client="editor", retry=retry) as client:
            yield front, client


async def refusal(client: AsyncClient, tier: str | None = None, model: str = "") -> ClientError:
    with pytest.raises(ClientError) as raised:
        await client.complete("Hi", tier=tier, model=model)
    return raised.value


async def test_a_token_lets_in_and_names_the_program() -> None:
    async with asking() as (front, client):
        answering = asyncio.create_task(client.complete("Hi"))
        played = await front.models.next_stream()
        played.put(admitted(played), delta(0, "Paris"), finished(played))
        assert (await answering).text == "Paris"
        assert played.submission.client_id == "token:laptop/editor"
        identity = await client.identity()
    assert identity.grant == LAPTOP
    assert (identity.name, identity.version) == ("desk", "1.2.3")
    assert identity.fingerprint.startswith("SHA256:")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", Reason.TOKEN_MISSING),
        ("nonsense", Reason.TOKEN_INVALID),
        (f"edged_01234567_{'x' * 43}", Reason.TOKEN_INVALID),
    ],
)
async def test_who_has_no_token_is_told_which_way(token: str, reason: Reason) -> None:
    async with asking(token) as (front, client):
        error = await refusal(client)
        assert isinstance(error, UnauthenticatedError)
        assert error.reason is reason
        assert front.models.submitted.empty()


async def test_a_token_that_is_revoked_meanwhile_is_told() -> None:
    async with asking() as (front, client):
        await client.status()
        front.trust.tokens.revoke("laptop", 1_780_000_001.0)
        error = await refusal(client)
    assert isinstance(error, UnauthenticatedError)
    assert error.reason is Reason.TOKEN_REVOKED


@pytest.mark.parametrize(
    ("tier", "model", "reason"),
    [("interactive", "", Reason.TIER_NOT_ALLOWED), (None, "other", Reason.MODEL_NOT_ALLOWED)],
)
async def test_what_a_token_does_not_allow_is_told(
    tier: str | None, model: str, reason: Reason
) -> None:
    async with asking() as (_, client):
        error = await refusal(client, tier, model)
    assert isinstance(error, NotAllowedError)
    assert error.reason is reason


async def test_one_request_too_many_waits_for_its_turn() -> None:
    async with asking(retry=RetryPolicy(max_attempts=100)) as (front, client):
        first = asyncio.create_task(client.complete("one"))
        played = await front.models.next_stream()
        played.put(admitted(played))
        second = asyncio.create_task(client.complete("two"))
        others = AsyncClient(target_of(front, front.secrets["laptop"]), retry=None)
        async with others:
            error = await refusal(others)
        assert isinstance(error, OverloadedError)
        assert error.reason is Reason.CONCURRENCY_LIMITED
        assert error.retry_after_s is not None
        played.put(finished(played))
        await first
        played = await front.models.next_stream()
        played.put(admitted(played), finished(played))
        await second


async def test_one_request_a_minute_too_many_is_told_when_to_come_back() -> None:
    async with asking("once") as (front, client):
        first = asyncio.create_task(client.complete("one"))
        played = await front.models.next_stream()
        played.put(admitted(played), finished(played))
        await first
        error = await refusal(client)
    assert isinstance(error, OverloadedError)
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after_s == pytest.approx(60.0, abs=1.0)
