"""What AdminService shows: the daemon's own values in, protobuf out."""

from collections.abc import Mapping

from edged.core.memory import MemoryReport
from edged.core.types import TIER_RANK, RequestId, SloTier, TierSpec
from edged.engine.wire import RequestState, Statistics, TierStatistics
from edged.rpc.convert import TIERS, Tiers, max_request_tokens
from edged.rpc.view import DaemonState
from edged.supervise.model import ModelState, ModelStatus, RequestRow, RequestView
from edged.v1 import admin_pb2 as pb

DAEMON_STATES: Mapping[DaemonState, "pb.DaemonState.ValueType"] = {
    DaemonState.LOADING: pb.DAEMON_STATE_LOADING,
    DaemonState.READY: pb.DAEMON_STATE_READY,
    DaemonState.DRAINING: pb.DAEMON_STATE_DRAINING,
    DaemonState.FAILED: pb.DAEMON_STATE_FAILED,
}
MODEL_STATES: Mapping[ModelState, "pb.ModelState.ValueType"] = {
    ModelState.UNLOADED: pb.MODEL_STATE_UNLOADED,
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.RESTARTING: pb.MODEL_STATE_RESTARTING,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
    ModelState.UNLOADING: pb.MODEL_STATE_UNLOADING,
}
_HAS_KV = frozenset({ModelState.READY, ModelState.RESTARTING, ModelState.UNLOADING})
REQUEST_STATES: Mapping[str, "pb.RequestState.ValueType"] = {
    "waiting": pb.REQUEST_STATE_WAITING,
    "running": pb.REQUEST_STATE_RUNNING,
    "preempted": pb.REQUEST_STATE_PREEMPTED,
}


def to_model(status: ModelStatus) -> pb.Model:
    """One model. What is known only of a loaded one stays unset before that."""
    model = pb.Model(
        name=status.name,
        is_default=status.is_default,
        state=MODEL_STATES[status.state],
        load_progress=status.load_progress,
        failure=status.failure,
        engine_pid=status.engine_pid or 0,
        num_engine_losses=status.num_engine_losses,
    )
    if status.ready is not None:  # what it was stays known after it is unloaded
        model.backend = status.ready.backend
        model.description = status.ready.model_description
        model.num_bytes = status.ready.model_bytes
        model.device = status.ready.device
        model.max_step_tokens = status.ready.max_step_tokens
        model.can_interrupt = status.ready.can_interrupt
        model.warnings.extend(status.ready.warnings)
    if status.ready is not None and status.state in _HAS_KV:
        kv = status.ready.kv
        model.kv.effective_type = _kv_type(kv.effective_type_k, kv.effective_type_v)
        model.kv.storage = kv.storage
        model.kv.bytes_per_token = kv.bytes_per_cell
        model.kv.capacity_tokens = kv.num_cells
        model.kv.max_tokens_per_sequence = max_request_tokens(kv)
        model.kv.num_slots = kv.num_slots
        model.kv.snapshot_bytes_per_token = kv.snapshot_bytes_per_cell
        model.kv.max_snapshot_bytes = status.ready.snapshot_bytes
        model.kv.max_disk_bytes = status.ready.disk_bytes
        if status.ready.memory is not None:
            _add_memory(model, status.ready.memory, kv.bytes_per_cell)
        if status.statistics is not None:
            _add_statistics(model, status.statistics)
    return model


def to_tier(spec: TierSpec, tiers: Tiers) -> pb.TierInfo:
    return pb.TierInfo(
        tier=TIERS[spec.tier],
        ttft_target_s=spec.ttft_target_s,
        tpot_target_s=spec.tpot_target_s,
        max_waiting=spec.max_waiting,
        max_waiting_per_client=spec.max_waiting_per_client,
        max_queue_s=spec.max_queue_s,
        preemptible=spec.preemptible,
        min_share=spec.min_share,
        ttlt_target_s=spec.ttlt_target_s,
        is_default=spec.tier == tiers.default,
    )


def to_requests(rows: tuple[RequestRow, ...], now_s: float) -> list[pb.RequestInfo]:
    """By model in the order they come, and within one: most urgent tier first, running before
    waiting, then by place in the queue, then oldest first."""
    models = {name: order for order, name in enumerate(dict.fromkeys(row.model for row in rows))}
    shown = [(models[row.model], _tier(row), to_request(row, now_s)) for row in rows]
    shown.sort(
        key=lambda one: (
            one[0],
            TIER_RANK[one[1]],
            one[2].state != pb.REQUEST_STATE_RUNNING,
            one[2].position,
            -one[2].age_s,
        )
    )
    return [info for _, _, info in shown]


def to_request(row: RequestRow, now_s: float) -> pb.RequestInfo:
    match row.state:
        case RequestView() as view:
            return pb.RequestInfo(
                request_id=view.submission.request_id,
                model=row.model,
                client=view.submission.client_id,
                tier=TIERS[view.submission.service.tier],
                state=_state(view),
                num_prompt_tokens=view.num_prompt_tokens,
                num_generated_tokens=view.num_generated_tokens,
                max_tokens=view.submission.sampling.max_tokens,
                age_s=now_s - view.submission.arrival_s,
                num_preemptions=view.past.num_preemptions,
                promised=view.past.promised,
            )
        case RequestState() as state:
            return pb.RequestInfo(
                request_id=state.request_id,
                model=row.model,
                client=state.client_id,
                tier=TIERS[state.tier],
                state=REQUEST_STATES[state.state],
                position=state.position,
                num_prompt_tokens=state.num_prompt_tokens,
                num_computed_tokens=state.num_computed_tokens,
                num_generated_tokens=state.num_generated_tokens,
                max_tokens=state.max_tokens,
                age_s=state.age_s,
                num_preemptions=state.num_preemptions,
                promised=state.promised,
                eta_s=state.eta_s,
            )


def _state(view: RequestView) -> "pb.RequestState.ValueType":
    """Of a request whose engine did not say."""
    if view.is_held:
        return pb.REQUEST_STATE_HELD
    return pb.REQUEST_STATE_RUNNING if view.has_run else pb.REQUEST_STATE_WAITING


def request_id_of(row: RequestRow) -> RequestId:
    state = row.state
    return state.submission.request_id if isinstance(state, RequestView) else state.request_id


def _tier(row: RequestRow) -> SloTier:
    state = row.state
    return state.submission.service.tier if isinstance(state, RequestView) else state.tier


def _kv_type(type_k: str, type_v: str) -> str:
    return type_k if type_k == type_v else f"{type_k}/{type_v}"


def _add_memory(model: pb.Model, memory: MemoryReport, bytes_per_cell: int) -> None:
    """What computing takes grows with the KV: told for the most KV that there may be, so that the
    sum is right."""
    most_cells = memory.kv_limit_bytes // max(1, bytes_per_cell)
    model.memory.extend(pb.MemoryUse(**use._asdict()) for use in memory.uses)
    model.pools_at_load.extend(
        pb.MemoryPool(
            name=pool.name,
            free_bytes=pool.free_bytes,
            reserved_bytes=pool.reserved_bytes,
            margin_bytes=pool.margin_bytes,
            weights_bytes=pool.weights_bytes,
            compute_bytes=pool.compute_bytes + most_cells * pool.compute_bytes_per_token,
        )
        for pool in memory.pools
    )
    model.kv.max_bytes = memory.kv_limit_bytes
    model.kv.max_bytes_is_auto = not memory.is_kv_limit_given


def _add_statistics(model: pb.Model, statistics: Statistics) -> None:
    model.kv.used_tokens = statistics.num_cells_used
    model.kv.used_slots = statistics.num_slots_used
    model.kv.snapshot_bytes = statistics.swapped_bytes
    model.kv.cached_bytes = statistics.cached_bytes
    model.kv.disk_bytes = statistics.disk_bytes
    model.tiers.extend(_to_tier_status(tier) for tier in statistics.tiers)
    model.decode_tokens_per_s = statistics.decode_tokens_per_s
    model.kv.parked_tokens = statistics.num_cells_parked
    model.kv.cached_tokens = statistics.num_cells_cached
    model.num_prompt_tokens = statistics.num_prompt_tokens
    model.num_cached_tokens = statistics.num_cached_tokens
    model.num_parks = statistics.num_parks
    model.num_swaps = statistics.num_swaps
    model.num_recomputes = statistics.num_recomputes
    model.num_steps = statistics.num_steps
    model.num_interrupted_steps = statistics.num_interrupted_steps
    model.cost_model_error = statistics.cost_model_error
    model.step_costs.CopyFrom(pb.StepCosts(**statistics.step_costs._asdict()))


def _to_tier_status(tier: TierStatistics) -> pb.TierStatus:
    return pb.TierStatus(
        tier=TIERS[tier.tier],
        num_waiting=tier.num_waiting,
        num_running=tier.num_running,
        num_preempted=tier.num_preempted,
        num_finished=tier.num_finished,
        num_generated_tokens=tier.num_generated_tokens,
        num_promised=tier.num_promised,
        num_broken=tier.num_broken,
        num_relegated=tier.num_relegated,
    )
