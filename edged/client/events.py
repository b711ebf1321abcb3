"""The events of an answer, as programs see them. Heartbeats are not shown.

Every event has `text`, what it adds to the answer, so that a program that wants nothing else needs
not to tell them apart. What a newer daemon says and this version does not know is None.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from edged.core.types import FinishReason, MissCause


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request was accepted. A second one follows only if the first daemon was lost before a
    token came, and another took its place."""

    text: ClassVar[str] = ""
    request_id: str
    daemon: str
    """Which daemon, as the client names it."""
    position: int
    """More urgent requests that wait too; 0 is next."""
    predicted_ttft_s: float
    num_prompt_tokens: int
    promised: bool | None = None
    """Whether its targets will be held; None if it has none, or nothing is promised."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The request still waits for its first step."""

    text: ClassVar[str] = ""
    position: int
    eta_s: float
    """Until the first token, as expected."""
    eta_bound_s: float | None = None
    """Not exceeded in 19 of 20 cases; None while too little is known."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    piece: bytes
    """May be part of a character; empty for control tokens."""


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Of one position of the answer."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]
    """Likeliest first."""


@dataclass(frozen=True, slots=True)
class Token:
    """New tokens: mostly one, and several where they came faster than they were read."""

    text: str
    """Whole characters. It lags behind the tokens while a character is incomplete, or a stop
    string possible."""
    token_ids: tuple[int, ...]
    index: int
    """Position of the first of them in the answer, from 0."""
    logprobs: tuple[PositionLogprobs, ...] = ()
    """One for each, where asked for."""


class PreemptionCause(StrEnum):
    SWAP = "swap"
    RECOMPUTE = "recompute"
    ENGINE_LOST = "engine_lost"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Preempted:
    """The request gave way to another, or lost its engine; it goes on by itself."""

    text: ClassVar[str] = ""
    cause: PreemptionCause | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The request runs again."""

    text: ClassVar[str] = ""
    paused_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int
    """Of the prompt, not computed because an earlier request had computed them."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What a request lived through; None where there was nothing to time or to hold."""

    total_s: float
    queue_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    num_preemptions: int = 0
    num_engine_losses: int = 0
    met_ttft: bool | None = None
    met_tpot: bool | None = None
    met_ttlt: bool | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the targets of a request that had some."""

    promised: bool | None
    held: bool
    miss_cause: MissCause | None
    """Why not, if not."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete: always the last event."""

    text: ClassVar[str] = ""
    reason: FinishReason | None
    """`stop` or `length`."""
    usage: Usage
    timings: Timings
    stop: str = ""
    """The stop string that was met."""
    outcome: Outcome | None = None
    """None if it had no targets."""


Event = Admitted | Queued | Token | Preempted | Resumed | Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]
    admitted: Admitted
    finished: Finished
