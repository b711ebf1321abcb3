"""What a token allows, and how a request beyond that ends."""

import grpc
import pytest

from edged.clock import ManualClock
from edged.core.types import PastService, SloTier
from edged.errors import EdgedError, Reason
from edged.node.trust.grant import Grant
from edged.rpc.access.allowance import MAX_BUCKETS, Allowance
from edged.rpc.access.caller import Caller, Door
from edged.supervise.model import RequestRow, RequestView, Submission
from edged.v1 import access_pb2, admin_pb2
from edged.v1 import inference_pb2 as pb
from tests.rpc.fakes import PlayedStream, finished, model_status
from tests.rpc.front import NETWORK, Front, Told, ended, running_front, text_request, told_by

BATCH = Grant("night", SloTier.BATCH)
STANDARD = Grant("tools", SloTier.STANDARD)
ANY = Grant("laptop")
BOSS = Grant("boss", is_admin=True)
CODER = Grant("coder", models=("code",))


async def refused(front: Front, name: str, **fields: object) -> Told:
    call = front.inference.Generate(text_request(**fields), metadata=front.bearer(name))
    told = await told_by(call)
    assert front.models.submitted.empty(), "a refused request is nobody's work"
    return told


async def submitted(front: Front, name: str, **fields: object) -> PlayedStream:
    """The request as the models get it; its call goes on."""
    call = front.inference.Generate(text_request(**fields), metadata=front.bearer(name))
    stream = await front.models.next_stream()
    stream.call = call
    return stream


# ── Tiers and targets ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("night", pb.TIER_STANDARD),
        ("night", pb.TIER_INTERACTIVE),
        ("tools", pb.TIER_INTERACTIVE),
    ],
)
async def test_a_tier_above_the_tokens_is_refused(name: str, tier: "pb.Tier.ValueType") -> None:
    async with running_front(NETWORK, BATCH, STANDARD) as front:
        told = await refused(front, name, tier=tier)
        assert told.code == grpc.StatusCode.PERMISSION_DENIED
        assert told.reason == Reason.TIER_NOT_ALLOWED
        assert repr(name) in told.detail


@pytest.mark.parametrize(
    ("name", "tier"),
    [("night", SloTier.BATCH), ("tools", SloTier.STANDARD), ("laptop", SloTier.STANDARD)],
)
async def test_a_request_without_tier_gets_the_default_or_the_highest_allowed(
    name: str, tier: SloTier
) -> None:
    async with running_front(NETWORK, BATCH, STANDARD, ANY) as front:
        assert (await submitted(front, name)).submission.service.tier is tier
        tiers = await front.admin.ListTiers(
            admin_pb2.ListTiersRequest(), metadata=front.bearer(name)
        )
        [default] = [one.tier for one in tiers.tiers if one.is_default]
        assert pb.Tier.Name(default) == f"TIER_{tier.upper()}"


@pytest.mark.parametrize(
    ("name", "targets", "expected"),
    [
        ("night", pb.Targets(ttft_s=1000.0), "expected none"),
        ("night", pb.Targets(tpot_s=1000.0), "expected none"),
        ("night", pb.Targets(ttlt_s=1000.0), "expected none"),
        ("tools", pb.Targets(ttft_s=4.9), "expected 5 or more"),
        ("tools", pb.Targets(tpot_s=0.19), "expected 0.2 or more"),
        ("tools", pb.Targets(ttlt_s=1000.0), "expected none"),
    ],
)
async def test_targets_nearer_than_the_highest_tiers_are_refused(
    name: str, targets: pb.Targets, expected: str
) -> None:
    async with running_front(NETWORK, BATCH, STANDARD) as front:
        told = await refused(front, name, tier=pb.TIER_BATCH, targets=targets)
        assert told.reason == Reason.TIER_NOT_ALLOWED
        assert expected in told.detail


async def test_targets_as_near_as_the_highest_tiers_are_taken() -> None:
    async with running_front(NETWORK, STANDARD) as front:
        targets = pb.Targets(ttft_s=5.0, tpot_s=0.2)
        stream = await submitted(front, "tools", tier=pb.TIER_BATCH, targets=targets)
        assert stream.submission.service.ttft_target_s == 5.0


async def test_a_token_for_every_tier_has_its_targets_free() -> None:
    async with running_front(NETWORK, ANY) as front:
        targets = pb.Targets(ttft_s=0.01, tpot_s=0.001, ttlt_s=0.1, deadline_s=7.0)
        stream = await submitted(front, "laptop", tier=pb.TIER_BATCH, targets=targets)
        assert stream.submission.service.ttlt_target_s == 0.1
        assert stream.submission.deadline_s == front.clock.now_s() + 7.0


async def test_a_deadline_of_a_limited_token_ends_its_request_and_makes_it_no_more_urgent() -> None:
    async with running_front(NETWORK, BATCH) as front:
        request = text_request(targets=pb.Targets(deadline_s=0.05))
        call = front.inference.Generate(request, metadata=front.bearer("night"))
        stream = await front.models.next_stream()
        assert stream.submission.deadline_s is None, "the scheduler would take it for a target"
        told = await told_by(call)
        assert told.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert told.reason == Reason.DEADLINE_EXCEEDED
        await stream.wait_until_cancelled()


async def test_the_calls_own_deadline_ends_the_request_of_a_limited_token() -> None:
    async with running_front(NETWORK, BATCH) as front:
        call = front.inference.Generate(text_request(), metadata=front.bearer("night"), timeout=0.3)
        stream = await front.models.next_stream()
        assert stream.submission.deadline_s is None
        await stream.wait_until_cancelled()
        assert await ended(call) == grpc.StatusCode.DEADLINE_EXCEEDED


# ── Models ───────────────────────────────────────────────────────────────────────────────────────


def with_code_model(front: Front) -> None:
    front.models.statuses["code"] = model_status("code", is_default=False)


async def test_a_model_that_is_not_granted_is_refused() -> None:
    async with running_front(NETWORK, CODER) as front:
        with_code_model(front)
        for asked, told_of in (
            ("tiny", "'tiny'"),
            ("nope", "'nope'"),
            ("", "may not use the default model;"),
        ):
            told = await refused(front, "coder", model=asked)
            assert told.code == grpc.StatusCode.PERMISSION_DENIED
            assert told.reason == Reason.MODEL_NOT_ALLOWED
            assert told_of in told.detail
            assert told.detail.endswith("name one of code")
            assert ("tiny" in told.detail) == (asked == "tiny"), "only what it said itself"
        assert (await submitted(front, "coder", model="code")).submission


async def test_its_tokens_are_not_counted_either() -> None:
    async with running_front(NETWORK, CODER) as front:
        for method, request in (
            (front.inference.Tokenize, pb.TokenizeRequest(prompt=pb.Prompt(text="x"))),
            (front.inference.CountTokens, pb.CountTokensRequest(prompt=pb.Prompt(text="x"))),
        ):
            told = await told_by(method(request, metadata=front.bearer("coder")))
            assert told.reason == Reason.MODEL_NOT_ALLOWED


async def test_a_caller_sees_the_models_it_may_use_and_an_administrator_all() -> None:
    boss = Grant("boss", is_admin=True, models=("code",))
    async with running_front(NETWORK, CODER, boss) as front:
        with_code_model(front)
        for name, visible in (("coder", ["code"]), ("boss", ["tiny", "code"])):
            metadata = front.bearer(name)
            listed = await front.admin.ListModels(admin_pb2.ListModelsRequest(), metadata=metadata)
            status = await front.admin.GetStatus(admin_pb2.GetStatusRequest(), metadata=metadata)
            watch = front.admin.WatchStatus(admin_pb2.WatchStatusRequest(), metadata=metadata)
            watched = await watch.read()
            watch.cancel()
            for models in (listed.models, status.status.models, watched.status.models):
                assert [model.name for model in models] == visible


# ── Rates ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_rate_is_held_and_told() -> None:
    grant = Grant("slow", max_requests_per_minute=2.0)
    async with running_front(NETWORK, grant, ANY) as front:
        for _ in range(2):
            await submitted(front, "slow")
        front.clock.advance(10.0)
        told = await refused(front, "slow")
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told.reason == Reason.RATE_LIMITED
        assert told.retry_s == pytest.approx(20.0, abs=0.002)
        assert told.pushback_ms is not None
        await submitted(front, "laptop")
        front.clock.advance(told.retry_s)
        await submitted(front, "slow")


async def test_a_request_that_is_wrong_or_not_allowed_costs_no_rate() -> None:
    grant = Grant("slow", SloTier.BATCH, max_requests_per_minute=1.0)
    async with running_front(NETWORK, grant) as front:
        assert (await refused(front, "slow", client="a b")).reason == Reason.INVALID_ARGUMENT
        told = await refused(front, "slow", tier=pb.TIER_STANDARD)
        assert told.reason == Reason.TIER_NOT_ALLOWED
        await submitted(front, "slow")


async def test_so_many_requests_may_be_open_at_once() -> None:
    grant = Grant("few", max_concurrent_requests=2)
    async with running_front(NETWORK, grant, ANY) as front:
        first = await submitted(front, "few")
        second = await submitted(front, "few")
        told = await refused(front, "few")
        assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told.reason == Reason.CONCURRENCY_LIMITED
        assert told.retry_s == 1.0
        await submitted(front, "laptop")
        first.put(finished(first))
        assert await ended(first.call) == grpc.StatusCode.OK
        await submitted(front, "few")
        second.call.cancel()
        await second.wait_until_cancelled()
        await submitted(front, "few")


def test_the_rates_of_so_many_callers_are_remembered() -> None:
    allowance = Allowance(ManualClock())

    def begins(number: int) -> bool:
        grant = Grant("a", max_requests_per_minute=1.0)
        caller = Caller(Door.NETWORK, grant, f"token {number}", None)
        try:
            with allowance.generating(caller):
                return True
        except EdgedError:
            return False

    assert all(begins(number) for number in range(MAX_BUCKETS))
    assert not begins(0)
    assert begins(MAX_BUCKETS), "one more takes the place of the first"
    assert begins(0)
    assert not begins(2)


# ── Client ids and one's own requests ────────────────────────────────────────────────────────────


async def test_a_tokens_requests_count_for_its_name() -> None:
    async with running_front(NETWORK, ANY) as front:
        assert (await submitted(front, "laptop")).submission.client_id == "token:laptop"
        stream = await submitted(front, "laptop", client="editor")
        assert stream.submission.client_id == "token:laptop/editor"
        told = await refused(front, "laptop", client="tools/editor")
        assert told.reason == Reason.INVALID_ARGUMENT


async def ids_seen_by(front: Front, name: str) -> set[str]:
    answer = await front.admin.ListRequests(
        admin_pb2.ListRequestsRequest(), metadata=front.bearer(name)
    )
    return {row.request_id for row in answer.requests}


async def cancelled_by(front: Front, name: str, prefix: str) -> str | Reason:
    call = front.admin.Cancel(
        admin_pb2.CancelRequest(request_id=prefix), metadata=front.bearer(name)
    )
    if await call.code() == grpc.StatusCode.OK:
        return (await call).request_id
    return Reason((await told_by(call)).reason)


async def test_a_caller_sees_and_cancels_its_own_requests_and_an_administrator_all() -> None:
    async with running_front(NETWORK, ANY, STANDARD, BOSS) as front:
        mine = (await submitted(front, "laptop")).submission
        theirs = (await submitted(front, "tools")).submission
        front.models.rows = (row_of(mine), row_of(theirs))
        front.models.request_ids = (mine.request_id, theirs.request_id)
        assert await ids_seen_by(front, "laptop") == {mine.request_id}
        assert await ids_seen_by(front, "boss") == {mine.request_id, theirs.request_id}
        for prefix in (theirs.request_id, theirs.request_id[:4]):
            assert await cancelled_by(front, "laptop", prefix) is Reason.UNKNOWN_REQUEST
        assert await cancelled_by(front, "laptop", mine.request_id[:4]) == mine.request_id
        assert await cancelled_by(front, "boss", theirs.request_id) == theirs.request_id


def row_of(submission: Submission) -> RequestRow:
    view = RequestView(
        submission,
        is_held=False,
        has_run=True,
        num_prompt_tokens=1,
        num_generated_tokens=1,
        past=PastService(),
    )
    return RequestRow("tiny", view)


async def test_who_is_asked_is_told_what_it_may_do() -> None:
    grant = Grant("coder", SloTier.BATCH, ("code",), False, 12.0, 3)
    async with running_front(NETWORK, grant) as front:
        whoami = await front.access.GetIdentity(
            access_pb2.GetIdentityRequest(), metadata=front.bearer("coder")
        )
        assert whoami.grant == access_pb2.Grant(
            name="coder",
            max_tier=pb.TIER_BATCH,
            models=["code"],
            max_requests_per_minute=12.0,
            max_concurrent_requests=3,
        )
        assert front.server.identity is not None
        assert whoami.fingerprint == front.server.identity.fingerprint
        assert whoami.certificate_pem.startswith("-----BEGIN CERTIFICATE-----")
        assert whoami.version == "1.2.3"
