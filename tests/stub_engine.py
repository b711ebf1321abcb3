"""An engine process that does as it is told: it speaks the wire and misbehaves on demand.

    python stub_engine.py [--loads JSON] [--launches FILE] [--step-s S] --fd N --recorder-fd M

A prompt is the bytes of its text. Token n of an answer is `token_at(text, n)` on every engine, so a
test knows each token it must get. The first word of a prompt decides what the request does to its
engine, see `PRANKS`; "say" is for good ones. `--loads` lists what each launch does while loading,
the last one for ever.
"""

import argparse
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, assert_never

from edged.clock import MonotonicClock
from edged.core.types import (
    FinishEvent,
    FinishReason,
    KvGeometry,
    PreemptMode,
    RequestId,
    RequestTimings,
)
from edged.engine.recorder import FlightRecorder
from edged.engine.wire import (
    FRAME_HEADER_BYTES,
    Cancel,
    ChatPrompt,
    Command,
    Delta,
    Event,
    Finished,
    Inspect,
    Inspected,
    LoadFailed,
    Loading,
    Preempted,
    Prompt,
    Ready,
    Refusal,
    RequestAdmitted,
    RequestRefused,
    RequestState,
    Resumed,
    SetTiers,
    Start,
    StepEvents,
    Stop,
    StreamItem,
    Submit,
    TextPrompt,
    Tokenize,
    Tokenized,
    TokensPrompt,
    Warned,
    decode_command,
    encode_frame,
    frame_length,
)
from edged.errors import Reason

ASSERT_LINE = "/build/ggml/src/ggml.c:2112: GGML_ASSERT(a->ne[0] == b->ne[0]) failed"
FLOOD_TOKENS = 64
LATE = 3
"""Tokens after which a late prank is played."""

PRANKS = {
    "poison": "aborts whenever it is computed",
    "late-poison": f"aborts whenever it is to draw token {LATE} or later",
    "abort-once": "aborts the first engine that computes it",
    "choke": "aborts when its text is read, before it is admitted",
    "exit-once": "ends the first engine with code 70 and a traceback",
    "hang": "computes for ever",
    "hang-once": "computes for ever on its first engine",
    "idle-once": f"gives nothing more from token {LATE} on, and no step, on its first engine",
    "garbage-once": f"sends bytes that are no frame after {LATE} tokens on its first engine",
    "gap-once": f"leaves out token {LATE} on its first engine",
    "twice": "sends every token a second time",
    "flood": f"gives {FLOOD_TOKENS} tokens a step, without pause",
    "preempt": f"is preempted, and resumed, before token {LATE}",
    "refuse": "is refused",
    "deaf": "is never let go when it is cancelled",
    "silent": "admitted, gives nothing, while steps go on",
}


def token_at(text: str, index: int) -> int:
    """Token `index` of the answer to `text`."""
    return (sum(text.encode()) * 31 + index * index + 7 * index) % 50_000


def piece(token_id: int) -> str:
    return f"<{token_id}>"


class Answer:
    def __init__(self, submit: Submit, token_ids: tuple[int, ...]) -> None:
        self.submit = submit
        self.token_ids = token_ids
        self.text = bytes(token_ids).decode()
        self.num_tokens = len(submit.generated_token_ids)
        self.max_tokens = submit.sampling.max_tokens or sys.maxsize
        self.was_preempted = False
        assert self.prank in PRANKS or self.prank == "say", f"no prank: {self.text!r}"
        expected = [token_at(self.text, n) for n in range(self.num_tokens)]
        assert list(submit.generated_token_ids) == expected, "a replay brings foreign tokens"

    @property
    def request_id(self) -> RequestId:
        return self.submit.request_id

    @property
    def prank(self) -> str:
        return self.text.split(" ")[0]

    def plays(self, prank: str) -> bool:
        is_first = self.submit.past.num_engine_losses == 0
        return self.prank == prank and (is_first or not prank.endswith("-once"))

    @property
    def is_late(self) -> bool:
        return self.num_tokens >= LATE


class StubEngine:
    def __init__(self, sock: socket.socket, recorder: FlightRecorder, step_s: float) -> None:
        self._sock = sock
        self._recorder = recorder
        self._step_s = step_s
        self._inbox = bytearray()
        self._answers: dict[RequestId, Answer] = {}
        self._max_sequences = 0

    # ── Frames ───────────────────────────────────────────────────────────────────────────────────

    def send(self, event: Event) -> None:
        self._sock.sendall(encode_frame(event))

    def read(self, *, wait: bool) -> list[Command]:
        """What has arrived; the end of the socket ends the process."""
        if not wait and not select.select([self._sock], [], [], 0)[0]:
            return []
        data = self._sock.recv(1 << 20)
        if not data:
            os._exit(0)
        self._inbox += data
        commands = []
        while len(self._inbox) >= FRAME_HEADER_BYTES:
            end = FRAME_HEADER_BYTES + frame_length(bytes(self._inbox[:FRAME_HEADER_BYTES]))
            if len(self._inbox) < end:
                break
            commands.append(decode_command(bytes(self._inbox[FRAME_HEADER_BYTES:end])))
            del self._inbox[:end]
        return commands

    # ── Life ─────────────────────────────────────────────────────────────────────────────────────

    def load(self, how: str) -> None:
        commands: list[Command] = []
        while not commands:
            commands = self.read(wait=True)
        start = commands.pop(0)
        assert isinstance(start, Start)
        assert not commands, "the daemon sends nothing before it has seen Ready"
        self._max_sequences = start.max_sequences
        self.send(Loading(0.5))
        match how:
            case "ok":
                pass
            case "crash":
                abort()
            case "refuse":
                self.send(LoadFailed(Reason.BAD_MODEL_FILE, "the file ends in the middle"))
                os._exit(1)
            case "hang":
                signal.pause()
            case "garbage":
                self._sock.sendall(b"\xff" * 64)
                signal.pause()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                raise ValueError(how)
        geometry = KvGeometry(self._max_sequences, 4096, 4096, 1024, 1024, 0, "q8_0", "q8_0")
        self.send(Ready("stub", "a stub", 0, "cpu", geometry, 512, can_interrupt=False))

    def serve(self) -> NoReturn:
        while True:
            for command in self.read(wait=not self._answers):
                self.obey(command)
            if self._answers:
                self.step()

    def obey(self, command: Command) -> None:
        match command:
            case Submit():
                self.submit(command)
            case Cancel(request_id, reason, detail):
                answer = self._answers.get(request_id)
                if answer is not None and not answer.plays("deaf"):
                    self.finish(answer, reason, detail)
            case Tokenize(call_id, prompt):
                text = bytes(encode(prompt)).decode()
                if text == "hang":
                    signal.pause()
                refusal = None
                if not text:
                    detail = "prompt.text: is empty; text is needed"
                    refusal = Refusal(Reason.INVALID_ARGUMENT, detail, "prompt.text")
                self.send(Tokenized(call_id, encode(prompt), refusal))
            case Inspect(call_id):
                self.send(Inspected(call_id, tuple(map(state, self._answers.values()))))
            case SetTiers(tiers):
                self.send(Warned(f"tiers: {[spec.max_waiting for spec in tiers]}"))
            case Stop():
                os._exit(0)
            case Start():
                raise AssertionError("a second Start")
            case _:
                assert_never(command)

    def submit(self, submit: Submit) -> None:
        assert submit.request_id not in self._answers, "a request is submitted twice"
        answer = Answer(submit, encode(submit.prompt))
        if answer.plays("choke"):
            abort()
        if answer.plays("refuse"):
            refusal = Refusal(Reason.PROMPT_TOO_LONG, "long", "prompt")
            self.send(RequestRefused(submit.request_id, refusal))
            return
        self._answers[submit.request_id] = answer
        self.send(RequestAdmitted(submit.request_id, 0, 0.25, answer.token_ids))

    def finish(self, answer: Answer, reason: FinishReason, detail: str = "") -> None:
        del self._answers[answer.request_id]
        past = answer.submit.past
        timings = RequestTimings(
            None, None, None, 0.0, past.num_preemptions, past.num_engine_losses, None, None
        )
        event = FinishEvent(
            answer.request_id,
            reason,
            len(answer.token_ids),
            answer.num_tokens,
            timings,
            detail,
        )
        self.send(StepEvents((Finished(event),)))

    # ── The step ─────────────────────────────────────────────────────────────────────────────────

    def step(self) -> None:
        running = list(self._answers.values())[: self._max_sequences]
        if any(answer.plays("idle-once") and answer.is_late for answer in running):
            signal.pause()
        self._recorder.begin_step([answer.request_id for answer in running])
        for answer in running:
            misbehave(answer)
        items = [item for answer in running for item in self.draw(answer)]
        self._recorder.end_step()
        self.send(StepEvents(tuple(items)))
        for answer in running:
            if answer.plays("garbage-once") and answer.is_late:
                self._sock.sendall(b"\xff" * 64)
            if answer.num_tokens >= answer.max_tokens:
                self.finish(answer, FinishReason.LENGTH)
        if not any(answer.plays("flood") for answer in running):
            time.sleep(self._step_s)

    def draw(self, answer: Answer) -> list[StreamItem]:
        if answer.plays("silent"):
            return []
        items: list[StreamItem] = []
        if answer.plays("preempt") and answer.is_late and not answer.was_preempted:
            answer.was_preempted = True
            items.append(Preempted(answer.request_id, PreemptMode.SWAP))
            items.append(Resumed(answer.request_id, 0.125))
        index = answer.num_tokens
        if answer.plays("gap-once") and index == LATE:
            index += 1
        most = FLOOD_TOKENS if answer.plays("flood") else 1
        count = min(most, answer.max_tokens - index)
        tokens = tuple(token_at(answer.text, n) for n in range(index, index + count))
        answer.num_tokens = index + count
        text = "".join(map(piece, tokens))
        delta = Delta(answer.request_id, index, tokens, text, (), MonotonicClock().now_s())
        items += [delta, delta] if answer.plays("twice") else [delta]
        return items


def misbehave(answer: Answer) -> None:
    if answer.plays("poison") or answer.plays("abort-once"):
        abort()
    if answer.plays("late-poison") and answer.is_late:
        abort()
    if answer.plays("exit-once"):
        print(f"Traceback (most recent call last):\n{ASSERT_LINE}", file=sys.stderr)
        print("ValueError: it cannot go on", file=sys.stderr, flush=True)
        os._exit(70)
    if answer.plays("hang") or answer.plays("hang-once"):
        signal.pause()


def abort() -> NoReturn:
    print(f"loading\n{ASSERT_LINE}\nbacktrace follows", file=sys.stderr, flush=True)
    os.abort()


def encode(prompt: Prompt) -> tuple[int, ...]:
    match prompt:
        case TextPrompt(text):
            return tuple(text.encode())
        case TokensPrompt(token_ids):
            return token_ids
        case ChatPrompt(messages):
            return tuple("\n".join(message.content for message in messages).encode())
        case _:
            assert_never(prompt)


def state(answer: Answer) -> RequestState:
    submit = answer.submit
    return RequestState(
        submit.request_id,
        submit.client_id,
        submit.service.tier,
        "running",
        None,
        len(answer.token_ids),
        0,
        answer.num_tokens,
        min(answer.max_tokens, 4096),
        0.0,
        0,
    )


def main(arguments: Sequence[str]) -> NoReturn:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loads", type=json.loads, default=["ok"])
    parser.add_argument("--launches", type=Path)
    parser.add_argument("--step-s", type=float, default=0.001)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--recorder-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    launch = 0
    if options.launches is not None:
        with options.launches.open("a+") as launches:
            launches.seek(0)
            launch = len(launches.readlines())
            launches.write(f"{os.getpid()}\n")
    recorder = FlightRecorder(options.recorder_fd, MonotonicClock())
    engine = StubEngine(socket.socket(fileno=options.fd), recorder, options.step_s)
    engine.load(options.loads[min(launch, len(options.loads) - 1)])
    engine.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
