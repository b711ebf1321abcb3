"""A real engine process on the simulated backend, as the daemon sees it: a socket and an exit."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edged.clock import ManualClock, MonotonicClock
from edged.core.types import (
    ClientId,
    PastService,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TierSpec,
    TokenEvent,
)
from edged.engine.wire import (
    FRAME_HEADER_BYTES,
    Command,
    Delta,
    Event,
    Finished,
    Inspect,
    Inspected,
    Prompt,
    Ready,
    RequestAdmitted,
    Start,
    Statistics,
    StepEvents,
    StreamItem,
    Submit,
    TextPrompt,
    decode_event,
    encode_frame,
    frame_length,
)
from tests.factories import TIERS, engine, request

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
"""A test fails when the engine says nothing for so long."""
FAST = {"step_s": "0.001", "prefill_token_s": "0", "decode_token_s": "0"}
SLOW_PREFILL = {"step_s": "0.001", "prefill_token_s": "0.001", "decode_token_s": "0"}
R = RequestId("r")
"""The request of `submit`."""


class EngineProcess:
    def __init__(self, recorder_fd: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = {"--fd": theirs.fileno()}
            if recorder_fd is not None:
                fds["--recorder-fd"] = recorder_fd
            arguments = [text for name, fd in fds.items() for text in (name, str(fd))]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edged.engine.worker", *arguments],
                pass_fds=tuple(fds.values()),
                cwd=ROOT,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(PATIENCE_S)
        self.socket = ours
        self.statistics: list[Statistics] = []

    def send(self, command: Command) -> None:
        self.socket.sendall(encode_frame(command))

    def receive_any(self) -> Event:
        """The next event."""
        header = self._read(FRAME_HEADER_BYTES)
        return decode_event(self._read(frame_length(header)))

    def receive(self) -> Event:
        """The next event but statistics, which are kept in `statistics`."""
        while isinstance(event := self.receive_any(), Statistics):
            self.statistics.append(event)
        return event

    def ready(self) -> Ready:
        """Wait for the model to be loaded."""
        while not isinstance(event := self.receive(), Ready):
            assert type(event).__name__ == "Loading", f"{event} before Ready"
        return event

    def admitted(self, submit: Submit) -> RequestAdmitted:
        """Submit a request that is admitted next."""
        self.send(submit)
        event = self.receive()
        assert isinstance(event, RequestAdmitted), f"{event} instead of an admission"
        return event

    def items(self, *request_ids: RequestId) -> dict[RequestId, list[StreamItem]]:
        """What each request's stream carries, up to and with its finish."""
        streams: dict[RequestId, list[StreamItem]] = {name: [] for name in request_ids}
        unfinished = set(request_ids)
        while unfinished:
            event = self.receive()
            for item in event.items if isinstance(event, StepEvents) else ():
                name = item.event.request_id if isinstance(item, Finished) else item.request_id
                streams[name].append(item)
                if isinstance(item, Finished):
                    unfinished.discard(name)
        return streams

    def answer(self, request_id: RequestId) -> list[StreamItem]:
        return self.items(request_id)[request_id]

    def inspect(self) -> Inspected:
        """The state of every request; other events until then are dropped."""
        self.send(Inspect(1))
        while not isinstance(event := self.receive(), Inspected):
            pass
        return event

    def exit_code(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)

    def stderr(self) -> str:
        """All of it; the process has to have ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def _read(self, num_bytes: int) -> bytes:
        parts = bytearray()
        while len(parts) < num_bytes:
            part = self.socket.recv(num_bytes - len(parts))
            if not part:
                raise EOFError("the engine closed its socket")
            parts += part
        return bytes(parts)


@contextmanager
def engine_process(
    start: Start | None = None, recorder_fd: int | None = None
) -> Iterator[EngineProcess]:
    """A process that was told to start, and that does not outlive the test."""
    engine = EngineProcess(recorder_fd)
    try:
        engine.send(start or start_command())
        yield engine
    finally:
        engine.socket.close()
        engine.process.kill()
        engine.process.wait()
        assert engine.process.stderr is not None
        engine.process.stderr.close()


def start_command(
    *,
    options: Mapping[str, str] = FAST,
    backend: str = "sim",
    context_tokens: int = 4096,
    max_sequences: int = 4,
    max_step_tokens: int = 512,
    kv_type: str = "q8_0",
    tiers: Mapping[SloTier, TierSpec] = TIERS,
) -> Start:
    return Start(
        backend=backend,
        model_path="",
        kv_type=kv_type,
        context_tokens=context_tokens,
        max_sequences=max_sequences,
        max_step_tokens=max_step_tokens,
        num_threads=None,
        gpu_layers=0,
        main_gpu=0,
        tensor_split=(),
        kv_unified=True,
        options=options,
        policy="strict",
        max_step_s=0.5,
        arrival_guard_s=0.1,
        share_quantum_s=0.5,
        snapshot_bytes=2**30,
        tiers=tuple(tiers.values()),
    )


def submit(
    name: str = "r",
    *,
    prompt: Prompt | str = "hello",
    tier: SloTier = SloTier.STANDARD,
    sampling: SamplingParams | None = None,
    max_tokens: int = 8,
    stop: tuple[str, ...] = (),
    deadline_in_s: float | None = None,
    generated: tuple[int, ...] = (),
    num_engine_losses: int = 0,
) -> Submit:
    now_s = MonotonicClock().now_s()
    return Submit(
        request_id=RequestId(name),
        client_id=ClientId("client"),
        prompt=TextPrompt(prompt) if isinstance(prompt, str) else prompt,
        sampling=sampling or SamplingParams(max_tokens=max_tokens, seed=7),
        service=ServiceLevel(tier),
        stop=stop,
        arrival_s=now_s,
        deadline_s=None if deadline_in_s is None else now_s + deadline_in_s,
        generated_token_ids=generated,
        past=PastService(num_engine_losses=num_engine_losses),
    )


def expected_tokens(prompt_token_ids: tuple[int, ...], sampling: SamplingParams) -> list[int]:
    """The answer that the same model gives in this process, alone and undisturbed."""
    loop = engine(ManualClock(), num_cells=4096)
    loop.submit(request(prompt=prompt_token_ids, sampling=sampling))
    tokens: list[int] = []
    while (events := loop.run_once()) is not None:
        tokens += [event.token.token_id for event in events if isinstance(event, TokenEvent)]
    return tokens


def deltas(items: Sequence[StreamItem]) -> list[Delta]:
    return [item for item in items if isinstance(item, Delta)]


def token_ids(items: Sequence[StreamItem]) -> list[int]:
    """Every token of a stream, which has to number them 0, 1, 2, … (or go on from a replay)."""
    found = deltas(items)
    index = found[0].index if found else 0
    tokens: list[int] = []
    for delta in found:
        assert delta.index == index + len(tokens), f"I4: {delta.index} after {len(tokens)} tokens"
        tokens += delta.token_ids
    return tokens


def text(items: Sequence[StreamItem]) -> str:
    return "".join(delta.text for delta in deltas(items))


def finished(items: Sequence[StreamItem]) -> Finished:
    last = items[-1]
    assert isinstance(last, Finished), f"a stream ends with {last}"
    return last
