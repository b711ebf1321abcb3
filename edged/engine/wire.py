"""The commands and events that cross the pipe between the daemon and one engine process.

Theory of operation: both sides run the same build, so the format carries no versions. A frame is a
4-byte little-endian length and one msgpack value; msgspec checks every field against the types
below on arrival, so a sick engine cannot hand the daemon a shape it does not expect. `tag=True`
puts a message's type in its frame. All events of a step travel in one frame.
"""

import struct
from collections.abc import Mapping
from typing import Literal, assert_never

import msgspec

from edged.core.cost import StepCosts
from edged.core.memory import MemoryReport
from edged.core.types import (
    ClientId,
    FinishEvent,
    FinishReason,
    KvGeometry,
    OnUnattainable,
    PastService,
    PreemptMode,
    PrefixSharing,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TierSpec,
)
from edged.errors import Reason

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")
FRAME_HEADER_BYTES = _LENGTH.size


# ── What a prompt may be ─────────────────────────────────────────────────────────────────────────


class TextPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    text: str


class TokensPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    token_ids: tuple[int, ...]


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ChatPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    messages: tuple[ChatMessage, ...]


Prompt = TextPrompt | TokensPrompt | ChatPrompt


def num_characters(prompt: Prompt) -> int:
    """How much there is to tokenize; each message of a chat counts as one more."""
    match prompt:
        case TextPrompt(text):
            return len(text)
        case ChatPrompt(messages):
            return sum(len(message.content) + 1 for message in messages)
        case TokensPrompt():
            return 0
        case _:
            assert_never(prompt)


# ── Daemon → engine ──────────────────────────────────────────────────────────────────────────────


class Start(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The first command: which backend to build, and how to schedule it."""

    backend: str
    model_path: str
    kv_type: str
    context_tokens: int | None
    """None: as many as make sense."""
    max_sequences: int
    max_step_tokens: int
    num_threads: int | None
    gpu_layers: int
    main_gpu: int
    tensor_split: tuple[float, ...]
    kv_unified: bool
    options: Mapping[str, str]
    policy: str
    max_step_s: float
    arrival_guard_s: float
    share_quantum_s: float
    snapshot_bytes: int
    tiers: tuple[TierSpec, ...]
    relegated_share: float = 0.01
    lease_tokens: int = 128
    horizon_tokens: int = 32
    cached_sequences: int = 0
    """Of those that end, how many the backend has slots for."""
    keeps_kv: bool = False
    """Whether KV outlives its sequence at all."""
    prefix_sharing: PrefixSharing = PrefixSharing.CLIENT
    disk_bytes: int = 0
    disk_directory: str = ""
    kv_bytes: int | None = None
    """Most of the KV cache; None: what is free."""
    reserved_bytes: Mapping[str, int] = {}
    """Of each pool of memory, what other engines may still take."""


class Submit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    client_id: ClientId
    prompt: Prompt
    sampling: SamplingParams
    service: ServiceLevel
    stop: tuple[str, ...]
    arrival_s: float
    deadline_s: float | None
    generated_token_ids: tuple[int, ...] = ()
    past: PastService = PastService()
    expected_tokens: int | None = None
    on_unattainable: OnUnattainable = OnUnattainable.BEST_EFFORT


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    reason: FinishReason
    detail: str = ""


class Tokenize(msgspec.Struct, frozen=True, tag=True, array_like=True):
    call_id: int
    prompt: Prompt


class Inspect(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask for the state of every request."""

    call_id: int


class SetTiers(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Other tiers than those of `Start`, from the next step on."""

    tiers: tuple[TierSpec, ...]


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Close the backend and exit 0. The daemon has drained or cancelled before."""


Command = Start | Submit | Cancel | Tokenize | Inspect | SetTiers | Stop


# ── Engine → daemon ──────────────────────────────────────────────────────────────────────────────


class Loading(msgspec.Struct, frozen=True, tag=True, array_like=True):
    progress: float
    """0 … 1"""


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    backend: str
    model_description: str
    model_bytes: int
    device: str
    kv: KvGeometry
    max_step_tokens: int
    can_interrupt: bool
    """Whether a step can be cut short."""
    memory: MemoryReport | None = None
    """Where the runtime knows."""
    snapshot_bytes: int = 0
    """Most host memory for saved KV."""
    disk_bytes: int = 0
    """Most of files."""
    warnings: tuple[str, ...] = ()
    """What an operator is to know, though the model serves."""


class LoadFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    reason: Reason
    detail: str


class RequestAdmitted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    position: int
    predicted_ttft_s: float
    prompt_token_ids: tuple[int, ...]
    promised: bool | None = None


FAILURE_REASONS: Mapping[FinishReason, Reason] = {
    FinishReason.CANCELLED: Reason.CANCELLED,
    FinishReason.DEADLINE: Reason.DEADLINE_EXCEEDED,
    FinishReason.QUEUE_TIMEOUT: Reason.QUEUE_TIMEOUT,
    FinishReason.ERROR: Reason.INTERNAL,
}
"""What a finish is called as an error; STOP and LENGTH are none."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a call is not served: an `EdgedError` on its way to the client."""

    reason: Reason
    detail: str
    field: str | None = None
    retry_after_s: float | None = None


class RequestRefused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    refusal: Refusal


class Delta(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Tokens of one answer, `[index, index + len(token_ids))`, and the text they completed.

    Text lags behind tokens while a character or a possible stop string is incomplete, and the last
    delta of a request may carry text alone. What is held back is a function of the tokens so far,
    so a replay on another engine holds back the same.
    """

    request_id: RequestId
    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple["DeltaLogprob", ...] = ()
    at_s: float = 0.0
    """When the step that drew them finished."""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    token_id: int
    logprob: float
    piece: bytes


class DeltaLogprob(msgspec.Struct, frozen=True, array_like=True):
    token_id: int
    logprob: float
    piece: bytes
    top: tuple[TopLogprob, ...]


class Queued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Where a request that waits for its first step stands; from time to time."""

    request_id: RequestId
    position: int
    eta_s: float
    eta_bound_s: float
    """inf where nothing can be said."""


class Preempted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    mode: PreemptMode


class Resumed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request_id: RequestId
    paused_s: float


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    event: FinishEvent
    stop_string: str | None = None


StreamItem = Delta | Queued | Preempted | Resumed | Finished


class StepEvents(msgspec.Struct, frozen=True, tag=True, array_like=True):
    items: tuple[StreamItem, ...]


class Tokenized(msgspec.Struct, frozen=True, tag=True, array_like=True):
    call_id: int
    token_ids: tuple[int, ...]
    refusal: Refusal | None = None


class RequestState(msgspec.Struct, frozen=True, array_like=True):
    request_id: RequestId
    client_id: ClientId
    tier: SloTier
    state: Literal["waiting", "running", "preempted"]
    position: int | None
    """Place in the queue; None while running."""
    num_prompt_tokens: int
    num_computed_tokens: int
    num_generated_tokens: int
    max_tokens: int
    age_s: float
    num_preemptions: int
    promised: bool | None = None
    eta_s: float | None = None
    """Seconds until its first token is expected; None once it runs."""


class Inspected(msgspec.Struct, frozen=True, tag=True, array_like=True):
    call_id: int
    requests: tuple[RequestState, ...]


class Warned(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Something that an operator is to know, though the engine goes on."""

    detail: str


class TierStatistics(msgspec.Struct, frozen=True, array_like=True):
    tier: SloTier
    num_waiting: int
    num_running: int
    num_preempted: int
    num_finished: int
    num_generated_tokens: int
    num_promised: int = 0
    num_broken: int = 0
    """Of those promised, which missed a target."""
    num_relegated: int = 0


class Statistics(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Sent when it changed, at most twice a second; counters are since the engine started."""

    num_slots_used: int
    num_cells_used: int
    num_cells_parked: int
    num_cells_cached: int
    swapped_bytes: int
    cached_bytes: int
    disk_bytes: int
    num_steps: int
    num_interrupted_steps: int
    num_parks: int
    num_swaps: int
    num_recomputes: int
    num_prompt_tokens: int
    """Computed."""
    num_cached_tokens: int
    """Of prompts, found computed."""
    decode_tokens_per_s: float
    cost_model_error: float
    """Median of |predicted − measured| / measured over recent steps."""
    step_costs: StepCosts
    tiers: tuple[TierStatistics, ...]


Event = (
    Loading
    | Ready
    | LoadFailed
    | RequestAdmitted
    | RequestRefused
    | StepEvents
    | Tokenized
    | Inspected
    | Statistics
    | Warned
)

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode_frame(message: Command | Event) -> bytes:
    """Length and body of one message."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_FRAME_BYTES, f"a frame of {len(body)} bytes; at most {MAX_FRAME_BYTES}"
    return _LENGTH.pack(len(body)) + body


def decode_command(body: bytes) -> Command:
    return _commands.decode(body)


def decode_event(body: bytes) -> Event:
    return _events.decode(body)


def frame_length(header: bytes) -> int:
    """Body length from the 4 header bytes. Raises ValueError: longer than any frame either side
    sends, so that the stream is out of step."""
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES}")
    return int(length)
