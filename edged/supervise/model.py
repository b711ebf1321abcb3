"""What a front may ask of the models a daemon serves: the one face of `edged.supervise`.

The implementations stand beside it (`handle.py`, `fleet.py`); `edged.rpc` sees only this file.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edged.core.types import (
    ClientId,
    OnUnattainable,
    PastService,
    RequestId,
    SamplingParams,
    ServiceLevel,
)
from edged.engine.wire import Prompt, Ready, RequestState, Statistics
from edged.supervise.stream import StreamEvent


class ModelState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated request. `prompt` is not tokenized yet: the engine process does text."""

    request_id: RequestId
    client_id: ClientId
    prompt: Prompt
    sampling: SamplingParams
    service: ServiceLevel
    stop: tuple[str, ...]
    arrival_s: float
    deadline_s: float | None
    """Absolute; the nearer of the request's own deadline and the call's."""
    expected_tokens: int | None = None
    on_unattainable: OnUnattainable = OnUnattainable.BEST_EFFORT


@dataclass(frozen=True, slots=True)
class ModelStatus:
    name: str
    is_default: bool
    state: ModelState
    load_progress: float
    """0 … 1 while loading."""
    failure: str
    """For FAILED: a sentence for a person."""
    engine_pid: int | None
    num_engine_losses: int
    ready: Ready | None
    """What was loaded; None until it was ready once."""
    statistics: Statistics | None
    num_in_flight: int
    waiting_settings: tuple[str, ...] = ()
    """Those that were changed since it was loaded, and hold when it is loaded next."""


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """By what is seen whether a model gets on, and its supervision with it."""

    name: str
    state: ModelState
    num_in_flight: int
    engine_pid: int | None
    has_ready_engine: bool
    num_steps_ended: int | None
    """Of that engine, by its flight recorder; None when it cannot be read."""
    is_executing: bool
    tokenizing_until_s: float
    """Until then it may have no steps to run, for all the text it was given."""
    stall_s: float
    load_timeout_s: float


@dataclass(frozen=True, slots=True)
class RequestView:
    """What the daemon itself knows of a request."""

    submission: Submission
    is_held: bool
    """It waits for its engine to be replaced, or for its model to load."""
    has_run: bool
    num_prompt_tokens: int
    num_generated_tokens: int
    past: PastService


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One unfinished request of one model: as its engine told, or as far as the daemon knows."""

    model: str
    state: RequestState | RequestView


class Stream(Protocol):
    """One answer. Iterate it once.

    Iteration raises EdgedError for every end but STOP and LENGTH: CANCELLED, DEADLINE_EXCEEDED,
    QUEUE_TIMEOUT, QUEUE_FULL, CLIENT_SHARE, PROMPT_TOO_LONG, INVALID_ARGUMENT, POISONED_REQUEST,
    SLOW_READER, MODEL_FAILED, ENGINE_LOST (the model failed after too many losses), INTERNAL.
    """

    def __aiter__(self) -> AsyncIterator[StreamEvent]: ...

    def cancel(self, detail: str) -> None:
        """End the request on its engine before the next step; once it has ended, nothing."""
        ...


class Models(Protocol):
    """Every configured model. All methods are called on the daemon's event loop."""

    def submit(self, model: str, submission: Submission) -> Stream:
        """Hand a request to a model; "" is the default model. Answers at once.

        Raises:
            EdgedError: UNKNOWN_MODEL, MODEL_UNLOADED, MODEL_FAILED, DRAINING, QUEUE_FULL (too many
                requests held while loading), DUPLICATE_REQUEST.
        """
        ...

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """Raises EdgedError: as `submit`, and MODEL_LOADING, INVALID_ARGUMENT, ENGINE_LOST (the
        engine ended before it answered), QUEUE_FULL (it did not answer in time)."""
        ...

    def status(self) -> tuple[ModelStatus, ...]:
        """In the order of the configuration."""
        ...

    async def wait_for_change(self) -> None:
        """Returns when the state, progress or statistics of any model have changed."""
        ...

    async def list_requests(self) -> tuple[RequestRow, ...]: ...

    def cancel(self, request_id_prefix: str) -> RequestId:
        """Raises EdgedError: UNKNOWN_REQUEST, also for a prefix that several requests share."""
        ...

    async def load(self, model: str) -> None:
        """Start loading; returns at once. A model that is loading or ready is left alone.

        Raises EdgedError: UNKNOWN_MODEL, DRAINING, MODEL_UNLOADED (it is still being unloaded).
        """
        ...

    async def unload(self, model: str) -> None:
        """Let running requests finish within drain_s, cancel the rest, stop the engine.

        Raises EdgedError: UNKNOWN_MODEL.
        """
        ...

    async def drain(self, drain_s: float) -> None:
        """Refuse new work, wait for running work, cancel the rest, stop every engine."""
        ...

    @property
    def num_in_flight(self) -> int: ...
