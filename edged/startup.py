"""Turns settings into what the parts of a daemon are started with."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edged import places
from edged.config.settings import MOST_SEQUENCES, EngineSettings, ModelSettings, Settings
from edged.config.values import AUTO
from edged.core.types import SloTier, TierSpec
from edged.engine.wire import Start
from edged.node.trust.identity import IdentitySource
from edged.node.trust.tokens import CREDENTIAL, TOKENS_FILE, TokenStore
from edged.rpc.access.trust import Trust
from edged.rpc.doors.network_limits import NetworkLimits
from edged.rpc.inference import InferenceLimits
from edged.rpc.settings import RpcSettings
from edged.supervise.spec import ModelSpec

CALL_GRACE_S = 10.0
"""A question outlasts the time after which the engine that owes its answer is replaced."""


def tier_specs(settings: Settings) -> tuple[TierSpec, ...]:
    """Every tier, most urgent first."""
    return tuple(_tier_spec(settings, tier) for tier in SloTier)


def _tier_spec(settings: Settings, tier: SloTier) -> TierSpec:
    given = settings.tiers.of(tier)
    return TierSpec(
        tier=tier,
        ttft_target_s=given.ttft_target_s,
        tpot_target_s=given.tpot_target_s,
        max_waiting=given.max_waiting,
        max_waiting_per_client=given.max_waiting_per_client,
        max_queue_s=given.max_queue_s,
        preemptible=given.preemptible,
        min_share=given.min_share,
        ttlt_target_s=given.ttlt_target_s,
    )


def start_command(settings: Settings, model: ModelSettings, environ: Mapping[str, str]) -> Start:
    """The first command for one model's engine."""
    engine = model.engine
    given = engine.disk_directory
    disk_directory = str(places.kv_directory(environ)) if given == AUTO else given
    return Start(
        backend=_backend(engine.backend, model.path),
        model_path=model.path,
        kv_type=engine.kv_type,
        context_tokens=_unless_auto(engine.context_tokens),
        kv_bytes=_unless_auto(engine.kv_memory),
        max_sequences=engine.max_sequences,
        max_step_tokens=_max_step_tokens(engine),
        num_threads=engine.num_threads,
        gpu_layers=engine.gpu_layers,
        main_gpu=engine.main_gpu,
        tensor_split=engine.tensor_split,
        kv_unified=engine.kv_unified,
        cached_sequences=min(engine.cached_sequences, MOST_SEQUENCES - engine.max_sequences),
        keeps_kv=engine.cached_sequences > 0,
        prefix_sharing=engine.prefix_sharing,
        options=engine.options,
        policy=settings.scheduler.policy,
        max_step_s=settings.scheduler.max_step_s,
        arrival_guard_s=settings.scheduler.arrival_guard_s,
        share_quantum_s=settings.scheduler.share_quantum_s,
        lease_tokens=settings.scheduler.lease_tokens,
        horizon_tokens=settings.scheduler.horizon_tokens,
        relegated_share=settings.scheduler.relegated_share,
        snapshot_bytes=engine.snapshot_bytes,
        disk_bytes=engine.disk_bytes,
        disk_directory=disk_directory,
        tiers=tier_specs(settings),
    )


def _backend(given: str, model_path: str) -> str:
    """GGUF models are files; those of MLX are folders. One that cannot be looked at is a matter of
    the engine that loads it: the daemon serves the others."""
    if given != AUTO:
        return given
    return "mlx" if model_path and os.path.isdir(model_path) else "llama_cpp"


def _max_step_tokens(engine: EngineSettings) -> int:
    return min(engine.max_step_tokens, _unless_auto(engine.context_tokens) or sys.maxsize)


def _unless_auto(value: int | Literal["auto"]) -> int | None:
    return None if value == "auto" else value


def socket_path(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """The unix socket to listen on; None when it is turned off."""
    given = settings.server.socket
    if given == AUTO:
        return places.daemon_socket(environ)
    return Path(given) if given else None


def state_directory(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where the daemon's key and its tokens are."""
    given = settings.server.state_directory
    return places.state_directory(environ) if given == AUTO else Path(given)


def credential(environ: Mapping[str, str], name: str) -> Path | None:
    """The file of a credential that the service manager may have given; None without one."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(directory) / name if directory else None


def trust(settings: Settings, environ: Mapping[str, str]) -> Trust:
    """What callers are known by, and the daemon by them.

    Raises:
        ConfigError: the tokens cannot be read.
    """
    directory, server = state_directory(settings, environ), settings.server
    identity = IdentitySource(
        directory,
        socket.gethostname(),
        Path(server.tls_certificate) if server.tls_certificate else None,
        Path(server.tls_key) if server.tls_key else None,
    )
    return Trust(TokenStore(directory / TOKENS_FILE, credential(environ, CREDENTIAL)), identity)


def service_name(settings: Settings) -> str:
    """What the daemon is called on the local network, unless another has that name."""
    given = settings.server.name
    if given != AUTO:
        return given
    return socket.gethostname().partition(".")[0] or "edged"


def rpc_settings(settings: Settings, environ: Mapping[str, str]) -> RpcSettings:
    server = settings.server
    return RpcSettings(
        listen=server.listen or None,
        socket_path=socket_path(settings, environ),
        loopback_access=server.loopback_access,
        insecure=server.insecure,
        max_message_bytes=server.max_message_bytes,
        inference=InferenceLimits(
            max_generate_calls=server.max_concurrent_requests,
            heartbeat_s=server.heartbeat_s,
        ),
        network=NetworkLimits(
            max_generate_calls=min(
                server.max_concurrent_requests, NetworkLimits().max_generate_calls
            )
        ),
    )


def model_specs(settings: Settings, environ: Mapping[str, str]) -> tuple[ModelSpec, ...]:
    """How each configured model is run, in the order of the configuration."""
    return tuple(
        ModelSpec(
            name=name,
            start=start_command(settings, model, environ),
            stall_s=model.engine.stall_s,
            call_s=model.engine.stall_s + CALL_GRACE_S,
            load_timeout_s=model.engine.load_timeout_s,
            max_restarts=model.engine.max_restarts,
            max_held=model.engine.max_held,
            max_backlog_tokens=settings.server.max_backlog_tokens,
            drain_s=settings.server.drain_s,
            settings=_taken_at_load(model),
        )
        for name, model in settings.models.items()
    )


def _taken_at_load(model: ModelSettings) -> dict[str, object]:
    """What changes nothing before the model is loaded again."""
    engine = model.engine.model_dump(exclude={"max_held"})
    return {"path": model.path, **engine}
