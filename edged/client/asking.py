"""What programs ask for, and the request that a daemon is sent for it.

Kinds are checked here, ranges by the daemon, which names each field that breaks a rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from edged.client.errors import bad_request
from edged.core.types import OnUnattainable, SloTier
from edged.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """"system", "user", "assistant", or a role that the model's template knows."""
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text that goes to the model as it is, without the chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of the model's vocabulary, used as they are."""

    ids: Sequence[int]


Prompt = str | Text | Tokens | Sequence[Message | Mapping[str, str]]
"""A string is one turn of the user; a list is a conversation, oldest turn first."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Put over the tier's, in seconds."""

    ttft_s: float | None = None
    """Time to the first token."""
    tpot_s: float | None = None
    """Mean time per further token."""
    ttlt_s: float | None = None
    """Time to the last token."""


class Options(TypedDict, total=False):
    """How to ask. What is left out, or None, is left to the daemon; `proto/edged/v1` has the
    ranges and defaults."""

    model: str | None
    tier: SloTier | str | None
    """"interactive", "standard" or "batch": who waits."""
    targets: Targets | None
    on_unattainable: OnUnattainable | str | None
    """"reject" refuses the request if its targets cannot be promised."""
    expected_tokens: int | None
    """Length of the answer, as far as the program knows it."""
    client: str | None
    """Names the program, in place of the name that the client object was given."""
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    logprobs: int | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool | None
    deadline_s: float | None
    """Longest time from the first step of the iteration to the end of the answer, everything
    included: connecting, waiting, retrying. The scheduler knows it too."""


_TIERS: Mapping[SloTier, "pb.Tier.ValueType"] = {
    SloTier.INTERACTIVE: pb.TIER_INTERACTIVE,
    SloTier.STANDARD: pb.TIER_STANDARD,
    SloTier.BATCH: pb.TIER_BATCH,
}
_ON_UNATTAINABLE: Mapping[OnUnattainable, "pb.OnUnattainable.ValueType"] = {
    OnUnattainable.BEST_EFFORT: pb.ON_UNATTAINABLE_BEST_EFFORT,
    OnUnattainable.REJECT: pb.ON_UNATTAINABLE_REJECT,
}
_SAMPLING = frozenset(pb.Sampling.DESCRIPTOR.fields_by_name)


def to_request(prompt: Prompt, options: Options, client: str) -> pb.GenerateRequest:
    """Raises BadRequestError: something is of the wrong kind."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise bad_request(min(unknown), "is no option of a request")
    targets = options.get("targets") or Targets()
    sampling = {key: value for key, value in options.items() if key in _SAMPLING}
    if isinstance(stop := options.get("stop"), str):
        sampling["stop"] = [stop]
    try:
        return pb.GenerateRequest(
            model=options.get("model") or "",
            prompt=to_prompt(prompt),
            sampling=pb.Sampling(**sampling),  # type: ignore[arg-type]  # protobuf checks each kind
            tier=_tier(options.get("tier")),
            targets=pb.Targets(ttft_s=targets.ttft_s, tpot_s=targets.tpot_s, ttlt_s=targets.ttlt_s),
            client=options.get("client") or client,
            expected_tokens=options.get("expected_tokens"),
            on_unattainable=_on_unattainable(options.get("on_unattainable")),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise bad_request("options", f"one is of the wrong kind: {error}") from error


def to_prompt(prompt: Prompt) -> pb.Prompt:
    """Raises BadRequestError: it is no prompt."""
    try:
        match prompt:
            case str():
                return _conversation([Message("user", prompt)])
            case Text(text):
                return pb.Prompt(text=text)
            case Tokens(ids):
                return pb.Prompt(token_ids=pb.TokenIds(ids=ids))
            case [*turns]:
                return _conversation([_message(turn) for turn in turns])
    except (TypeError, ValueError) as error:
        raise bad_request("prompt", f"has a part of the wrong kind: {error}") from error
    raise bad_request(
        "prompt",
        f"is a {type(prompt).__name__}; expected a string, a list of messages, Text or Tokens",
    )


def _conversation(turns: Sequence[Message]) -> pb.Prompt:
    messages = [pb.ChatMessage(role=turn.role, content=turn.content) for turn in turns]
    return pb.Prompt(chat=pb.ChatPrompt(messages=messages))


def _message(turn: Message | Mapping[str, str]) -> Message:
    match turn:
        case Message():
            return turn
        case {"role": str(role), "content": str(content)} if len(turn) == 2:
            return Message(role, content)
    raise TypeError(f"{turn!r} is no message; expected a role and a content, both strings")


def _tier(tier: SloTier | str | None) -> "pb.Tier.ValueType":
    if tier is None:
        return pb.TIER_UNSPECIFIED
    if tier not in list(SloTier):
        raise bad_request("tier", f"is {tier!r}; expected {', '.join(SloTier)}")
    return _TIERS[SloTier(tier)]


def _on_unattainable(choice: OnUnattainable | str | None) -> "pb.OnUnattainable.ValueType":
    if choice is None:
        return pb.ON_UNATTAINABLE_UNSPECIFIED
    if choice not in list(OnUnattainable):
        raise bad_request("on_unattainable", f"is {choice!r}; expected {', '.join(OnUnattainable)}")
    return _ON_UNATTAINABLE[OnUnattainable(choice)]
