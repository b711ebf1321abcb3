"""What the tests of the supervision share: models on stub engines, requests, and their answers."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from edged.clock import MonotonicClock
from edged.core.types import (
    ClientId,
    RequestId,
    SamplingParams,
    ServiceLevel,
    SloTier,
    TierSpec,
)
from edged.engine.wire import Prompt, Start, TextPrompt
from edged.errors import EdgedError, Reason
from edged.supervise.fleet import Fleet
from edged.supervise.model import ModelState, ModelStatus, Stream, Submission
from edged.supervise.spec import ModelSpec
from edged.supervise.stream import (
    StreamAdmitted,
    StreamDelta,
    StreamEvent,
    StreamFinished,
    StreamPaused,
    StreamResumed,
)
from tests.stub_engine import piece, token_at

STUB = Path(__file__).parent.parent / "stub_engine.py"
TIERS = tuple(TierSpec(tier, None, None, 4096, 4096, None, True, 0.0) for tier in SloTier)
MODEL = "stub"


def start(**changes: object) -> Start:
    fields: dict[str, object] = {
        "backend": "sim",
        "model_path": "",
        "kv_type": "q8_0",
        "context_tokens": 4096,
        "max_sequences": 16,
        "max_step_tokens": 512,
        "num_threads": None,
        "gpu_layers": 0,
        "main_gpu": 0,
        "tensor_split": (),
        "kv_unified": True,
        "options": {},
        "policy": "strict",
        "max_step_s": 0.5,
        "arrival_guard_s": 0.1,
        "share_quantum_s": 0.5,
        "snapshot_bytes": 2**20,
        "tiers": TIERS,
    }
    return Start(**(fields | changes))  # type: ignore[arg-type]  # names are checked by Start


def stub(
    *, loads: Sequence[str] = ("ok",), launches: Path | None = None, step_s: float = 0.001
) -> tuple[str, ...]:
    """The command of a stub engine; more than one of `loads` needs a file that counts launches."""
    counting = () if launches is None else ("--launches", str(launches))
    assert len(loads) == 1 or counting, "launches are not counted"
    root = Path(__file__).parent.parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from tests.stub_engine import main; "
    code += "main(sys.argv[1:])"
    loading = ("--loads", json.dumps(list(loads)))
    return (sys.executable, "-c", code, *loading, "--step-s", str(step_s), *counting)


def spec(name: str = MODEL, **changes: object) -> ModelSpec:
    fields: dict[str, object] = {
        "name": name,
        "start": start(),
        "worker": stub(),
        "stall_s": 20.0,
        "load_timeout_s": 20.0,
        "stop_s": 5.0,
        "call_s": 5.0,
    }
    return ModelSpec(**(fields | changes))  # type: ignore[arg-type]  # names are checked by ModelSpec


@asynccontextmanager
async def serving(*specs: ModelSpec, load: bool = True) -> AsyncIterator[Fleet]:
    """A fleet that is drained at the end, after which no child process may be left."""
    before = children()
    fleet = Fleet(specs or (spec(),), (specs[0] if specs else spec()).name, MonotonicClock())
    if load:
        for status in fleet.status():
            await fleet.load(status.name)
    try:
        yield fleet
    finally:
        await fleet.drain(0.0)
    assert children() == before, "a child process is left behind"


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def submission(  # one field each
    request_id: str,
    text: str = "say a word",
    *,
    max_tokens: int | None = 16,
    tier: SloTier = SloTier.STANDARD,
    deadline_in_s: float | None = None,
    prompt: Prompt | None = None,
    seed: int = 0,
) -> Submission:
    now_s = MonotonicClock().now_s()
    return Submission(
        request_id=RequestId(request_id),
        client_id=ClientId("client"),
        prompt=prompt or TextPrompt(text),
        sampling=SamplingParams(max_tokens=max_tokens, seed=seed),
        service=ServiceLevel(tier),
        stop=(),
        arrival_s=now_s,
        deadline_s=None if deadline_in_s is None else now_s + deadline_in_s,
    )


@dataclass
class Transcript:
    """All that one stream said."""

    events: list[StreamEvent] = field(default_factory=list)
    error: EdgedError | None = None

    @property
    def token_ids(self) -> list[int]:
        """The tokens, having checked that their indices are 0, 1, 2, …"""
        token_ids: list[int] = []
        for event in self.events:
            if isinstance(event, StreamDelta):
                assert event.index == len(token_ids), f"index {event.index} at {len(token_ids)}"
                token_ids += event.token_ids
        return token_ids

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, StreamDelta))

    @property
    def reason(self) -> Reason | None:
        return None if self.error is None else self.error.reason

    @property
    def finish(self) -> StreamFinished:
        last = self.events[-1]
        assert isinstance(last, StreamFinished), f"the last event is {last}, then {self.error}"
        return last

    def count(self, kind: type[StreamEvent]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def check_answer(self, text: str, num_tokens: int) -> None:
        """Every token of the stub's answer exactly once, in order; pauses and resumes in pairs."""
        assert self.error is None, self.error.detail
        expected = [token_at(text, n) for n in range(num_tokens)]
        assert self.token_ids == expected
        assert self.text == "".join(map(piece, expected))
        assert self.finish.event.num_generated_tokens == num_tokens
        self.check_order()

    def check_order(self) -> None:
        """Admitted comes first, and nothing is delivered between a pause and its end."""
        assert isinstance(self.events[0], StreamAdmitted)
        assert self.count(StreamAdmitted) == 1
        is_paused = False
        for event in self.events:
            match event:
                case StreamPaused():
                    is_paused = True
                case StreamResumed(paused_s):
                    assert is_paused, "resumed without a pause"
                    assert paused_s >= 0
                    is_paused = False
                case StreamDelta():
                    assert not is_paused, "tokens are delivered in a pause"
                case StreamAdmitted() | StreamFinished():
                    pass


async def read(stream: Stream, into: Transcript | None = None) -> Transcript:
    """Read a stream to its end."""
    transcript = into or Transcript()
    try:
        async for event in stream:
            transcript.events.append(event)
    except EdgedError as error:
        transcript.error = error
    return transcript


async def read_until(
    stream: Stream, transcript: Transcript, is_enough: Callable[[Transcript], bool]
) -> None:
    """Read on until the transcript has what is wanted."""
    async for event in stream:
        transcript.events.append(event)
        if is_enough(transcript):
            return
    raise AssertionError("the stream ended before it had what is wanted")


async def wait_for_status(fleet: Fleet, is_wanted: Callable[[ModelStatus], bool]) -> ModelStatus:
    """Wait until the first model's status is what is wanted."""
    while not is_wanted(fleet.status()[0]):
        await fleet.wait_for_change()
    return fleet.status()[0]


async def wait_for_state(fleet: Fleet, state: ModelState) -> ModelStatus:
    return await wait_for_status(fleet, lambda status: status.state is state)


async def engine_pid(fleet: Fleet) -> int:
    """The process of the first model's engine, once it is ready."""
    pid = (await wait_for_state(fleet, ModelState.READY)).engine_pid
    assert pid is not None
    return pid


async def read_all(streams: Sequence[Stream]) -> list[Transcript]:
    return await asyncio.gather(*(read(stream) for stream in streams))
