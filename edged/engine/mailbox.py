"""What the two threads of an engine process say to each other. Values only; no thread is here."""

from collections.abc import Sequence
from dataclasses import dataclass

from edged.backend import Tokenizer
from edged.core.types import (
    Admitted,
    EngineEvent,
    FinishReason,
    Rejected,
    Request,
    RequestId,
    TierSpec,
)
from edged.engine.disk_tier import DiskReport
from edged.engine.text import PromptEncoder
from edged.engine.wire import LoadFailed, Loading, Ready, RequestState, Statistics, Warned

# ── Commands ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    request: Request


@dataclass(frozen=True, slots=True)
class CancelRequest:
    request_id: RequestId
    reason: FinishReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InspectRequests:
    pass


@dataclass(frozen=True, slots=True)
class ChangeTiers:
    tiers: tuple[TierSpec, ...]


@dataclass(frozen=True, slots=True)
class CloseEngine:
    pass


@dataclass(frozen=True, slots=True)
class DiskReported:
    """What became of files of saved KV."""

    report: DiskReport


EngineCommand = (
    SubmitRequest | CancelRequest | InspectRequests | ChangeTiers | CloseEngine | DiskReported
)


# ── Reports ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Loaded:
    ready: Ready
    tokenizer: Tokenizer
    encoder: PromptEncoder


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one `SubmitRequest`."""

    request_id: RequestId
    outcome: Admitted | Rejected


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step, or the commands before it, brought about, in order."""

    events: Sequence[Answered | EngineEvent]
    at_s: float


@dataclass(frozen=True, slots=True)
class RequestStates:
    states: tuple[RequestState, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    pass


EngineReport = (
    Loading | Loaded | LoadFailed | Progress | RequestStates | Statistics | Warned | Closed
)
