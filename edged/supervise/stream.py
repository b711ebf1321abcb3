"""One request's events on their way from the engine to whoever asked: bounded, never blocking.

Theory of operation: the daemon's event loop puts, one reader takes. A reader that falls behind
costs nothing but memory: waiting deltas are merged into one, and past `max_backlog_tokens` the
stream fails with SLOW_READER and the request is cancelled. So a slow reader never delays a step.
"""

from dataclasses import dataclass
from enum import StrEnum

from edged.core.types import FinishEvent, RequestId
from edged.engine.wire import DeltaLogprob


class PauseCause(StrEnum):
    SWAP = "swap"
    RECOMPUTE = "recompute"
    ENGINE_LOST = "engine_lost"


@dataclass(frozen=True, slots=True)
class StreamAdmitted:
    request_id: RequestId
    position: int
    predicted_ttft_s: float
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """Tokens `[index, index + len(token_ids))` and the text they completed."""

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[DeltaLogprob, ...]


@dataclass(frozen=True, slots=True)
class StreamPaused:
    cause: PauseCause


@dataclass(frozen=True, slots=True)
class StreamResumed:
    paused_s: float


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """Ended with STOP or LENGTH; every other end is raised as an `EdgedError`."""

    event: FinishEvent
    stop_string: str


StreamEvent = StreamAdmitted | StreamDelta | StreamPaused | StreamResumed | StreamFinished
