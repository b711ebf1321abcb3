"""One unfinished request: its replay, its stream, and what of its life the stream is told.

Theory of operation: the stream shows one pause at a time, but that a lost engine is told also to
one that is paused. A pause by preemption ends when the engine says so; one by a lost engine ends
when a token is delivered again, whatever the new engine does before. Nothing is told before the
request was admitted: only then its stream begins.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from edged.core.types import TIER_RANK, PreemptMode, RequestId, SloTier
from edged.engine.wire import Delta, Preempted, Queued, RequestAdmitted, Resumed
from edged.errors import EdgedError
from edged.supervise.model import RequestView, Submission
from edged.supervise.replay import Replay
from edged.supervise.stream import (
    PauseCause,
    RequestStream,
    StreamAdmitted,
    StreamDelta,
    StreamPaused,
    StreamQueued,
    StreamResumed,
)

_PAUSE_CAUSES: Mapping[PreemptMode, PauseCause] = {
    PreemptMode.PARK: PauseCause.PARK,
    PreemptMode.SWAP: PauseCause.SWAP,
    PreemptMode.RECOMPUTE: PauseCause.RECOMPUTE,
}


class Place(StrEnum):
    HELD = "held"
    ON_ENGINE = "on engine"
    RECALLED = "recalled"


class Timer(Protocol):
    def cancel(self) -> None: ...


class Entry:
    """Written by the book alone. Methods that tell the stream something return False when its
    reader is too slow: the stream has failed and the request is to be cancelled."""

    __slots__ = (
        "_is_engine_lost",
        "_paused_at_s",
        "end",
        "is_answered",
        "num_blames",
        "place",
        "replay",
        "stream",
        "timer",
        "was_sent",
    )

    def __init__(self, submission: Submission, stream: RequestStream) -> None:
        self.replay = Replay(submission)
        self.stream = stream
        self.place = Place.HELD
        self.was_sent = False
        """Some engine was given it."""
        self.is_answered = False
        """The engine that has it admitted it."""
        self.end: EdgedError | None = None
        """What it ends with as soon as its engine lets it go, or is lost."""
        self.num_blames = 0
        self.timer: Timer | None = None
        """Ends it while it is held."""
        self._paused_at_s: float | None = None
        self._is_engine_lost = False

    @property
    def request_id(self) -> RequestId:
        return self.replay.request_id

    def view(self) -> RequestView:
        """What the daemon knows of the request by itself."""
        replay = self.replay
        return RequestView(
            submission=replay.submission,
            is_held=self.place is not Place.ON_ENGINE,
            has_run=replay.has_run,
            num_prompt_tokens=replay.num_prompt_tokens,
            num_generated_tokens=replay.num_generated_tokens,
            past=replay.past,
        )

    def admit(self, event: RequestAdmitted) -> bool:
        """Raises EngineGarbageError: the prompt's ids are none."""
        is_new = not self.replay.is_admitted
        self.replay.admit(event.prompt_token_ids, event.promised)
        self.is_answered = True
        if not is_new:
            return True
        num_tokens = self.replay.num_prompt_tokens
        return self.stream.put(
            StreamAdmitted(
                event.request_id,
                event.position,
                event.predicted_ttft_s,
                num_tokens,
                event.promised,
            )
        )

    def deliver(self, delta: Delta, now_s: float) -> bool:
        """Pass on new tokens, which end a pause; a duplicate is dropped.

        Raises EngineGarbageError: the tokens do not follow those that were delivered.
        """
        if not self.replay.take(delta):
            return True
        is_read = True
        if self._paused_at_s is not None:
            is_read = self.stream.put(StreamResumed(now_s - self._paused_at_s))
            self._paused_at_s = None
            self._is_engine_lost = False
        event = StreamDelta(delta.index, delta.token_ids, delta.text, delta.logprobs)
        return self.stream.put(event) and is_read

    def tell(self, event: Queued | Preempted | Resumed, now_s: float) -> bool:
        """Pass on what became of it on the engine."""
        match event:
            case Queued(_, position, eta_s, eta_bound_s):
                if self._paused_at_s is not None:
                    return True
                return self.stream.put(StreamQueued(position, eta_s, eta_bound_s))
            case Preempted(_, mode):
                self.replay.preempt()
                if self._paused_at_s is not None:
                    return True
                self._paused_at_s = now_s
                return self.stream.put(StreamPaused(_PAUSE_CAUSES[mode]))
            case Resumed(_, paused_s):
                if self._paused_at_s is None or self._is_engine_lost:
                    return True
                self._paused_at_s = None
                return self.stream.put(StreamResumed(paused_s))

    def lose_engine(self, now_s: float) -> bool:
        """The engine was lost, or let it go so that a suspect can be tried alone."""
        if not self.replay.is_admitted or self._is_engine_lost:
            return True
        self._is_engine_lost = True
        if self._paused_at_s is None:
            self._paused_at_s = now_s
        return self.stream.put(StreamPaused(PauseCause.ENGINE_LOST))

    def held_until_s(self, max_queue_s: Mapping[SloTier, float | None]) -> float | None:
        """When it ends if no engine has it by then; None: never."""
        submission = self.replay.submission
        times_s = [submission.deadline_s]
        if self.replay.past.first_scheduled_s is None:
            waits_s = max_queue_s.get(submission.service.tier)
            times_s.append(None if waits_s is None else submission.arrival_s + waits_s)
        return min((at_s for at_s in times_s if at_s is not None), default=None)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def sorted_by_urgency(entries: Iterable[Entry]) -> list[RequestId]:
    """The more urgent tiers first, and the older of equals."""

    def urgency(entry: Entry) -> tuple[int, float]:
        submission = entry.replay.submission
        return TIER_RANK[submission.service.tier], submission.arrival_s

    return [entry.request_id for entry in sorted(entries, key=urgency)]
