"""The book of requests under every order of events that hypothesis can think of."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.clock import ManualClock
from edged.core.types import (
    FinishEvent,
    FinishReason,
    PreemptMode,
    RequestId,
    RequestTimings,
    SloTier,
)
from edged.engine.wire import (
    Cancel,
    Command,
    Delta,
    Finished,
    Preempted,
    RequestAdmitted,
    Resumed,
    StepEvents,
    StreamItem,
    Submit,
    TextPrompt,
)
from edged.errors import Reason
from edged.supervise.book import RequestBook
from edged.supervise.exits import Loss, LossKind
from edged.supervise.ports import BookLimits
from edged.supervise.stream import RequestStream
from tests.stub_engine import LATE, piece, token_at
from tests.supervise.harness import Transcript, read, submission

CRASH = Loss(LossKind.CRASHED, "crashed (SIGABRT)")
KILLED = Loss(LossKind.KILLED, "was killed from outside (SIGKILL)")
TIMINGS = RequestTimings(None, None, None, 0.0, 0, 0, None, None)


class Kind(StrEnum):
    INNOCENT = "say"
    POISON = "poison"
    """Crashes any step that computes it."""
    LATE_POISON = "late-poison"
    """Crashes any step that would draw its token LATE or later."""
    CHOKE = "choke"
    """Crashes the engine when its submission is read."""


class NoTimer:
    def cancel(self) -> None:
        pass


def never(delay_s: float, callback: Callable[[], None]) -> NoTimer:
    return NoTimer()


@dataclass
class Answer:
    text: str
    kind: Kind
    num_tokens: int
    max_tokens: int
    is_preempted: bool = False


@dataclass
class FakeEngine:
    """Takes commands late, computes any part of what it has, and dies of what it should die of."""

    is_writable: bool = True
    inbox: deque[Command] = field(default_factory=deque)
    answers: dict[RequestId, Answer] = field(default_factory=dict)

    def send(self, command: Command) -> None:
        self.inbox.append(command)

    @property
    def num_requests(self) -> int:
        return len(self.answers) + sum(isinstance(command, Submit) for command in self.inbox)

    def obey(self) -> RequestAdmitted | StepEvents | Loss | None:
        """One command."""
        command = self.inbox.popleft()
        if isinstance(command, Cancel):
            answer = self.answers.pop(command.request_id, None)
            return None if answer is None else cancelled(command.request_id, answer)
        assert isinstance(command, Submit)
        assert command.request_id not in self.answers, "a request is on the engine twice"
        prompt = command.prompt
        text = prompt.text if isinstance(prompt, TextPrompt) else bytes(prompt.token_ids).decode()  # type: ignore[union-attr]  # no chats here
        kind = Kind(text.split(" ")[0])
        if kind is Kind.CHOKE:
            return CRASH
        num_tokens = len(command.generated_token_ids)
        assert list(command.generated_token_ids) == [token_at(text, n) for n in range(num_tokens)]
        max_tokens = command.sampling.max_tokens
        assert max_tokens is not None
        self.answers[command.request_id] = Answer(text, kind, num_tokens, max_tokens)
        return RequestAdmitted(command.request_id, 0, 0.0, tuple(text.encode()))

    def step(self, executing: list[RequestId]) -> StepEvents | Loss:
        """Compute one token for each of these."""
        for request_id in executing:
            answer = self.answers[request_id]
            if answer.num_tokens == answer.max_tokens:
                continue  # a replay that lacks only its end: nothing of it is computed
            is_late = answer.num_tokens >= LATE
            if answer.kind is Kind.POISON or (answer.kind is Kind.LATE_POISON and is_late):
                return CRASH
        items: list[StreamItem] = []
        for request_id in executing:
            items += self._draw(request_id, self.answers[request_id])
        return StepEvents(tuple(items))

    def _draw(self, request_id: RequestId, answer: Answer) -> Iterator[StreamItem]:
        if answer.is_preempted:
            answer.is_preempted = False
            yield Resumed(request_id, 1.0)
        index = answer.num_tokens
        if index < answer.max_tokens:
            token_id = token_at(answer.text, index)
            answer.num_tokens += 1
            yield Delta(request_id, index, (token_id,), piece(token_id))
        if answer.num_tokens >= answer.max_tokens:
            del self.answers[request_id]
            yield finished(request_id, answer)


def finished(
    request_id: RequestId, answer: Answer, reason: FinishReason = FinishReason.LENGTH
) -> Finished:
    num_tokens = answer.num_tokens
    return Finished(FinishEvent(request_id, reason, len(answer.text), num_tokens, TIMINGS, ""))


def cancelled(request_id: RequestId, answer: Answer) -> StepEvents:
    """Its end, and the text before it that was held back until then."""
    rest = Delta(request_id, answer.num_tokens, (), "held back")
    return StepEvents((rest, finished(request_id, answer, FinishReason.CANCELLED)))


@dataclass
class Client:
    kind: Kind
    text: str
    max_tokens: int
    stream: RequestStream
    is_cancelled: bool = False


class BookMachine(RuleBasedStateMachine):
    """At the end all is driven on until nothing is left, and every stream is read."""

    def __init__(self) -> None:
        super().__init__()
        limits = BookLimits(max_held=1000, max_backlog_tokens=1000, max_queue_s={})
        self.clock = ManualClock()
        self.ended: list[RequestId] = []
        self.book = RequestBook(
            limits, self.clock, never, lambda replay, *_: self.ended.append(replay.request_id)
        )
        self.engine: FakeEngine | None = None
        self.clients: dict[RequestId, Client] = {}
        self.num_crashes = 0

    # ── What can happen ──────────────────────────────────────────────────────────────────────────

    @rule(
        kind=st.sampled_from([Kind.INNOCENT, *Kind]),
        tier=st.sampled_from(SloTier),
        max_tokens=st.integers(1, 8),
    )
    def submit(self, kind: Kind, tier: SloTier, max_tokens: int) -> None:
        request_id = RequestId(f"r{len(self.clients)}")
        text = f"{kind} {request_id}"
        stream = self.book.submit(submission(request_id, text, max_tokens=max_tokens, tier=tier))
        self.clients[request_id] = Client(kind, text, max_tokens, stream)

    @precondition(lambda self: self.engine is None)
    @rule()
    def start(self) -> None:
        self.engine = FakeEngine()
        self.book.attach(self.engine)

    @precondition(lambda self: self.engine is not None and self.engine.inbox)
    @rule(count=st.integers(1, 5), is_computing=st.booleans())
    def obey(self, count: int, is_computing: bool) -> None:
        """Text is read while the engine computes, or while it does not."""
        for _ in range(count):
            if self.engine is not None and self.engine.inbox:
                executing = sorted(self.engine.answers) if is_computing else []
                self.take(self.engine.obey(), executing)

    @precondition(lambda self: self.engine is not None and self.engine.answers)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        assert self.engine is not None
        known = sorted(self.engine.answers)
        executing = data.draw(st.lists(st.sampled_from(known), unique=True), label="executing")
        self.take(self.engine.step(executing), executing)

    @precondition(lambda self: self.engine is not None and self.engine.answers)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        assert self.engine is not None
        request_id = data.draw(st.sampled_from(sorted(self.engine.answers)), label="victim")
        self.engine.answers[request_id].is_preempted = True
        self.take(StepEvents((Preempted(request_id, PreemptMode.RECOMPUTE),)), [])

    @precondition(lambda self: self.engine is not None)
    @rule(data=st.data())
    def kill_from_outside(self, data: st.DataObject) -> None:
        assert self.engine is not None
        executing = data.draw(st.sets(st.sampled_from([RequestId("none"), *self.engine.answers])))
        self.take(KILLED, sorted(executing))

    @precondition(lambda self: self.engine is not None)
    @rule(is_writable=st.booleans())
    def fill_or_empty_the_pipe(self, is_writable: bool) -> None:
        assert self.engine is not None
        self.engine.is_writable = is_writable
        self.book.pump()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        client = self.clients[data.draw(st.sampled_from(sorted(self.clients)), label="client")]
        client.is_cancelled = True
        client.stream.cancel("told to")

    def take(
        self, outcome: RequestAdmitted | StepEvents | Loss | None, executing: list[RequestId]
    ) -> None:
        self.clock.advance(0.5)
        if isinstance(outcome, Loss):
            self.engine = None
            self.num_crashes += outcome.is_blamable
            self.book.lose(outcome, set(executing), has_questions=False)
            for request_id, client in self.clients.items():
                assert not (client.is_cancelled and self.book.knows(request_id))
        elif outcome is not None:
            self.book.take(outcome)
        self.nothing_runs_beside_a_suspect()

    # ── What must hold ───────────────────────────────────────────────────────────────────────────

    @invariant()
    def nothing_runs_beside_a_suspect(self) -> None:
        if self.book.tried is not None:
            assert self.engine is not None
            assert self.engine.num_requests == 1
            assert self.book.is_trying

    @invariant()
    def work_is_known_while_the_engine_has_any(self) -> None:
        if self.engine is not None and self.engine.num_requests:
            assert self.book.work.since_s is not None
        if self.engine is None:
            assert self.book.work.since_s is None

    def teardown(self) -> None:
        self.finish_everything()
        assert self.book.num_in_flight == 0
        assert sorted(self.ended) == sorted(self.clients), "each request ends once"
        poisons = [client for client in self.clients.values() if client.kind is not Kind.INNOCENT]
        assert self.num_crashes <= 2 * len(poisons)
        num_convicted = asyncio.run(self.check_streams())
        assert num_convicted == 0 or self.num_crashes > num_convicted, "convicted at first sight"

    def finish_everything(self) -> None:
        for _ in range(200 + 100 * len(self.clients)):
            if self.book.num_in_flight == 0:
                return
            if self.engine is None:
                self.start()
            assert self.engine is not None
            self.fill_or_empty_the_pipe(True)
            self.obey(1000, True)
            if self.engine is not None and self.engine.answers:
                executing = sorted(self.engine.answers)
                self.take(self.engine.step(executing), executing)

    async def check_streams(self) -> int:
        """How many were convicted."""
        num_convicted = 0
        for request_id, client in self.clients.items():
            transcript = await read(client.stream)
            check(request_id, client, transcript)
            num_convicted += transcript.reason is Reason.POISONED_REQUEST
        return num_convicted


def check(request_id: RequestId, client: Client, transcript: Transcript) -> None:
    if client.is_cancelled and transcript.reason is Reason.CANCELLED:
        expected = [token_at(client.text, n) for n in range(len(transcript.token_ids))]
        assert transcript.token_ids == expected
        return
    is_harmless = client.kind is Kind.INNOCENT or (
        client.kind is Kind.LATE_POISON and client.max_tokens <= LATE
    )
    if is_harmless:
        transcript.check_answer(client.text, client.max_tokens)
    else:
        assert transcript.error is not None
        assert transcript.reason is Reason.POISONED_REQUEST
        assert f"request {request_id} " in transcript.error.detail


TestBook = BookMachine.TestCase
TestBook.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
