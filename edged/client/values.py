"""What a daemon says of itself, as programs see it: the part that a program may act upon.

`edged.v1` has the rest. What a newer daemon says and this version does not know is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edged.core.types import SloTier
from edged.node.trust.grant import Grant
from edged.v1 import access_pb2, admin_pb2, inference_pb2


class DaemonState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ModelState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    UNLOADING = "unloading"


class RequestState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that are not finished."""

    num_waiting: int = 0
    """For their first step."""
    num_running: int = 0
    num_preempted: int = 0

    @property
    def num_requests(self) -> int:
        return self.num_waiting + self.num_running + self.num_preempted


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    is_default: bool
    """Whether it serves requests that name no model."""
    state: ModelState | None
    load_progress: float
    """Fraction, while it is loading."""
    failure: str
    backend: str
    description: str
    device: str
    num_bytes: int
    max_tokens: int | None
    """Of one request, prompt and answer together; None until it is ready."""
    loads: Mapping[SloTier, Load]
    decode_tokens_per_s: float
    """Over the last seconds."""

    @property
    def load(self) -> Load:
        """Of all tiers."""
        loads = self.loads.values()
        return Load(
            sum(load.num_waiting for load in loads),
            sum(load.num_running for load in loads),
            sum(load.num_preempted for load in loads),
        )


@dataclass(frozen=True, slots=True)
class Status:
    version: str
    state: DaemonState | None
    uptime_s: float
    policy: str
    listeners: tuple[str, ...]
    resident_bytes: int
    models: tuple[Model, ...]

    def model(self, name: str | None = None) -> Model | None:
        """That model, or the default one; None if there is none."""
        for model in self.models:
            if model.name == name or (name is None and model.is_default):
                return model
        return None


@dataclass(frozen=True, slots=True)
class Tier:
    """A service tier; None where it has no such target or limit."""

    tier: SloTier | None
    is_default: bool
    ttft_target_s: float | None
    tpot_target_s: float | None
    ttlt_target_s: float | None
    max_queue_s: float | None
    """Longest wait for a first step."""
    max_waiting: int
    max_waiting_per_client: int
    preemptible: bool
    min_share: float


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is not finished, of whatever program."""

    request_id: str
    model: str
    client: str
    tier: SloTier | None
    state: RequestState | None
    position: int | None
    """In the queue, 0 is next; None while it runs."""
    num_prompt_tokens: int
    num_generated_tokens: int
    max_tokens: int | None
    age_s: float
    eta_s: float | None
    """Until its first token; None once it has begun."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the daemon is."""

    name: str
    version: str
    fingerprint: str
    """Of its certificate; "" if it has none."""
    listeners: tuple[str, ...]
    is_advertised: bool
    grant: Grant
    """What this client may do."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    num_tokens: int
    max_tokens: int
    """Of one request, prompt and answer together."""


_TIERS: Mapping[int, SloTier] = {
    inference_pb2.TIER_INTERACTIVE: SloTier.INTERACTIVE,
    inference_pb2.TIER_STANDARD: SloTier.STANDARD,
    inference_pb2.TIER_BATCH: SloTier.BATCH,
}
_DAEMON_STATES: Mapping[int, DaemonState] = {
    admin_pb2.DAEMON_STATE_LOADING: DaemonState.LOADING,
    admin_pb2.DAEMON_STATE_READY: DaemonState.READY,
    admin_pb2.DAEMON_STATE_DRAINING: DaemonState.DRAINING,
    admin_pb2.DAEMON_STATE_FAILED: DaemonState.FAILED,
}
_MODEL_STATES: Mapping[int, ModelState] = {
    admin_pb2.MODEL_STATE_UNLOADED: ModelState.UNLOADED,
    admin_pb2.MODEL_STATE_LOADING: ModelState.LOADING,
    admin_pb2.MODEL_STATE_READY: ModelState.READY,
    admin_pb2.MODEL_STATE_RESTARTING: ModelState.RESTARTING,
    admin_pb2.MODEL_STATE_FAILED: ModelState.FAILED,
    admin_pb2.MODEL_STATE_UNLOADING: ModelState.UNLOADING,
}
_REQUEST_STATES: Mapping[int, RequestState] = {
    admin_pb2.REQUEST_STATE_WAITING: RequestState.WAITING,
    admin_pb2.REQUEST_STATE_RUNNING: RequestState.RUNNING,
    admin_pb2.REQUEST_STATE_PREEMPTED: RequestState.PREEMPTED,
    admin_pb2.REQUEST_STATE_HELD: RequestState.HELD,
}


def to_status(status: admin_pb2.Status) -> Status:
    return Status(
        version=status.version,
        state=_DAEMON_STATES.get(status.state),
        uptime_s=status.uptime_s,
        policy=status.policy,
        listeners=tuple(status.listeners),
        resident_bytes=status.resident_bytes,
        models=tuple(map(to_model, status.models)),
    )


def to_model(model: admin_pb2.Model) -> Model:
    return Model(
        name=model.name,
        is_default=model.is_default,
        state=_MODEL_STATES.get(model.state),
        load_progress=model.load_progress,
        failure=model.failure,
        backend=model.backend,
        description=model.description,
        device=model.device,
        num_bytes=model.num_bytes,
        max_tokens=model.kv.max_tokens_per_sequence if model.HasField("kv") else None,
        loads={
            _TIERS[one.tier]: Load(one.num_waiting, one.num_running, one.num_preempted)
            for one in model.tiers
            if one.tier in _TIERS
        },
        decode_tokens_per_s=model.decode_tokens_per_s,
    )


def to_tier(tier: admin_pb2.TierInfo) -> Tier:
    return Tier(
        tier=_TIERS.get(tier.tier),
        is_default=tier.is_default,
        ttft_target_s=tier.ttft_target_s if tier.HasField("ttft_target_s") else None,
        tpot_target_s=tier.tpot_target_s if tier.HasField("tpot_target_s") else None,
        ttlt_target_s=tier.ttlt_target_s if tier.HasField("ttlt_target_s") else None,
        max_queue_s=tier.max_queue_s if tier.HasField("max_queue_s") else None,
        max_waiting=tier.max_waiting,
        max_waiting_per_client=tier.max_waiting_per_client,
        preemptible=tier.preemptible,
        min_share=tier.min_share,
    )


def to_request_row(request: admin_pb2.RequestInfo) -> Request:
    return Request(
        request_id=request.request_id,
        model=request.model,
        client=request.client,
        tier=_TIERS.get(request.tier),
        state=_REQUEST_STATES.get(request.state),
        position=request.position if request.HasField("position") else None,
        num_prompt_tokens=request.num_prompt_tokens,
        num_generated_tokens=request.num_generated_tokens,
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        age_s=request.age_s,
        eta_s=request.eta_s if request.HasField("eta_s") else None,
    )


def to_identity(identity: access_pb2.GetIdentityResponse) -> Identity:
    grant = identity.grant
    per_minute, at_once = grant.max_requests_per_minute, grant.max_concurrent_requests
    return Identity(
        name=identity.name,
        version=identity.version,
        fingerprint=identity.fingerprint,
        listeners=tuple(identity.listeners),
        is_advertised=identity.is_advertised,
        grant=Grant(
            name=grant.name,
            max_tier=_TIERS.get(grant.max_tier, SloTier.INTERACTIVE),
            models=tuple(grant.models),
            is_admin=grant.is_admin,
            max_requests_per_minute=(
                per_minute if grant.HasField("max_requests_per_minute") else None
            ),
            max_concurrent_requests=(
                at_once if grant.HasField("max_concurrent_requests") else None
            ),
        ),
    )
