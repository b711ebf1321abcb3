"""The I/O thread's requests: limits, and what happens while a prompt is being tokenized."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

import pytest

from backends.sim import SimBackend
from edged.backend import BackendConfig
from edged.clock import ManualClock
from edged.core.types import (
    Admitted,
    FinishReason,
    Rejected,
    RejectReason,
    RequestId,
    SampledToken,
    SeqId,
    TokenEvent,
)
from edged.engine.desk import (
    LARGE_PROMPT_CHARACTERS,
    MAX_INSPECT_CALLS,
    MAX_TOKENIZE_CALLS,
    SPARE_REQUESTS,
    Desk,
)
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
from edged.engine.text import PromptEncoder
from edged.engine.translate import ready
from edged.engine.wire import (
    Cancel,
    Event,
    Inspect,
    Inspected,
    Ready,
    Refusal,
    RequestAdmitted,
    RequestRefused,
    SetTiers,
    Start,
    StepEvents,
    TextPrompt,
    Tokenize,
    Tokenized,
)
from edged.errors import Reason
from tests.engine.process import start_command, submit
from tests.factories import tiers

LARGE = "x" * (LARGE_PROMPT_CHARACTERS + 1)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class PatientExecutor(Executor):
    """Runs nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.futures: list[Future[Any]] = []

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        future: Future[Result] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self.jobs.append(job)
        self.futures.append(future)
        return future

    def run_all(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


class Counter:
    """A desk with everything around it in reach."""

    def __init__(self, start: Start | None = None) -> None:
        self.posted: list[EngineCommand] = []
        self.sent: list[Event] = []
        self.executor = PatientExecutor()
        self.desk = Desk(
            start or start_command(),
            post=self.posted.append,
            send=self.sent.append,
            executor=self.executor,
            run_in_loop=lambda function: function(),
        )
        backend = SimBackend(BackendConfig(model_path=""), ManualClock())
        encoder = PromptEncoder(backend.tokenizer, backend.info)
        self.desk.take(Loaded(ready(backend, start_command()), backend.tokenizer, encoder))
        assert isinstance(self.sent.pop(), Ready)

    def refused(self) -> list[RequestRefused]:
        return [event for event in self.sent if isinstance(event, RequestRefused)]

    def refusals(self) -> list[Refusal]:
        return [event.refusal for event in self.refused()]


def test_a_small_prompt_is_posted_at_once_and_a_large_one_when_it_is_tokenized() -> None:
    counter = Counter()
    counter.desk.obey(submit("large", prompt=LARGE))
    counter.desk.obey(submit("small"))
    posted = [command.request.request_id for command in counter.posted]  # type: ignore[union-attr]  # only submissions were posted
    assert posted == ["small"]
    counter.executor.run_all()
    last = counter.posted[-1]
    assert isinstance(last, SubmitRequest)
    assert last.request.request_id == "large"
    assert len(last.request.prompt_token_ids) == len(LARGE) + 1


def test_a_request_cancelled_while_it_is_tokenized_is_refused_and_never_posted() -> None:
    counter = Counter()
    counter.desk.obey(submit(prompt=LARGE))
    counter.desk.obey(Cancel(RequestId("r"), FinishReason.DEADLINE, "too late"))
    counter.executor.run_all()
    assert counter.posted == []
    (refusal,) = counter.refusals()
    assert (refusal.reason, refusal.detail) == (Reason.DEADLINE_EXCEEDED, "too late")


def test_a_cancelled_prompt_that_is_being_tokenized_counts_until_it_is_done() -> None:
    counter = Counter()
    most = counter.desk.max_pending
    for i in range(most):
        counter.desk.obey(submit(f"r{i}", prompt=LARGE))
        counter.executor.futures[i].set_running_or_notify_cancel()
        counter.desk.obey(Cancel(RequestId(f"r{i}"), FinishReason.CANCELLED))
    counter.desk.obey(submit("more", prompt=LARGE))
    assert counter.refusals()[-1].reason is Reason.QUEUE_FULL
    counter.executor.futures[0].set_result((1,))
    counter.desk.obey(submit("next", prompt=LARGE))
    assert len(counter.executor.futures) == most + 1


def test_a_request_sent_again_after_its_cancel_is_tokenized_for_itself() -> None:
    counter = Counter()
    counter.desk.obey(submit(prompt=LARGE))
    counter.desk.obey(Cancel(RequestId("r"), FinishReason.CANCELLED))
    counter.desk.obey(submit(prompt=LARGE + "y"))
    counter.executor.run_all()
    (command,) = counter.posted
    assert isinstance(command, SubmitRequest)
    assert len(command.request.prompt_token_ids) == len(LARGE) + 2


def test_a_bad_large_prompt_is_refused_by_its_field() -> None:
    counter = Counter()
    large = submit(prompt=LARGE)
    counter.desk.obey(large)
    counter.desk.obey(submit("chat", prompt=TextPrompt("")))
    counter.executor.run_all()
    (refused,) = counter.refused()
    assert (refused.request_id, refused.refusal.field) == ("chat", "prompt.text")


@pytest.mark.parametrize("prompt", ["hello", LARGE])
def test_a_second_request_of_the_same_id_is_refused(prompt: str) -> None:
    counter = Counter()
    counter.desk.obey(submit(prompt=prompt))
    counter.desk.obey(submit(prompt="other"))
    assert [refusal.reason for refusal in counter.refusals()] == [Reason.DUPLICATE_REQUEST]


def test_requests_the_engine_has_not_answered_are_bounded() -> None:
    counter = Counter(start_command(max_sequences=2, tiers=tiers(max_waiting=3)))
    most = counter.desk.max_pending
    assert most == 2 + 3 * 3 + SPARE_REQUESTS
    for i in range(most + 1):
        counter.desk.obey(submit(f"r{i}", prompt=LARGE if i % 2 else "small"))
    (refused,) = counter.refused()
    assert (refused.request_id, refused.refusal.reason) == (f"r{most}", Reason.QUEUE_FULL)
    assert refused.refusal.retry_after_s
    assert len(counter.posted) + len(counter.executor.jobs) == most
    counter.desk.take(Progress([Answered(RequestId("r0"), Admitted(SeqId(0), 0, 0.1))], 1.0))
    counter.desk.obey(submit("next"))
    assert len(counter.refusals()) == 1


def test_other_tiers_are_posted_and_change_what_may_wait() -> None:
    counter = Counter(start_command(max_sequences=2, tiers=tiers(max_waiting=3)))
    changed = tuple(tiers(max_waiting=5).values())
    counter.desk.obey(SetTiers(changed))
    assert counter.posted == [ChangeTiers(changed)]
    assert counter.desk.max_pending == 2 + 3 * 5 + SPARE_REQUESTS


def test_large_prompts_that_are_only_counted_are_bounded() -> None:
    counter = Counter()
    for call_id in range(MAX_TOKENIZE_CALLS + 1):
        counter.desk.obey(Tokenize(call_id, TextPrompt(LARGE)))
    (refused,) = counter.sent
    assert isinstance(refused, Tokenized)
    assert refused.call_id == MAX_TOKENIZE_CALLS
    assert refused.refusal is not None
    assert refused.refusal.reason is Reason.QUEUE_FULL
    counter.executor.run_all()
    counter.desk.obey(Tokenize(1000, TextPrompt(LARGE)))
    counter.executor.run_all()
    last = counter.sent[-1]
    assert isinstance(last, Tokenized)
    assert (last.call_id, last.refusal, len(last.token_ids)) == (1000, None, len(LARGE) + 1)


def test_a_bad_prompt_that_is_only_counted_is_refused_by_its_field() -> None:
    counter = Counter()
    counter.desk.obey(Tokenize(1, TextPrompt("")))
    detail = "prompt.text: is empty; text is needed"
    refusal = Refusal(Reason.INVALID_ARGUMENT, detail, "prompt.text")
    assert counter.sent == [Tokenized(1, (), refusal)]


def test_a_rejected_request_is_forgotten() -> None:
    counter = Counter()
    counter.desk.obey(submit())
    rejected = Rejected(RejectReason.CLIENT_SHARE, "your share", 2.5)
    counter.desk.take(Progress([Answered(RequestId("r"), rejected)], 1.0))
    (refusal,) = counter.refusals()
    assert (refusal.reason, refusal.retry_after_s) == (Reason.CLIENT_SHARE, 2.5)
    counter.desk.obey(submit())
    assert len(counter.posted) == 2


def test_tokens_drawn_after_a_stop_string_are_dropped_and_the_engine_is_told_once() -> None:
    counter = Counter()
    counter.desk.obey(submit(stop=("b",)))
    tokens = [TokenEvent(RequestId("r"), i, SampledToken(ord(c))) for i, c in enumerate("abbc")]
    admitted = Answered(RequestId("r"), Admitted(SeqId(0), 0, 0.1))
    counter.desk.take(Progress([admitted, *tokens[:2]], 1.0))
    counter.desk.take(Progress(tokens[2:], 2.0))
    counter.desk.obey(Cancel(RequestId("r"), FinishReason.CANCELLED))
    assert counter.posted[1:] == [CancelRequest(RequestId("r"), FinishReason.STOP)]
    first, second = counter.sent
    assert isinstance(first, RequestAdmitted)
    assert isinstance(second, StepEvents)
    assert [item.text for item in second.items] == ["a", ""]  # type: ignore[union-attr]  # deltas only


def test_calls_to_inspect_share_one_look_unless_they_came_after_it() -> None:
    counter = Counter()
    for call_id in (1, 2, 3):
        counter.desk.obey(Inspect(call_id))
    assert counter.posted == [InspectRequests()]
    counter.desk.take(RequestStates(()))
    assert counter.sent == [Inspected(1, ())]
    assert counter.posted == [InspectRequests()] * 2
    counter.desk.take(RequestStates(()))
    assert counter.sent == [Inspected(call_id, ()) for call_id in (1, 2, 3)]
    assert len(counter.posted) == 2


def test_calls_to_inspect_that_wait_for_a_busy_engine_are_bounded() -> None:
    counter = Counter()
    for call_id in range(MAX_INSPECT_CALLS + 2):
        counter.desk.obey(Inspect(call_id))
    counter.desk.take(RequestStates(()))
    counter.desk.take(RequestStates(()))
    answered = [event.call_id for event in counter.sent if isinstance(event, Inspected)]
    assert answered == [0, *range(2, MAX_INSPECT_CALLS + 2)]


def test_a_replay_enters_however_many_wait() -> None:
    counter = Counter(start_command(max_sequences=1, tiers=tiers(max_waiting=1)))
    for i in range(counter.desk.max_pending):
        counter.desk.obey(submit(f"r{i}", prompt="small"))
    counter.desk.obey(submit("replay", num_engine_losses=1))
    assert counter.refused() == []
    assert len(counter.posted) == counter.desk.max_pending + 1
