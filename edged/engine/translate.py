"""Between the words of the wire and those of the engine: settings in, descriptions out."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edged.backend import Backend, BackendConfig, BackendInfo
from edged.core.memory import size
from edged.core.policy import SchedulerConfig
from edged.core.sequence import SequenceState
from edged.core.types import RejectReason
from edged.embedded import EMBEDDED, embedded_model_path
from edged.engine.loop import EngineLoop
from edged.engine.model_digest import model_digest
from edged.engine.wire import Ready, RequestState, Start
from edged.errors import Reason

_LIVE_STATES: Mapping[SequenceState, Literal["waiting", "running", "preempted"]] = {
    SequenceState.WAITING: "waiting",
    SequenceState.RUNNING: "running",
    SequenceState.PREEMPTED: "preempted",
}

REJECT_REASONS: Mapping[RejectReason, Reason] = {
    RejectReason.QUEUE_FULL: Reason.QUEUE_FULL,
    RejectReason.CLIENT_SHARE: Reason.CLIENT_SHARE,
    RejectReason.PROMPT_TOO_LONG: Reason.PROMPT_TOO_LONG,
    RejectReason.INVALID: Reason.INVALID_ARGUMENT,
    RejectReason.DUPLICATE: Reason.DUPLICATE_REQUEST,
    RejectReason.UNATTAINABLE: Reason.UNATTAINABLE,
}


def backend_config(start: Start) -> BackendConfig:
    """Raises ModelLoadError: the model is the embedded one and its package is not installed."""
    is_embedded = start.model_path == EMBEDDED
    return BackendConfig(
        model_path=str(embedded_model_path()) if is_embedded else start.model_path,
        kv_type=start.kv_type,
        context_tokens=start.context_tokens,
        max_sequences=start.max_sequences,
        max_step_tokens=start.max_step_tokens,
        num_threads=start.num_threads,
        gpu_layers=start.gpu_layers,
        main_gpu=start.main_gpu,
        tensor_split=start.tensor_split,
        kv_unified=start.kv_unified,
        cached_sequences=start.cached_sequences,
        kv_bytes=start.kv_bytes,
        reserved_bytes=start.reserved_bytes,
        options=start.options,
    )


def snapshot_bytes(start: Start, info: BackendInfo) -> int:
    """Most host memory for saved KV: what is asked for, as far as it is there."""
    if info.memory is None:
        return start.snapshot_bytes
    return min(start.snapshot_bytes, info.memory.host_left_bytes)


def _scarcity(start: Start, info: BackendInfo) -> tuple[str, ...]:
    given = snapshot_bytes(start, info)
    if given == start.snapshot_bytes:
        return ()
    return (
        f"saved KV can have {size(given)} of host memory, not {size(start.snapshot_bytes)}: no "
        "more is left beside the model; lower snapshot_bytes, or free memory",
    )


def _unshared(start: Start, info: BackendInfo) -> tuple[str, ...]:
    if not start.keeps_kv or info.can_cut_snapshot:
        return ()
    if info.can_copy_prefix:
        return (
            "KV that is saved of this model can be used as a whole only: a prompt that begins like "
            "an earlier one finds it computed while it is in cells, or if it goes on where that "
            "one ended",
        )
    return (
        "the runtime cannot share or cut this model's KV: only a prompt that goes on where an "
        "earlier one ended finds it computed",
    )


def scheduler_config(start: Start, max_snapshot_bytes: int) -> SchedulerConfig:
    return SchedulerConfig(
        policy=start.policy,
        tiers={spec.tier: spec for spec in start.tiers},
        max_step_tokens=start.max_step_tokens,
        max_step_s=start.max_step_s,
        arrival_guard_s=start.arrival_guard_s,
        share_quantum_s=start.share_quantum_s,
        relegated_share=start.relegated_share,
        lease_tokens=start.lease_tokens,
        horizon_tokens=start.horizon_tokens,
        max_snapshot_bytes=max_snapshot_bytes,
        max_disk_bytes=start.disk_bytes if start.keeps_kv else 0,
        caches_prefixes=start.keeps_kv,
        prefix_sharing=start.prefix_sharing,
    )


def kv_key(start: Start, info: BackendInfo, memory: Path) -> str:
    """Whose saved KV an engine can use: that of the same model, runtime and KV type. `memory` is a
    directory for what is known of models.

    Raises:
        OSError: the model cannot be read.
    """
    config = backend_config(start)
    model, path = str((config.model_path, sorted(config.options.items()))), Path(config.model_path)
    if config.model_path and path.exists():  # which it need not for a model without weights
        model = model_digest(path, memory / "models.json")
    kv = info.kv
    what = (
        *(model, info.backend, info.runtime, kv.effective_type_k, kv.effective_type_v, kv.storage),
        *(kv.snapshot_bytes_per_cell, kv.snapshot_bytes_fixed),
    )
    return hashlib.sha256(repr(what).encode()).hexdigest()


def ready(backend: Backend, start: Start) -> Ready:
    info = backend.info
    return Ready(
        backend=info.backend,
        model_description=info.model_description,
        model_bytes=info.model_bytes,
        device=info.device,
        kv=info.kv,
        max_step_tokens=start.max_step_tokens,
        can_interrupt=info.can_interrupt,
        memory=info.memory,
        snapshot_bytes=snapshot_bytes(start, info),
        disk_bytes=start.disk_bytes,
        warnings=(*info.warnings, *_scarcity(start, info), *_unshared(start, info)),
    )


def request_states(engine: EngineLoop, now_s: float) -> tuple[RequestState, ...]:
    return tuple(
        RequestState(
            request_id=seq.request.request_id,
            client_id=seq.request.client_id,
            tier=seq.tier,
            state=_LIVE_STATES[seq.state],
            position=position,
            num_prompt_tokens=seq.num_prompt_tokens,
            num_computed_tokens=seq.num_computed_tokens,
            num_generated_tokens=seq.num_generated_tokens,
            max_tokens=seq.max_tokens,
            age_s=now_s - seq.request.arrival_s,
            num_preemptions=seq.num_preemptions,
            promised=seq.promised,
            eta_s=None if seq.eta_s is None else max(0.0, seq.eta_s - now_s),
        )
        for seq, position in engine.sequences()
    )
