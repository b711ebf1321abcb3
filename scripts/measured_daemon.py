"""A daemon of its own for a benchmark: started on private addresses, waited for, stopped."""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc

from edged.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

EDGED = str(Path(sys.executable).with_name("edged"))
WORDS = (
    *("river", "stone", "light", "garden", "winter"),
    *("song", "paper", "cloud", "bread", "road"),
)


@dataclass
class Answer:
    """What one Generate call got, timed at the client."""

    sent_s: float
    token_times_s: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    num_preemptions: int = 0
    num_resumes: int = 0
    error: str = ""
    finished: inference_pb2.Finished | None = None

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0] - self.sent_s

    @property
    def tpot_s(self) -> float:
        num_gaps = len(self.token_times_s) - 1
        return (self.token_times_s[-1] - self.token_times_s[0]) / num_gaps if num_gaps else 0.0


class MeasuredDaemon:
    def __init__(self, process: asyncio.subprocess.Process, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)

    async def model(self) -> admin_pb2.Model:
        status = await self.admin.GetStatus(admin_pb2.GetStatusRequest())
        return status.status.models[0]

    async def generate(
        self,
        request: inference_pb2.GenerateRequest,
        on_token: asyncio.Event | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One answer to its end; an error is noted, not raised. Token indices are checked."""
        answer = Answer(time.monotonic())
        try:
            async for event in self.inference.Generate(request, timeout=timeout_s):
                match event.WhichOneof("event"):
                    case "token":
                        assert event.token.index == len(answer.token_ids), "a gap or a repetition"
                        now_s = time.monotonic()
                        answer.token_ids.extend(event.token.token_ids)
                        answer.token_times_s.extend(now_s for _ in event.token.token_ids)
                        answer.text += event.token.text
                        if on_token is not None:
                            on_token.set()
                    case "preempted":
                        answer.num_preemptions += 1
                    case "resumed":
                        answer.num_resumes += 1
                    case "finished":
                        answer.finished = event.finished
        except grpc.aio.AioRpcError as error:
            answer.error = f"{error.code().name}: {error.details()}"
        return answer


@asynccontextmanager
async def measured_daemon(
    *flags: str, log: IO[bytes] | None = None
) -> AsyncIterator[MeasuredDaemon]:
    """A daemon that is ready when it is handed over, and gone afterwards; its log goes to stderr
    unless a file is given."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/edged.sock"
        process = await asyncio.create_subprocess_exec(
            EDGED,
            "serve",
            "--listen",
            "",
            "--socket",
            socket,
            "--log-level",
            "error",
            *flags,
            stderr=log,
            env={**os.environ, "EDGED_CONFIG": _patient_config(folder)},
        )
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
            daemon = MeasuredDaemon(process, channel)
            await _wait_until_ready(daemon)
            try:
                yield daemon
            finally:
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGINT)
                await asyncio.wait_for(process.wait(), 60)


def _patient_config(folder: str) -> str:
    """Waits and queues of any length: a benchmark measures them."""
    tiers = ("interactive", "standard", "batch")
    limits = 'max_queue_s = "none"\nmax_waiting = 1000\nmax_waiting_per_client = 1000\n'
    path = Path(folder) / "config.toml"
    path.write_text("".join(f"[tiers.{tier}]\n{limits}" for tier in tiers))
    return str(path)


async def _wait_until_ready(daemon: MeasuredDaemon) -> None:
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        try:
            model = await daemon.model()
        except grpc.aio.AioRpcError:
            model = admin_pb2.Model()
        if model.state == admin_pb2.MODEL_STATE_READY:
            return
        assert model.state != admin_pb2.MODEL_STATE_FAILED, model.failure
        assert daemon.process.returncode is None, "the daemon ended"
        await asyncio.sleep(0.1)
    raise TimeoutError("the daemon was not ready within 180 s")


def request(
    text: str, *, tier: int, max_tokens: int, seed: int = 0, temperature: float = 0.0
) -> inference_pb2.GenerateRequest:
    """A request whose answer has exactly `max_tokens` tokens."""
    return inference_pb2.GenerateRequest(
        prompt=inference_pb2.Prompt(text=text),
        sampling=inference_pb2.Sampling(
            max_tokens=max_tokens, temperature=temperature, seed=seed, ignore_eos=True
        ),
        tier=tier,  # type: ignore[arg-type]  # the enum's number
    )


def prompt(num_words: int, number: int) -> str:
    """About as many tokens as words, different for each number from its first word on."""
    draw = random.Random(number)
    words = (draw.choice(WORDS) for _ in range(num_words - 6))
    return f"{number}: tell me about " + " ".join(words)


def percentile(values: list[float], fraction: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(fraction * len(ordered) + 0.5) - 1))]
