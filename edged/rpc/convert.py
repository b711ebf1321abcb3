"""Decides what a valid request is: protobuf in, `Submission` out.

The comments of `proto/edged/v1/inference.proto` are the rules; a request that breaks several hears
of all of them. Token ids are range-checked by the engine, which knows the vocabulary.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from edged.core.types import (
    ClientId,
    KvGeometry,
    OnUnattainable,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TierSpec,
)
from edged.engine.wire import (
    ChatMessage,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokensPrompt,
)
from edged.rpc.violations import Violations
from edged.supervise.model import Submission
from edged.v1 import inference_pb2 as pb

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 256
MAX_LOGIT_BIAS = 100.0
MAX_LOGPROBS = 20
MAX_PENALTY = 2.0
MAX_MESSAGES = 4096
MAX_ROLE_CHARACTERS = 64
MAX_PROMPT_TOKEN_IDS = 1_048_576
LOCAL_CLIENT = "local"
"""Client of a call over the unix socket that names none."""
_CLIENT = re.compile(r"[A-Za-z0-9._-]{0,64}")

TIERS: Mapping[SloTier, "pb.Tier.ValueType"] = {
    SloTier.INTERACTIVE: pb.TIER_INTERACTIVE,
    SloTier.STANDARD: pb.TIER_STANDARD,
    SloTier.BATCH: pb.TIER_BATCH,
}
_ON_UNATTAINABLE: Mapping["pb.OnUnattainable.ValueType", OnUnattainable] = {
    pb.ON_UNATTAINABLE_UNSPECIFIED: OnUnattainable.BEST_EFFORT,
    pb.ON_UNATTAINABLE_BEST_EFFORT: OnUnattainable.BEST_EFFORT,
    pb.ON_UNATTAINABLE_REJECT: OnUnattainable.REJECT,
}
TIER_OF = {number: tier for tier, number in TIERS.items()}
_DEFAULT = SamplingParams()


@dataclass(frozen=True, slots=True)
class Tiers:
    """The configured tiers, and the one of requests that name none."""

    specs: tuple[TierSpec, ...]
    default: SloTier

    def find(self, tier: SloTier) -> TierSpec | None:
        return next((spec for spec in self.specs if spec.tier == tier), None)


@dataclass(frozen=True, slots=True)
class Call:
    """What the front itself adds to a request."""

    request_id: RequestId
    seed: int
    """Used where the request has none; 64 bits."""
    peer: str
    """The caller's address as gRPC writes it."""
    remaining_s: float | None
    """Until the call's own gRPC deadline; None without one."""
    now_s: float
    counts_as: str | None = None
    """What the caller's client ids begin with; None: they are what it says."""


def to_submission(request: pb.GenerateRequest, call: Call, tiers: Tiers) -> Submission:
    """Check a request and put the defaults in.

    Raises:
        EdgedError: INVALID_ARGUMENT, with every field that breaks a rule.
    """
    violations = Violations()
    prompt = _prompt(request.prompt, violations)
    sampling = _sampling(request.sampling, call.seed, violations)
    stop = _stop(request.sampling, violations)
    service = _service(request, tiers, violations)
    deadline_s = _deadline_s(request.targets, call, violations)
    client_id = _client_id(request.client, call, violations)
    expected_tokens = request.expected_tokens if request.HasField("expected_tokens") else None
    holds = expected_tokens is None or expected_tokens >= 1
    violations.require(holds, "expected_tokens", expected_tokens, "at least 1")
    on_unattainable = _ON_UNATTAINABLE.get(request.on_unattainable)
    expected = "one of 0 to 2"
    violations.require(
        on_unattainable is not None, "on_unattainable", request.on_unattainable, expected
    )
    violations.raise_if_any()
    assert prompt is not None, "a prompt that is missing is a violation"
    return Submission(
        request_id=call.request_id,
        client_id=client_id,
        prompt=prompt,
        sampling=sampling,
        service=service,
        stop=stop,
        arrival_s=call.now_s,
        deadline_s=deadline_s,
        expected_tokens=expected_tokens,
        on_unattainable=on_unattainable or OnUnattainable.BEST_EFFORT,
    )


def to_prompt(message: pb.Prompt) -> Prompt:
    """Raises EdgedError: INVALID_ARGUMENT, with every field that breaks a rule."""
    violations = Violations()
    prompt = _prompt(message, violations)
    violations.raise_if_any()
    assert prompt is not None, "a prompt that is missing is a violation"
    return prompt


def caller_address(peer: str) -> str:
    """The address in a gRPC peer, without scheme and port: "ipv4:127.0.0.1:5000" → "127.0.0.1".

    Every caller over a unix socket is `LOCAL_CLIENT`: such a peer has no address.
    """
    scheme, _, address = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return LOCAL_CLIENT
    host, _, _port = address.rpartition(":")
    return host.strip("[]")


def max_request_tokens(kv: KvGeometry) -> int:
    """Most tokens, prompt and answer together, that one request may have."""
    return min(kv.max_cells_per_slot, kv.num_cells)


def _prompt(message: pb.Prompt, violations: Violations) -> Prompt | None:
    """None only with a violation noted."""
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "token_ids":
            token_ids = message.token_ids.ids
            violations.require_size(
                "prompt.token_ids.ids", len(token_ids), 1, MAX_PROMPT_TOKEN_IDS, "token ids"
            )
            return TokensPrompt(tuple(token_ids[:MAX_PROMPT_TOKEN_IDS]))
        case "chat":
            return _chat(message.chat, violations)
        case None:
            violations.add("prompt", "is not set; expected one of text, token_ids, chat")
            return None


def _chat(chat: pb.ChatPrompt, violations: Violations) -> ChatPrompt:
    messages = chat.messages
    violations.require_size("prompt.chat.messages", len(messages), 1, MAX_MESSAGES, "messages")
    for index, turn in enumerate(messages[:MAX_MESSAGES]):
        violations.require_size(
            f"prompt.chat.messages[{index}].role",
            len(turn.role),
            1,
            MAX_ROLE_CHARACTERS,
            "characters",
        )
    return ChatPrompt(
        tuple(ChatMessage(turn.role, turn.content) for turn in messages[:MAX_MESSAGES])
    )


def _sampling(message: pb.Sampling, seed: int, violations: Violations) -> SamplingParams:
    has = message.HasField
    num_stops, num_biases = len(message.stop_token_ids), len(message.logit_bias)
    violations.require_size(
        "sampling.stop_token_ids", num_stops, 0, MAX_STOP_TOKEN_IDS, "token ids"
    )
    violations.require_size("sampling.logit_bias", num_biases, 0, MAX_LOGIT_BIASES, "entries")
    biases = sorted(islice(message.logit_bias.items(), MAX_LOGIT_BIASES))
    params = SamplingParams(
        max_tokens=message.max_tokens if has("max_tokens") else None,
        temperature=message.temperature if has("temperature") else _DEFAULT.temperature,
        top_k=message.top_k if has("top_k") else _DEFAULT.top_k,
        top_p=message.top_p if has("top_p") else _DEFAULT.top_p,
        min_p=message.min_p if has("min_p") else _DEFAULT.min_p,
        repetition_penalty=(
            message.repetition_penalty if has("repetition_penalty") else _DEFAULT.repetition_penalty
        ),
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        seed=message.seed if has("seed") else seed,
        stop_token_ids=tuple(message.stop_token_ids[:MAX_STOP_TOKEN_IDS]),
        logit_bias=tuple(biases),
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if has("logprobs") else None,
    )
    _check_sampling(params, violations)
    return params


def _check_sampling(params: SamplingParams, violations: Violations) -> None:
    """Every comparison is false for NaN, so NaN breaks every rule."""

    def require(holds: bool, field: str, value: float | None, expected: str) -> None:
        violations.require(holds, f"sampling.{field}", value, expected)

    temperature, repetition = params.temperature, params.repetition_penalty
    max_tokens, logprobs = params.max_tokens, params.logprobs
    require(max_tokens is None or max_tokens >= 1, "max_tokens", max_tokens, "at least 1")
    require(0 <= temperature < math.inf, "temperature", temperature, "a finite number ≥ 0")
    require(0 < params.top_p <= 1, "top_p", params.top_p, "a number in (0, 1]")
    require(0 <= params.min_p <= 1, "min_p", params.min_p, "a number in [0, 1]")
    require(0 < repetition < math.inf, "repetition_penalty", repetition, "a finite number > 0")
    for field, penalty in (
        ("presence_penalty", params.presence_penalty),
        ("frequency_penalty", params.frequency_penalty),
    ):
        require(abs(penalty) <= MAX_PENALTY, field, penalty, "a number in [-2, 2]")
    require(
        logprobs is None or logprobs <= MAX_LOGPROBS,
        "logprobs",
        logprobs,
        f"0 to {MAX_LOGPROBS}",
    )
    for token_id, bias in params.logit_bias:
        require(
            abs(bias) <= MAX_LOGIT_BIAS,
            f"logit_bias[{token_id}]",
            bias,
            "a number in [-100, 100]",
        )


def _stop(message: pb.Sampling, violations: Violations) -> tuple[str, ...]:
    stop = tuple(message.stop)
    violations.require_size("sampling.stop", len(stop), 0, MAX_STOPS, "strings")
    for index, text in enumerate(stop[:MAX_STOPS]):
        num_bytes = len(text.encode())
        violations.require_size(f"sampling.stop[{index}]", num_bytes, 1, MAX_STOP_BYTES, "bytes")
    return stop


def _service(request: pb.GenerateRequest, tiers: Tiers, violations: Violations) -> ServiceLevel:
    tier = TIER_OF.get(request.tier) if request.tier else tiers.default
    spec = tiers.find(tier) if tier else None
    if tier is None or spec is None:
        known = ", ".join(f"{TIERS[known.tier]} ({known.tier})" for known in tiers.specs)
        violations.require(False, "tier", request.tier, f"one of {known}")
        return ServiceLevel(tiers.default)
    own = request.targets
    _require_positive(own.HasField("ttft_s"), "ttft_s", own.ttft_s, violations)
    _require_positive(own.HasField("tpot_s"), "tpot_s", own.tpot_s, violations)
    _require_positive(own.HasField("ttlt_s"), "ttlt_s", own.ttlt_s, violations)
    return ServiceLevel(
        tier=tier,
        ttft_target_s=own.ttft_s if own.HasField("ttft_s") else spec.ttft_target_s,
        tpot_target_s=own.tpot_s if own.HasField("tpot_s") else spec.tpot_target_s,
        ttlt_target_s=own.ttlt_s if own.HasField("ttlt_s") else spec.ttlt_target_s,
    )


def _deadline_s(targets: pb.Targets, call: Call, violations: Violations) -> float | None:
    """The nearer of the request's own deadline and the call's."""
    has_own = targets.HasField("deadline_s")
    _require_positive(has_own, "deadline_s", targets.deadline_s, violations)
    spans_s = [targets.deadline_s] if has_own else []
    if call.remaining_s is not None:
        spans_s.append(call.remaining_s)
    return call.now_s + min(spans_s) if spans_s else None


def _require_positive(present: bool, field: str, value: float, violations: Violations) -> None:
    holds = not present or 0 < value < math.inf
    violations.require(holds, f"targets.{field}", value, "a finite number > 0")


def _client_id(client: str, call: Call, violations: Violations) -> ClientId:
    violations.require(
        _CLIENT.fullmatch(client) is not None,
        "client",
        client,
        "0 to 64 characters out of A-Z a-z 0-9 . _ -",
    )
    if call.counts_as is None:
        return ClientId(client or caller_address(call.peer))
    return ClientId(f"{call.counts_as}/{client}" if client else call.counts_as)
