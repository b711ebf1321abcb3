"""Requests in the engine process, from their command to their last event; the I/O thread's part.

Theory of operation: a request is first *encoding* (its prompt is being tokenized, for large ones on
another thread), then *unanswered* (posted to the engine thread), then admitted, until its finish.
Encoding and unanswered requests together are bounded by what the scheduler could hold plus
`SPARE_REQUESTS`, so a burst is declined by the scheduler, which knows why, and a flood is declined
here. A replay passes both: it was admitted once. Events of one step leave in one frame.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from functools import partial
from typing import assert_never

from edged.core.types import (
    FinishEvent,
    FinishReason,
    PreemptEvent,
    QueueEvent,
    Rejected,
    Request,
    RequestId,
    ResumeEvent,
    TierSpec,
    TokenEvent,
)
from edged.engine.answers import Answer
from edged.engine.mailbox import (
    Answered,
    CancelRequest,
    ChangeTiers,
    EngineCommand,
    InspectRequests,
    Loaded,
    Progress,
    RequestStates,
    SubmitRequest,
)
from edged.engine.translate import REJECT_REASONS
from edged.engine.wire import (
    FAILURE_REASONS,
    Cancel,
    Event,
    Inspect,
    Inspected,
    Loading,
    Preempted,
    Prompt,
    Queued,
    Refusal,
    RequestAdmitted,
    RequestRefused,
    Resumed,
    SetTiers,
    Start,
    Statistics,
    StepEvents,
    StreamItem,
    Submit,
    Tokenize,
    Tokenized,
    Warned,
    num_characters,
)
from edged.errors import EdgedError, Reason

SPARE_REQUESTS = 256
MAX_TOKENIZE_CALLS = 64
"""`Tokenize` commands with a large prompt that are being worked on."""
MAX_INSPECT_CALLS = 1024
"""`Inspect` commands that wait for the engine; with one more the oldest is not answered: nobody
waits for it any more."""
LARGE_PROMPT_CHARACTERS = 8192
"""Longer prompts are tokenized on another thread: about 10 ms of llama.cpp's BPE."""
RETRY_S = 1.0

DeskReport = Loading | Loaded | Progress | RequestStates | Statistics | Warned
RunInLoop = Callable[[Callable[[], None]], object]
"""Runs a function on the I/O thread soon; called from any thread."""


class Desk:
    def __init__(
        self,
        start: Start,
        *,
        post: Callable[[EngineCommand], None],
        send: Callable[[Event], None],
        executor: Executor,
        run_in_loop: RunInLoop,
    ) -> None:
        """`post` hands a command to the engine thread, `send` an event to the daemon."""
        self._max_sequences = start.max_sequences
        self.max_pending = self._most_pending(start.tiers)
        self._post = post
        self._send = send
        self._executor = executor
        self._run_in_loop = run_in_loop
        self._loaded: Loaded | None = None
        self._encoding: dict[RequestId, Future[tuple[int, ...]]] = {}
        """Large prompts on the other thread; a cancelled one that was begun is here no more, but is
        counted until it is done."""
        self._num_encodings = 0
        self._unanswered: set[RequestId] = set()
        self._answers: dict[RequestId, Answer] = {}
        self._num_tokenize_calls = 0
        self._inspecting: tuple[int, ...] = ()
        """Calls that the next `RequestStates` answers."""
        self._inspecting_next: deque[int] = deque(maxlen=MAX_INSPECT_CALLS)
        """Calls that came after it was asked for."""

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    # ── Commands of the daemon ───────────────────────────────────────────────────────────────────

    def obey(self, command: Submit | Cancel | Tokenize | Inspect | SetTiers) -> None:
        match command:
            case Submit():
                self._submit(command)
            case Cancel(request_id, reason, detail):
                self._cancel(request_id, reason, detail)
            case Tokenize(call_id, prompt):
                self._tokenize(call_id, prompt)
            case Inspect(call_id):
                self._inspecting_next.append(call_id)
                self._inspect()
            case SetTiers(tiers):
                self.max_pending = self._most_pending(tiers)
                self._post(ChangeTiers(tiers))
            case _:
                assert_never(command)

    def _most_pending(self, tiers: Iterable[TierSpec]) -> int:
        most_held = self._max_sequences + sum(spec.max_waiting for spec in tiers)
        return most_held + SPARE_REQUESTS

    def _submit(self, submit: Submit) -> None:
        request_id = submit.request_id
        is_replay = submit.past.num_engine_losses > 0
        if self._loaded is None:
            detail = "the model is still loading"
            self._refuse(
                request_id, EdgedError(Reason.MODEL_LOADING, detail, retry_after_s=RETRY_S)
            )
        elif request_id in self._answers or request_id in self._encoding:
            detail = f"request {request_id} exists already"
            self._refuse(request_id, EdgedError(Reason.DUPLICATE_REQUEST, detail))
        elif not is_replay and self._num_encodings + len(self._unanswered) >= self.max_pending:
            detail = f"{self.max_pending} requests wait for admission already"
            self._refuse(request_id, EdgedError(Reason.QUEUE_FULL, detail, retry_after_s=RETRY_S))
        elif _is_large(submit.prompt):
            self._num_encodings += 1
            take = partial(self._encoded, submit)
            self._encoding[request_id] = self._encode_aside(submit.prompt, take)
        else:
            self._enter(submit, partial(self._loaded.encoder.encode, submit.prompt))

    def _encode_aside(
        self, prompt: Prompt, take: Callable[[Future[tuple[int, ...]]], None]
    ) -> Future[tuple[int, ...]]:
        """Tokenize on another thread; `take` gets the outcome on this one."""
        assert self._loaded is not None, "a prompt is encoded before the model is loaded"
        future = self._executor.submit(self._loaded.encoder.encode, prompt)
        future.add_done_callback(lambda done: self._run_in_loop(partial(take, done)))
        return future

    def _encoded(self, submit: Submit, future: Future[tuple[int, ...]]) -> None:
        self._num_encodings -= 1
        if self._encoding.get(submit.request_id) is future:  # else it was cancelled meanwhile
            del self._encoding[submit.request_id]
            self._enter(submit, future.result)

    def _enter(self, submit: Submit, encode: Callable[[], tuple[int, ...]]) -> None:
        """Hand a request to the engine thread, or refuse it for what `encode` raises."""
        assert self._loaded is not None, "a request enters before the model is loaded"
        request_id = submit.request_id
        try:
            prompt_token_ids = encode()
            self._loaded.encoder.check_sampling(submit.sampling)
        except EdgedError as error:
            self._refuse(request_id, error)
            return
        answer = Answer(submit, prompt_token_ids, self._loaded.tokenizer.piece)
        self._answers[request_id] = answer
        self._unanswered.add(request_id)
        self._post(SubmitRequest(_request(submit, prompt_token_ids)))
        if answer.is_complete:  # a replay whose engine was lost before it heard of the stop string
            self._end(answer, FinishReason.STOP)

    def _cancel(self, request_id: RequestId, reason: FinishReason, detail: str) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            self._end(answer, reason, detail)
        elif (encoding := self._encoding.pop(request_id, None)) is not None:
            encoding.cancel()
            self._refuse(request_id, EdgedError(FAILURE_REASONS[reason], detail))

    def _end(self, answer: Answer, reason: FinishReason, detail: str = "") -> None:
        """Ask the engine, once, to end a request; its finish event follows."""
        if not answer.is_ending:
            answer.is_ending = True
            self._post(CancelRequest(answer.request_id, reason, detail))

    def _tokenize(self, call_id: int, prompt: Prompt) -> None:
        if self._loaded is None:
            detail = "the model is still loading"
            error = EdgedError(Reason.MODEL_LOADING, detail, retry_after_s=RETRY_S)
            self._send(Tokenized(call_id, (), _refusal(error)))
        elif not _is_large(prompt):
            self._tokenized(call_id, partial(self._loaded.encoder.encode, prompt))
        elif self._num_tokenize_calls >= MAX_TOKENIZE_CALLS:
            detail = f"{MAX_TOKENIZE_CALLS} large prompts are being tokenized already"
            error = EdgedError(Reason.QUEUE_FULL, detail, retry_after_s=RETRY_S)
            self._send(Tokenized(call_id, (), _refusal(error)))
        else:
            self._num_tokenize_calls += 1
            self._encode_aside(prompt, partial(self._tokenized_aside, call_id))

    def _tokenized_aside(self, call_id: int, future: Future[tuple[int, ...]]) -> None:
        self._num_tokenize_calls -= 1
        self._tokenized(call_id, future.result)

    def _tokenized(self, call_id: int, encode: Callable[[], tuple[int, ...]]) -> None:
        try:
            self._send(Tokenized(call_id, encode()))
        except EdgedError as error:
            self._send(Tokenized(call_id, (), _refusal(error)))

    def _inspect(self) -> None:
        """Ask the engine thread, unless it was asked already and has not answered."""
        if self._inspecting:
            return
        self._inspecting = tuple(self._inspecting_next)
        self._inspecting_next.clear()
        if self._loaded is None:
            self._inspected(RequestStates(()))
        else:
            self._post(InspectRequests())

    def _refuse(self, request_id: RequestId, error: EdgedError) -> None:
        self._send(RequestRefused(request_id, _refusal(error)))

    # ── Reports of the engine thread ─────────────────────────────────────────────────────────────

    def take(self, report: DeskReport) -> None:
        match report:
            case Loaded(ready):
                self._loaded = report
                self._send(ready)
            case Loading() | Statistics() | Warned():
                self._send(report)
            case RequestStates():
                self._inspected(report)
                if self._inspecting_next:
                    self._inspect()
            case Progress():
                self._progress(report)
            case _:
                assert_never(report)

    def _inspected(self, report: RequestStates) -> None:
        for call_id in self._inspecting:
            self._send(Inspected(call_id, report.states))
        self._inspecting = ()

    def _progress(self, progress: Progress) -> None:
        items: list[StreamItem] = []
        at_s = progress.at_s
        for event in progress.events:
            match event:
                case TokenEvent():
                    self._token(event, at_s, items)
                case FinishEvent():
                    delta, finished = self._answers.pop(event.request_id).end(event, at_s)
                    items.extend((finished,) if delta is None else (delta, finished))
                case PreemptEvent(request_id, mode):
                    items.append(Preempted(request_id, mode))
                case ResumeEvent(request_id, paused_s):
                    items.append(Resumed(request_id, paused_s))
                case Answered():
                    self._answered(event)
                case QueueEvent(request_id, position, eta_s, eta_bound_s):
                    items.append(Queued(request_id, position, eta_s, eta_bound_s))
                case _:
                    assert_never(event)
        if items:
            self._send(StepEvents(tuple(items)))

    def _token(self, event: TokenEvent, at_s: float, items: list[StreamItem]) -> None:
        answer = self._answers[event.request_id]
        delta = answer.take(event, at_s)
        if delta is not None:
            items.append(delta)
            if answer.is_complete:
                self._end(answer, FinishReason.STOP)

    def _answered(self, event: Answered) -> None:
        request_id, outcome = event.request_id, event.outcome
        self._unanswered.discard(request_id)
        if isinstance(outcome, Rejected):
            del self._answers[request_id]
            reason = REJECT_REASONS[outcome.reason]
            field = "prompt" if reason is Reason.PROMPT_TOO_LONG else None
            refusal = Refusal(reason, outcome.detail, field, outcome.retry_after_s)
            self._send(RequestRefused(request_id, refusal))
            return
        prompt_token_ids = self._answers[request_id].prompt_token_ids
        self._send(
            RequestAdmitted(
                request_id,
                outcome.position,
                outcome.predicted_ttft_s,
                prompt_token_ids,
                outcome.promised,
            )
        )


def _refusal(error: EdgedError) -> Refusal:
    field = error.violations[0].field if error.violations else None
    return Refusal(error.reason, error.detail, field, error.retry_after_s)


def _is_large(prompt: Prompt) -> bool:
    return num_characters(prompt) > LARGE_PROMPT_CHARACTERS


def _request(submit: Submit, prompt_token_ids: tuple[int, ...]) -> Request:
    return Request(
        request_id=submit.request_id,
        client_id=submit.client_id,
        prompt_token_ids=prompt_token_ids,
        sampling=submit.sampling,
        service=submit.service,
        arrival_s=submit.arrival_s,
        deadline_s=submit.deadline_s,
        generated_token_ids=submit.generated_token_ids,
        past=submit.past,
        expected_tokens=submit.expected_tokens,
        on_unattainable=submit.on_unattainable,
    )
