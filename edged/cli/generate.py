"""Asks for one answer and streams it: the heart of `edgectl run` and `edgectl chat`."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import grpc

from edged.cli.as_json import enum_name, event_as_json
from edged.cli.exits import CommandError
from edged.cli.output import OutputClosedError, emit, emit_generated, emit_json, note
from edged.cli.progress import follow_loading, is_loading, while_loading
from edged.cli.remote import Connection
from edged.clock import Clock, MonotonicClock
from edged.core.types import SloTier
from edged.v1 import admin_pb2, inference_pb2

CANCEL_TIMEOUT_S = 2.0
IDLE_S = 30.0
"""Longest silence in an answer: three of the longest pauses between a daemon's heartbeats."""
_WATCH_INTERVAL_S = 0.1

_TIERS = {
    SloTier.INTERACTIVE: inference_pb2.TIER_INTERACTIVE,
    SloTier.STANDARD: inference_pb2.TIER_STANDARD,
    SloTier.BATCH: inference_pb2.TIER_BATCH,
}


@dataclass(frozen=True, slots=True)
class Targets:
    """Put over the tier's, in seconds."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    ttlt_s: float | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask, the same for every turn. None leaves a thing to the server."""

    model: str = ""
    tier: SloTier | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    client: str = "edgectl"
    targets: Targets = Targets()
    expected_tokens: int | None = None
    or_reject: bool = False
    """Whether it is to be refused if its targets cannot be promised."""
    limit_s: float | None = None
    """Longest time from now to the end of the answer, loading included."""
    idle_s: float = IDLE_S
    """Longest time without a sign of life in it."""
    json: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


Conversation = tuple[Turn, ...]
Prompt = str | Conversation
"""Plain text goes to the model as it is; a conversation goes through the model's template."""


class Asker:
    """Asks one daemon for answers."""

    def __init__(self, connection: Connection, asking: Asking, clock: Clock | None = None) -> None:
        self._connection = connection
        self._asking = asking
        self._clock = clock or MonotonicClock()

    def ask(self, prompt: Prompt, answer: "Answer") -> None:
        """Stream one answer to stdout and into `answer`, which keeps what came before an error.

        Interrupting it, or closing its output, cancels the request on the server first.

        Raises:
            CommandError: the answer did not come to its end.
        """
        started_s = self._clock.now_s()
        self._wait_until_loaded()
        limit_s = self._asking.limit_s
        if limit_s is not None:
            # gRPC answers a call whose time is over at once, so zero needs no case of its own.
            limit_s = max(0.0, limit_s - (self._clock.now_s() - started_s))
        call = self._connection.inference.Generate(
            self._request(prompt), timeout=limit_s, metadata=self._connection.metadata
        )
        try:
            for response in self._connection.each(call, self._asking.limit_s, self._asking.idle_s):
                self._take(response, answer)
        except (KeyboardInterrupt, OutputClosedError):
            self._cancel(call, answer.request_id)
            raise
        finally:
            if answer.text and not answer.text.endswith("\n") and not self._asking.json:
                with suppress(OutputClosedError):
                    emit("\n")
        if not answer.is_finished:
            raise CommandError("the daemon ended the answer without saying why")

    def _take(self, response: inference_pb2.GenerateResponse, answer: "Answer") -> None:
        kind = response.WhichOneof("event")
        if kind == "admitted":
            answer.request_id = response.admitted.request_id
        elif kind == "finished":
            answer.is_finished = True
        elif kind == "token":
            answer.text += response.token.text
        if self._asking.json:
            event = event_as_json(response, "event")
            if event is not None:
                emit_json(event)
        elif kind == "token":
            emit_generated(response.token.text)
        elif self._asking.verbose:
            # On a terminal both streams share a line, which the answer may have begun.
            shares_line = answer.text and not answer.text.endswith("\n") and sys.stdout.isatty()
            for line in _told(response):
                note(f"\n{line}" if shares_line else line)

    def _cancel(self, call: grpc.Call, request_id: str) -> None:
        """Cancel, and wait shortly until the server has seen it."""
        call.cancel()
        if not request_id:
            return
        request = admin_pb2.CancelRequest(request_id=request_id)
        # It has mostly ended by itself when this arrives, and then it is unknown: just as good.
        with suppress(grpc.RpcError):
            self._connection.admin.Cancel(
                request, timeout=CANCEL_TIMEOUT_S, metadata=self._connection.metadata
            )

    def _wait_until_loaded(self) -> None:
        """Show the progress of a model that is loading. One that failed is left to the answer, and
        so is a daemon that tells no progress."""
        connection = self._connection
        answer = connection.call(connection.admin.GetStatus, admin_pb2.GetStatusRequest())
        model = self._model_in(answer.status)
        if model is None or not is_loading(model):
            return
        request = admin_pb2.WatchStatusRequest(interval_s=_WATCH_INTERVAL_S)
        watch = connection.admin.WatchStatus(
            request, timeout=self._asking.limit_s, metadata=connection.metadata
        )
        states = connection.each(watch, self._asking.limit_s)
        models = (found for state in states if (found := self._model_in(state.status)))
        with suppress(CommandError):
            follow_loading(model.name, while_loading(models))
        watch.cancel()

    def _model_in(self, status: admin_pb2.Status) -> admin_pb2.Model | None:
        wanted = self._asking.model
        for model in status.models:
            if model.name == wanted or (not wanted and model.is_default):
                return model
        return None

    def _request(self, prompt: Prompt) -> inference_pb2.GenerateRequest:
        asking = self._asking
        tier = inference_pb2.TIER_UNSPECIFIED if asking.tier is None else _TIERS[asking.tier]
        return inference_pb2.GenerateRequest(
            model=asking.model,
            prompt=_prompt(prompt),
            sampling=inference_pb2.Sampling(
                max_tokens=asking.max_tokens,
                temperature=asking.temperature,
                top_k=asking.top_k,
                top_p=asking.top_p,
                min_p=asking.min_p,
                seed=asking.seed,
                stop=asking.stop,
            ),
            tier=tier,
            targets=inference_pb2.Targets(
                ttft_s=asking.targets.ttft_s,
                tpot_s=asking.targets.tpot_s,
                ttlt_s=asking.targets.ttlt_s,
            ),
            client=asking.client,
            expected_tokens=asking.expected_tokens,
            on_unattainable=(
                inference_pb2.ON_UNATTAINABLE_REJECT
                if asking.or_reject
                else inference_pb2.ON_UNATTAINABLE_BEST_EFFORT
            ),
        )


@dataclass(slots=True)
class Answer:
    """What came of one answer so far."""

    request_id: str = ""
    text: str = ""
    is_finished: bool = False


def _prompt(prompt: Prompt) -> inference_pb2.Prompt:
    if isinstance(prompt, str):
        return inference_pb2.Prompt(text=prompt)
    messages = [inference_pb2.ChatMessage(role=turn.role, content=turn.content) for turn in prompt]
    return inference_pb2.Prompt(chat=inference_pb2.ChatPrompt(messages=messages))


def _told(response: inference_pb2.GenerateResponse) -> Iterator[str]:
    """What `--verbose` says of an event that is not text."""
    match response.WhichOneof("event"):
        case "admitted":
            admitted = response.admitted
            yield (
                f"request {admitted.request_id}: {admitted.num_prompt_tokens} prompt tokens, "
                f"position {admitted.position}, first token expected after "
                f"{admitted.predicted_ttft_s:.2f} s{_promise(admitted)}"
            )
        case "queued":
            queued = response.queued
            most = f", at most {queued.eta_bound_s:.1f} s" if queued.HasField("eta_bound_s") else ""
            yield (
                f"waiting at position {queued.position}, first token expected in "
                f"{queued.eta_s:.1f} s{most}"
            )
        case "preempted":
            descriptor = inference_pb2.PreemptionCause.DESCRIPTOR
            yield f"preempted ({enum_name(descriptor, response.preempted.cause)})"
        case "resumed":
            yield f"resumed after {response.resumed.paused_s:.2f} s"
        case "finished":
            reason = enum_name(inference_pb2.FinishReason.DESCRIPTOR, response.finished.reason)
            yield f"finished ({reason}): {_figures(response.finished)}"
            if response.finished.HasField("outcome"):
                yield _outcome(response.finished)


def _promise(admitted: inference_pb2.Admitted) -> str:
    if not admitted.HasField("promised"):
        return ""
    return ", targets promised" if admitted.promised else ", targets not promised"


def _outcome(finished: inference_pb2.Finished) -> str:
    outcome, timings = finished.outcome, finished.timings
    if outcome.held:
        return "targets held"
    cause = enum_name(inference_pb2.MissCause.DESCRIPTOR, outcome.miss_cause)
    promised = ", though promised" if outcome.promised else ""
    met = {
        "TTFT": not timings.HasField("met_ttft") or timings.met_ttft,
        "TPOT": not timings.HasField("met_tpot") or timings.met_tpot,
        "TTLT": not timings.HasField("met_ttlt") or timings.met_ttlt,
    }
    missed = " and ".join(name for name, is_met in met.items() if not is_met) or "deadline"
    return f"{missed} missed{promised}: {cause}"


def _figures(finished: inference_pb2.Finished) -> str:
    timings, usage = finished.timings, finished.usage
    ttft = f"{timings.ttft_s:.3f} s" if timings.HasField("ttft_s") else "-"
    tpot = f"{timings.tpot_s:.4f} s" if timings.HasField("tpot_s") else "-"
    return (
        f"{usage.num_generated_tokens} tokens in {timings.total_s:.2f} s, "
        f"queue {timings.queue_s:.3f} s, TTFT {ttft}, TPOT {tpot}, "
        f"{timings.num_preemptions} preemptions, {timings.num_engine_losses} engine losses"
    )
