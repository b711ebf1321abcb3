"""What a daemon says of itself, as programs see it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from edged.client import AsyncClient
from edged.client.errors import NotFoundError
from edged.client.values import (
    DaemonState,
    Load,
    ModelState,
    Request,
    RequestState,
    Tier,
    TokenCount,
    to_model,
    to_request_row,
    to_status,
    to_tier,
)
from edged.core.types import RequestId, SloTier
from edged.node.trust.grant import Grant
from edged.rpc.view import DaemonState as Told
from edged.supervise.model import ModelState as ToldOfModel
from edged.supervise.model import RequestRow
from edged.v1 import admin_pb2
from tests.client.scripted import playing, says
from tests.rpc.fakes import model_status
from tests.rpc.front import Front
from tests.rpc.test_admin import STATISTICS, running, waiting


@pytest_asyncio.fixture
async def client(front: Front) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(front.target) as made:
        yield made


async def test_the_status_has_the_models_and_what_they_do(
    front: Front, client: AsyncClient
) -> None:
    front.models.set_status("tiny", statistics=STATISTICS)
    front.models.statuses["other"] = model_status("other", is_default=False)
    status = await client.status()
    assert (status.version, status.policy, status.state) == ("1.2.3", "strict", DaemonState.READY)
    assert status.uptime_s == 100.0
    model = status.model()
    assert model is not None
    assert status.model("tiny") is model
    assert (model.name, model.is_default, model.state) == ("tiny", True, ModelState.READY)
    assert (model.backend, model.num_bytes, model.device) == ("sim", 1000, "cpu")
    assert model.max_tokens == 512
    assert model.loads == {SloTier.BATCH: Load(1, 2, 3)}
    assert (model.load, model.load.num_requests) == (Load(1, 2, 3), 6)
    other = status.model("other")
    assert other is not None
    assert other.load.num_requests == 0
    assert status.model("nope") is None
    assert await client.models() == status.models


async def test_every_state_of_a_daemon_is_known(front: Front, client: AsyncClient) -> None:
    for state in Told:
        front.daemon.state = state
        assert (await client.status()).state == state.name.lower()


async def test_every_state_of_a_model_is_known(front: Front, client: AsyncClient) -> None:
    for state in ToldOfModel:
        front.models.set_status("tiny", state=state, ready=None, failure="too large")
        [model] = await client.models()
        assert (model.state, model.failure) == (state.name.lower(), "too large")
        assert model.max_tokens is None


async def test_the_tiers_have_their_targets_and_limits(client: AsyncClient) -> None:
    interactive, standard, batch = await client.tiers()
    assert interactive == Tier(
        tier=SloTier.INTERACTIVE,
        is_default=False,
        ttft_target_s=1.0,
        tpot_target_s=0.1,
        ttlt_target_s=None,
        max_queue_s=30.0,
        max_waiting=64,
        max_waiting_per_client=16,
        preemptible=False,
        min_share=0.0,
    )
    assert standard.is_default
    assert (batch.ttft_target_s, batch.tpot_target_s, batch.max_queue_s) == (None, None, None)


async def test_requests_are_shown_with_their_numbers(front: Front, client: AsyncClient) -> None:
    front.models.rows = (
        RequestRow("tiny", running("abcd", SloTier.INTERACTIVE)),
        RequestRow("tiny", waiting("efgh", SloTier.STANDARD, 2)),
    )
    one, other = await client.requests()
    assert one == Request(
        request_id="abcd",
        model="tiny",
        client="app",
        tier=SloTier.INTERACTIVE,
        state=RequestState.RUNNING,
        position=None,
        num_prompt_tokens=5,
        num_generated_tokens=7,
        max_tokens=8,
        age_s=1.0,
        eta_s=None,
    )
    assert (other.state, other.position) == (RequestState.WAITING, 2)


async def test_a_request_is_cancelled_by_the_beginning_of_its_id(
    front: Front, client: AsyncClient
) -> None:
    front.models.request_ids = (RequestId("abcd1234"),)
    assert await client.cancel("abcd") == "abcd1234"
    with pytest.raises(NotFoundError):
        await client.cancel("efgh")


async def test_a_request_is_looked_for_at_every_daemon(front: Front) -> None:
    front.models.request_ids = (RequestId("abcd1234"),)
    answer = admin_pb2.CancelResponse(request_id="efgh5678").SerializeToString()
    async with (
        playing(says(answer)) as other,
        AsyncClient([front.target, other.address]) as client,
    ):
        assert await client.cancel("abcd") == "abcd1234"
        assert await client.cancel("efgh") == "efgh5678"


async def test_tokens_are_counted(front: Front, client: AsyncClient) -> None:
    assert await client.tokenize("Hi", model="tiny") == (1, 2, 3)
    assert await client.count_tokens("Hi") == TokenCount(3, 512)
    with pytest.raises(NotFoundError):
        await client.tokenize("Hi", model="nope")


async def test_without_tokens_the_daemon_says_what_everybody_may(client: AsyncClient) -> None:
    identity = await client.identity()
    assert isinstance(identity.grant, Grant)
    assert identity.grant.is_admin
    assert identity.fingerprint == ""


async def test_an_answer_that_is_none_is_told() -> None:
    async with playing(says(b"\xff\xff")) as daemon, AsyncClient(daemon.address) as client:
        with pytest.raises(Exception, match="sent what is no answer of AdminService/GetStatus"):
            await client.status()


def test_what_a_newer_daemon_says_is_none() -> None:
    new: int = 99
    model = admin_pb2.Model(state=new, tiers=[admin_pb2.TierStatus(tier=new)])  # type: ignore[arg-type]  # of the future
    assert to_model(model).state is None
    assert to_model(model).loads == {}
    assert to_status(admin_pb2.Status(state=new)).state is None  # type: ignore[arg-type]  # of the future
    assert to_tier(admin_pb2.TierInfo(tier=new)).tier is None  # type: ignore[arg-type]  # of the future
    row = to_request_row(admin_pb2.RequestInfo(tier=new, state=new))  # type: ignore[arg-type]  # of the future
    assert (row.tier, row.state) == (None, None)
