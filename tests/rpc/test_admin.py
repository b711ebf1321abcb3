"""AdminService: what it shows, what it asks of the models and of the daemon."""

import asyncio
import math
from dataclasses import replace

import grpc
import pytest

from edged.core.cost import StepCosts
from edged.core.types import (
    ClientId,
    PastService,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
)
from edged.engine.wire import RequestState, Statistics, TextPrompt, TierStatistics
from edged.errors import EdgedError, Reason
from edged.rpc.convert import Tiers
from edged.rpc.view import DaemonState, ReloadReport
from edged.supervise.model import ModelState, RequestRow, RequestView, Submission
from edged.v1 import admin_pb2 as pb
from edged.v1 import inference_pb2
from tests.rpc.fakes import GATE_TIMEOUT_S, model_status
from tests.rpc.front import TIERS, Front, text_request, told_by


def running(request_id: str, tier: SloTier, *, age_s: float = 1.0) -> RequestState:
    return request_state(request_id, tier, "running", None, age_s)


def waiting(request_id: str, tier: SloTier, position: int) -> RequestState:
    return request_state(request_id, tier, "waiting", position, 1.0)


def request_state(
    request_id: str, tier: SloTier, state: str, position: int | None, age_s: float
) -> RequestState:
    return RequestState(
        request_id=RequestId(request_id),
        client_id=ClientId("app"),
        tier=tier,
        state=state,
        position=position,
        num_prompt_tokens=5,
        num_computed_tokens=6,
        num_generated_tokens=7,
        max_tokens=8,
        age_s=age_s,
        num_preemptions=9,
    )


def held(request_id: str, arrival_s: float, max_tokens: int | None) -> RequestView:
    submission = Submission(
        request_id=RequestId(request_id),
        client_id=ClientId("app"),
        prompt=TextPrompt("x"),
        sampling=SamplingParams(max_tokens=max_tokens),
        service=ServiceLevel(SloTier.BATCH),
        stop=(),
        arrival_s=arrival_s,
        deadline_s=None,
    )
    return RequestView(submission, True, False, 4, 2, PastService(num_preemptions=3))


STATISTICS = Statistics(
    num_slots_used=2,
    num_cells_used=300,
    num_cells_parked=150,
    num_cells_cached=200,
    swapped_bytes=4000,
    cached_bytes=5000,
    disk_bytes=6000,
    num_steps=50,
    num_interrupted_steps=3,
    num_parks=8,
    num_swaps=6,
    num_recomputes=7,
    num_prompt_tokens=900,
    num_cached_tokens=100,
    decode_tokens_per_s=10.5,
    cost_model_error=0.125,
    step_costs=StepCosts(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    tiers=(TierStatistics(SloTier.BATCH, 1, 2, 3, 4, 5, 6, 7, 8),),
)


async def test_status_tells_the_daemon_and_its_models(front: Front) -> None:
    front.clock.advance_to(1050.0)
    front.models.set_status("tiny", statistics=STATISTICS, num_engine_losses=2)
    status = (await front.admin.GetStatus(pb.GetStatusRequest())).status
    assert (status.version, status.policy) == ("1.2.3", "strict")
    assert status.state == pb.DAEMON_STATE_READY
    assert status.uptime_s == 150.0
    assert list(status.listeners) == ["127.0.0.1:7411"]
    assert status.resident_bytes > 1_000_000
    [model] = status.models
    assert (model.name, model.is_default, model.state) == ("tiny", True, pb.MODEL_STATE_READY)
    assert (model.backend, model.description, model.device) == ("sim", "tiny", "cpu")
    assert (model.num_bytes, model.engine_pid, model.num_engine_losses) == (1000, 4321, 2)
    assert model.kv == pb.KvStatus(
        effective_type="q8_0",
        bytes_per_token=64,
        capacity_tokens=2048,
        max_tokens_per_sequence=512,
        used_tokens=300,
        num_slots=4,
        used_slots=2,
        snapshot_bytes=4000,
        snapshot_bytes_per_token=64,
        parked_tokens=150,
        cached_tokens=200,
        cached_bytes=5000,
        disk_bytes=6000,
        max_bytes=131072,
        max_snapshot_bytes=2**30,
        max_disk_bytes=2**31,
    )
    assert list(model.tiers) == [
        pb.TierStatus(
            tier=inference_pb2.TIER_BATCH,
            num_waiting=1,
            num_running=2,
            num_preempted=3,
            num_finished=4,
            num_generated_tokens=5,
            num_promised=6,
            num_broken=7,
            num_relegated=8,
        )
    ]
    assert (model.decode_tokens_per_s, model.cost_model_error) == (10.5, 0.125)
    assert model.step_costs == pb.StepCosts(
        base_s=1,
        prefill_token_s=2,
        decode_s=3,
        cell_s=4,
        prefill_cell_s=5,
        transfer_byte_s=6,
    )
    assert (model.max_step_tokens, model.can_interrupt) == (512, True)
    assert (model.num_prompt_tokens, model.num_cached_tokens) == (900, 100)
    assert (model.num_parks, model.num_swaps, model.num_recomputes) == (8, 6, 7)
    assert (model.num_steps, model.num_interrupted_steps) == (50, 3)


@pytest.mark.parametrize("state", list(DaemonState))
async def test_every_state_of_the_daemon_is_told(front: Front, state: DaemonState) -> None:
    front.daemon.state = state
    status = (await front.admin.GetStatus(pb.GetStatusRequest())).status
    assert pb.DaemonState.Name(status.state) == f"DAEMON_STATE_{state.name}"


@pytest.mark.parametrize("state", list(ModelState))
async def test_every_state_of_a_model_is_told(front: Front, state: ModelState) -> None:
    front.models.set_status("tiny", state=state, ready=None, failure="too large")
    [model] = (await front.admin.ListModels(pb.ListModelsRequest())).models
    assert pb.ModelState.Name(model.state) == f"MODEL_STATE_{state.name}"
    assert model.failure == "too large"
    assert not model.HasField("kv")


async def test_requests_are_listed_most_urgent_first(front: Front) -> None:
    batch, interactive = SloTier.BATCH, SloTier.INTERACTIVE
    front.models.rows = (
        RequestRow("tiny", waiting("b-wait-1", batch, 1)),
        RequestRow("tiny", waiting("b-wait-0", batch, 0)),
        RequestRow("tiny", running("b-run", batch)),
        RequestRow("tiny", running("i-young", interactive, age_s=1)),
        RequestRow("tiny", running("i-old", interactive, age_s=2)),
        RequestRow("other", running("o-run", interactive)),
    )
    requests = (await front.admin.ListRequests(pb.ListRequestsRequest())).requests
    assert [one.request_id for one in requests] == [
        "i-old",
        "i-young",
        "b-run",
        "b-wait-0",
        "b-wait-1",
        "o-run",
    ]


async def test_a_request_is_shown_with_its_numbers(front: Front) -> None:
    front.models.rows = (RequestRow("tiny", waiting("abcd", SloTier.STANDARD, 2)),)
    [request] = (await front.admin.ListRequests(pb.ListRequestsRequest())).requests
    assert request == pb.RequestInfo(
        request_id="abcd",
        model="tiny",
        client="app",
        tier=inference_pb2.TIER_STANDARD,
        state=pb.REQUEST_STATE_WAITING,
        position=2,
        num_prompt_tokens=5,
        num_computed_tokens=6,
        num_generated_tokens=7,
        max_tokens=8,
        age_s=1.0,
        num_preemptions=9,
    )


@pytest.mark.parametrize("max_tokens", [None, 12])
async def test_a_request_without_an_engine_is_shown_as_held(
    front: Front, max_tokens: int | None
) -> None:
    front.models.rows = (RequestRow("tiny", held("abcd", 940.0, max_tokens)),)
    [request] = (await front.admin.ListRequests(pb.ListRequestsRequest())).requests
    assert request.state == pb.REQUEST_STATE_HELD
    assert (request.num_prompt_tokens, request.num_generated_tokens) == (4, 2)
    assert (request.age_s, request.num_preemptions) == (60.0, 3)
    assert request.HasField("max_tokens") == (max_tokens is not None)
    assert not request.HasField("position")


async def test_cancel_takes_the_beginning_of_an_id(front: Front) -> None:
    front.models.request_ids = (RequestId("abcd1234"), RequestId("abce9999"))
    answer = await front.admin.Cancel(pb.CancelRequest(request_id="abcd"))
    assert answer.request_id == "abcd1234"


@pytest.mark.parametrize("prefix", ["zzzz", "abc1"])
async def test_cancel_of_no_request_or_of_several_is_not_found(front: Front, prefix: str) -> None:
    front.models.request_ids = (RequestId("abc123"), RequestId("abc124"))
    told = await told_by(front.admin.Cancel(pb.CancelRequest(request_id=prefix)))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_REQUEST)


@pytest.mark.parametrize("prefix", ["", "abc", "x" * 65])
async def test_cancel_by_too_little_or_too_much_of_an_id_is_refused(
    front: Front, prefix: str
) -> None:
    front.models.request_ids = (RequestId("abcd"),)
    told = await told_by(front.admin.Cancel(pb.CancelRequest(request_id=prefix)))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "4 to 64 characters" in told.violations["request_id"]


@pytest.mark.parametrize("method", ["LoadModel", "UnloadModel"])
@pytest.mark.parametrize(
    ("model", "code"),
    [("", grpc.StatusCode.INVALID_ARGUMENT), ("nope", grpc.StatusCode.NOT_FOUND)],
)
async def test_a_model_must_be_named_and_known(
    front: Front, method: str, model: str, code: grpc.StatusCode
) -> None:
    request = {"LoadModel": pb.LoadModelRequest, "UnloadModel": pb.UnloadModelRequest}[method]
    told = await told_by(getattr(front.admin, method)(request(model=model)))
    assert told.code == code


async def test_unloading_answers_when_the_model_is_unloaded(front: Front) -> None:
    call = front.admin.UnloadModel(pb.UnloadModelRequest(model="tiny"))
    async with asyncio.timeout(GATE_TIMEOUT_S):
        assert await front.models.unloads.get() == "tiny"
    assert not call.done()
    front.models.may_unload.set()
    assert (await call).model.state == pb.MODEL_STATE_UNLOADED


async def test_unloading_goes_on_without_its_caller(front: Front) -> None:
    first = front.admin.UnloadModel(pb.UnloadModelRequest(model="tiny"))
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await front.models.unloads.get()
    first.cancel()
    second = front.admin.UnloadModel(pb.UnloadModelRequest(model="tiny"))
    # The second call has reached the server before this later one is answered.
    await front.admin.GetStatus(pb.GetStatusRequest())
    front.models.may_unload.set()
    assert (await second).model.state == pb.MODEL_STATE_UNLOADED
    assert front.models.unloads.empty(), "unloaded twice"


async def test_tiers_are_listed_with_targets_and_limits(front: Front) -> None:
    tiers = (await front.admin.ListTiers(pb.ListTiersRequest())).tiers
    assert [tier.tier for tier in tiers] == [1, 2, 3]
    assert [tier.is_default for tier in tiers] == [False, True, False]
    assert tiers[0] == pb.TierInfo(
        tier=inference_pb2.TIER_INTERACTIVE,
        ttft_target_s=1.0,
        tpot_target_s=0.1,
        max_waiting=64,
        max_waiting_per_client=16,
        max_queue_s=30.0,
        preemptible=False,
        min_share=0.0,
        is_default=False,
    )
    assert not tiers[2].HasField("ttft_target_s")
    assert not tiers[2].HasField("max_queue_s")


@pytest.mark.parametrize("drain_s", [None, 0, 86400])
async def test_drain_asks_the_daemon_and_tells_what_is_in_flight(
    front: Front, drain_s: float | None
) -> None:
    front.models.num_in_flight = 3
    answer = await front.admin.Drain(pb.DrainRequest(drain_s=drain_s))
    assert answer.num_requests == 3
    assert front.daemon.asked_drains_s == [drain_s]


@pytest.mark.parametrize("drain_s", [-1, 86401, math.nan, math.inf])
async def test_a_drain_out_of_range_is_refused(front: Front, drain_s: float) -> None:
    told = await told_by(front.admin.Drain(pb.DrainRequest(drain_s=drain_s)))
    assert told.violations == {"drain_s": f"is {drain_s:g}; expected 0 to 86400 seconds"}
    assert front.daemon.asked_drains_s == []


async def test_errors_of_the_models_reach_the_operator(front: Front) -> None:
    front.models.refusal = EdgedError(Reason.DRAINING, "the daemon is draining")
    told = await told_by(front.admin.LoadModel(pb.LoadModelRequest(model="tiny")))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)


async def test_models_are_listed_in_the_order_of_the_configuration(front: Front) -> None:
    front.models.statuses["zeta"] = model_status("zeta", is_default=False)
    front.models.statuses["alpha"] = model_status("alpha", is_default=False)
    models = (await front.admin.ListModels(pb.ListModelsRequest())).models
    assert [model.name for model in models] == ["tiny", "zeta", "alpha"]


async def test_reload_tells_what_came_of_it(front: Front) -> None:
    front.daemon.reload_report = ReloadReport(("a is b",), ("c waits",), ("d is wrong",))
    answer = await front.admin.Reload(pb.ReloadRequest())
    assert answer == pb.ReloadResponse(
        changes=["a is b"], waiting=["c waits"], problems=["d is wrong"]
    )
    assert front.daemon.num_reloads == 1


async def test_other_tiers_hold_for_the_calls_that_come(front: Front) -> None:
    specs = tuple(replace(spec, ttft_target_s=9.0) for spec in TIERS.specs)
    front.server.replace_tiers(Tiers(specs, SloTier.BATCH))
    tiers = (await front.admin.ListTiers(pb.ListTiersRequest())).tiers
    assert [tier.ttft_target_s for tier in tiers] == [9.0, 9.0, 9.0]
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    assert stream.submission.service == ServiceLevel(SloTier.BATCH, ttft_target_s=9.0)
    call.cancel()


async def test_settings_that_wait_are_among_the_warnings(front: Front) -> None:
    front.models.set_status("tiny", waiting_settings=("kv_type", "path"))
    (model,) = (await front.admin.ListModels(pb.ListModelsRequest())).models
    assert list(model.warnings) == [
        "kv_type, path have changed; to use that, load it again: edgectl models unload tiny, "
        "then edgectl models load tiny"
    ]
