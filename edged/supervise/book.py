"""Every unfinished request of one model: where it is, and what becomes of it.

Theory of operation: a request is *held* by the daemon, *on the engine*, or *recalled* from it. It
is held until there is an engine that takes commands, and again when that engine is lost; then its
replay goes to the next one. While suspects of a crash are tried (`blame`), one of them is on the
engine and everybody else is held; one that passed is recalled, so that nothing runs beside the
next. What a recalled request still sends is dropped: its replay draws the same again.

| from → to | when |
|---|---|
| held → on engine | the engine takes commands, and no trial forbids it |
| on engine → held | the engine was lost |
| on engine → recalled | its trial is passed and another suspect waits |
| recalled → held | the engine let it go, or was lost |
| any → ended | its one end, from the engine or from here |
"""

import asyncio
from collections import OrderedDict
from collections.abc import Set
from typing import assert_never

from edged.clock import Clock
from edged.core.types import FinishEvent, FinishReason, RequestId
from edged.engine.wire import (
    Cancel,
    Delta,
    Finished,
    Preempted,
    Queued,
    RequestAdmitted,
    RequestRefused,
    Resumed,
    StepEvents,
    StreamItem,
)
from edged.errors import EdgedError, Reason
from edged.supervise import ends
from edged.supervise.blame import Trials, judge
from edged.supervise.entry import Entry, Place, sorted_by_urgency
from edged.supervise.exits import Loss
from edged.supervise.model import RequestView, Submission
from edged.supervise.ports import BookLimits, CallLater, CommandSink, OnEnd
from edged.supervise.stall import EngineWork
from edged.supervise.stream import RequestStream, StreamFinished

MAX_REQUEST_ID_BYTES = 200
"""So that the ids of the largest batch fit the flight recorder's page."""
HELD_RETRY_S = 1.0


class RequestBook:
    """Owned by the event loop; every method returns at once."""

    def __init__(
        self, limits: BookLimits, clock: Clock, call_later: CallLater, on_end: OnEnd
    ) -> None:
        self._limits = limits
        self._on_end = on_end
        self._clock = clock
        self._call_later = call_later
        self._entries: dict[RequestId, Entry] = {}
        self._held: OrderedDict[RequestId, None] = OrderedDict()
        self._trials = Trials()
        self._sink: CommandSink | None = None
        self._work = EngineWork()
        self._num_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_in_flight(self) -> int:
        return len(self._entries)

    @property
    def num_progress(self) -> int:
        """Grows with every token that is delivered and every request that ends by itself."""
        return self._num_progress

    @property
    def work(self) -> EngineWork:
        """Since when the engine has had requests."""
        return self._work

    @property
    def tried(self) -> RequestId | None:
        """The suspect that has the engine for itself."""
        return self._trials.tried

    @property
    def is_trying(self) -> bool:
        """Suspects are being tried: the engine is to be given nothing else."""
        return not self._trials.are_over

    def views(self) -> list[RequestView]:
        """What the daemon itself knows of each request, wherever it is."""
        return [entry.view() for entry in self._entries.values()]

    def request_ids(self) -> list[RequestId]:
        return list(self._entries)

    def knows(self, request_id: RequestId) -> bool:
        return request_id in self._entries

    async def wait_until_idle(self) -> None:
        """Returns when there is no request."""
        await self._idle.wait()

    def set_limits(self, limits: BookLimits) -> None:
        """Others from now on; who is held already waits as long as they say."""
        self._limits = limits
        for request_id in self._held:
            self._set_timer(self._entries[request_id])

    # ── From the front ───────────────────────────────────────────────────────────────────────────

    def submit(self, submission: Submission) -> RequestStream:
        """Enter a request; it goes to the engine at once, or as soon as there is one.

        Raises:
            EdgedError: DUPLICATE_REQUEST, or QUEUE_FULL when as many as may be are held already.
        """
        request_id = submission.request_id
        size = len(request_id.encode())
        assert 0 < size <= MAX_REQUEST_ID_BYTES, f"a request id of {size} bytes"
        if request_id in self._entries:
            raise EdgedError(Reason.DUPLICATE_REQUEST, f"request {request_id} exists already")
        tier = submission.service.tier
        held = (self._entries[held_id] for held_id in self._held)
        num_new = sum(
            not entry.was_sent and entry.replay.submission.service.tier is tier for entry in held
        )
        if num_new >= self._limits.max_held:
            detail = f"{num_new} {tier} requests wait for the engine already, the most it may have"
            raise EdgedError(Reason.QUEUE_FULL, detail, retry_after_s=HELD_RETRY_S)
        stream = RequestStream(
            self._limits.max_backlog_tokens, lambda detail: self.cancel(request_id, detail)
        )
        entry = Entry(submission, stream)
        self._entries[request_id] = entry
        self._idle.clear()
        self._hold(entry)
        self.pump()
        return stream

    def cancel(self, request_id: RequestId, detail: str) -> None:
        """End a request with CANCELLED; on its engine before the next step. Unknown: nothing."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.end is None:
            self._end_soon(entry, EdgedError(Reason.CANCELLED, detail))

    def cancel_all(self, detail: str) -> None:
        for request_id in self.request_ids():
            self.cancel(request_id, detail)

    def fail_all(self, error: EdgedError) -> None:
        """End every request now; what its engine still does with it is ignored."""
        for entry in list(self._entries.values()):
            self._end(entry, entry.end or error)

    # ── From the engine ──────────────────────────────────────────────────────────────────────────

    def attach(self, sink: CommandSink) -> None:
        """There is an engine that is ready: give it what is held."""
        assert self._sink is None, "the book has an engine already"
        self._sink = sink
        self.pump()

    def detach(self) -> None:
        """The engine is ending; what it has not finished, `lose` or `fail_all` has dealt with."""
        self._sink = None

    def pump(self) -> None:
        """Give the engine what is held, as far as it takes it and trials allow it."""
        while self._sink is not None and self._sink.is_writable:
            entry = self._next()
            if entry is None:
                return
            self._give(entry, self._sink)

    def take(self, event: RequestAdmitted | RequestRefused | StepEvents) -> None:
        """Pass on what the engine says.

        Raises:
            EngineGarbageError: no healthy engine says it. What came before has been passed on.
        """
        match event:
            case RequestAdmitted():
                self._admitted(event)
            case RequestRefused():
                self._refused(event)
            case StepEvents(items):
                for item in items:
                    self._take_item(item)
                self._recall_passed()
            case _:
                assert_never(event)
        if self._held:
            self.pump()

    def note_scheduled(self, request_ids: Set[RequestId], at_s: float) -> None:
        """These were seen in a step that began at `at_s`."""
        for request_id in request_ids & self._entries.keys():
            self._entries[request_id].replay.schedule(at_s)

    def lose(self, loss: Loss, executing: Set[RequestId], *, has_questions: bool) -> Set[RequestId]:
        """The engine is gone: hold its requests for the next one, but for those that end here.

        `executing` are the requests of the step it died in. Returns the new suspects.
        """
        self.detach()
        self._trials.interrupt()
        lost = [entry for entry in self._entries.values() if entry.place is not Place.HELD]
        unanswered = {entry.request_id for entry in lost if not entry.is_answered}
        verdict = judge(
            {
                entry.request_id: entry.num_blames
                for entry in lost
                if entry.replay.has_run or entry.request_id in executing | unanswered
            },
            executing=executing,
            unanswered=unanswered,
            has_questions=has_questions,
            is_blamable=loss.is_blamable,
        )
        for entry in reversed(lost):  # whoever was on it goes first to the next, in the same order
            request_id = entry.request_id
            if entry.end is not None:
                self._end(entry, entry.end)
            elif request_id == verdict.convicted:
                self._end(entry, ends.poisoned(request_id, loss))
            else:
                is_blamed = request_id in verdict.suspects
                entry.num_blames += is_blamed
                # A replay passes the limits of admission; what was never admitted does not.
                if entry.replay.is_admitted or is_blamed:
                    entry.replay.lose_engine()
                self._hold(entry)
                self._heed(entry, entry.lose_engine(self._clock.now_s()))
        self._work.end()
        self._summon(verdict.suspects)
        return verdict.suspects

    # ── Inside: places ───────────────────────────────────────────────────────────────────────────

    def _next(self) -> Entry | None:
        """Which held request goes to the engine next."""
        if self._trials.are_over:
            return self._entries[next(iter(self._held))] if self._held else None
        if len(self._held) < len(self._entries):
            return None
        return self._entries[self._trials.first]

    def _give(self, entry: Entry, sink: CommandSink) -> None:
        request_id = entry.request_id
        del self._held[request_id]
        entry.stop_timer()
        entry.place = Place.ON_ENGINE
        entry.was_sent = True
        entry.is_answered = False
        if not self._trials.are_over:
            self._trials.begin()
        submit = entry.replay.submit()
        self._work.add(submit.prompt, self._clock.now_s())
        sink.send(submit)

    def _hold(self, entry: Entry) -> None:
        request_id = entry.request_id
        entry.place = Place.HELD
        self._held[request_id] = None
        if entry.was_sent:
            self._held.move_to_end(request_id, last=False)
        self._set_timer(entry)

    def _set_timer(self, entry: Entry) -> None:
        """A held request ends when its time is over."""
        entry.stop_timer()
        until_s = entry.held_until_s(self._limits.max_queue_s)
        if until_s is not None:
            delay_s = max(0.0, until_s - self._clock.now_s())
            entry.timer = self._call_later(delay_s, lambda: self._expire(entry))

    def _expire(self, entry: Entry) -> None:
        """A held request has waited or lived too long."""
        self._end(entry, ends.expired(entry.replay, self._clock.now_s()))
        self.pump()

    def _recall_passed(self) -> None:
        """Take who has passed its trial from the engine, so that the next suspect is alone."""
        if self._trials.are_over or self._trials.tried is not None or self._sink is None:
            return
        for entry in list(self._entries.values()):
            if entry.place is Place.ON_ENGINE and entry.end is None:
                entry.place = Place.RECALLED
                self._heed(entry, entry.lose_engine(self._clock.now_s()))
                self._sink.send(Cancel(entry.request_id, FinishReason.CANCELLED))

    def _let_go(self, entry: Entry) -> None:
        """The engine has no more to do with a request that was recalled."""
        if entry.end is not None:
            self._end(entry, entry.end)
            return
        self._hold(entry)
        self._note_work()

    def _end_soon(self, entry: Entry, error: EdgedError) -> None:
        """End a request here if it is held, else as soon as its engine lets it go."""
        if entry.place is Place.HELD:
            self._end(entry, error)
            self.pump()
            return
        entry.end = error
        if entry.place is Place.ON_ENGINE and self._sink is not None:
            self._sink.send(Cancel(entry.request_id, FinishReason.CANCELLED, error.detail))

    def _end(
        self, entry: Entry, error: EdgedError | None, event: FinishEvent | None = None
    ) -> None:
        """Forget a request; without an error its stream has its end already."""
        request_id = entry.request_id
        entry.stop_timer()
        del self._entries[request_id]
        self._held.pop(request_id, None)
        self._trials.dismiss(request_id)
        if error is not None:
            entry.stream.fail(error)
        self._on_end(entry.replay, event, error)
        self._note_work()
        if not self._entries:
            self._idle.set()

    def _note_work(self) -> None:
        if len(self._held) == len(self._entries):
            self._work.end()

    def _summon(self, suspects: Set[RequestId]) -> None:
        """Try the more urgent suspects first, and the older of equals."""
        known = self._entries.keys() & suspects
        self._trials.summon(sorted_by_urgency(self._entries[one] for one in known))

    # ── Inside: what an engine says ──────────────────────────────────────────────────────────────

    def _on_engine(self, request_id: RequestId) -> Entry | None:
        """None for a request that has ended here already, or was recalled."""
        entry = self._entries.get(request_id)
        return entry if entry is not None and entry.place is Place.ON_ENGINE else None

    def _admitted(self, event: RequestAdmitted) -> None:
        entry = self._on_engine(event.request_id)
        if entry is not None:
            self._heed(entry, entry.admit(event))

    def _refused(self, event: RequestRefused) -> None:
        entry = self._entries.get(event.request_id)
        if entry is not None and entry.place is not Place.HELD:
            self._end(entry, entry.end or ends.refused(event.refusal))

    def _take_item(self, item: StreamItem) -> None:
        if isinstance(item, Finished):
            self._finished(item)
            return
        entry = self._on_engine(item.request_id)
        if entry is None:
            return
        match item:
            case Delta():
                self._delta(entry, item)
            case Queued() | Preempted() | Resumed():
                self._heed(entry, entry.tell(item, self._clock.now_s()))
            case _:
                assert_never(item)

    def _delta(self, entry: Entry, delta: Delta) -> None:
        num_before = entry.replay.num_generated_tokens
        self._heed(entry, entry.deliver(delta, self._clock.now_s()))
        num_new = entry.replay.num_generated_tokens - num_before
        self._num_progress += num_new
        self._trials.deliver(delta.request_id, num_new)

    def _finished(self, item: Finished) -> None:
        event = item.event
        entry = self._entries.get(event.request_id)
        if entry is None or entry.place is Place.HELD:
            return
        if entry.place is Place.RECALLED:
            self._let_go(entry)
            return
        self._num_progress += 1
        if event.reason in (FinishReason.STOP, FinishReason.LENGTH):
            entry.stream.put(StreamFinished(event, item.stop_string or ""))
            self._end(entry, None, event)
        else:
            self._end(entry, entry.end or ends.finished(event), event)

    def _heed(self, entry: Entry, is_read: bool) -> None:
        """Cancel a request whose reader is too slow; its stream has failed already."""
        if not is_read:
            error = EdgedError(Reason.SLOW_READER, "the answer was read too slowly")
            self._end_soon(entry, error)
