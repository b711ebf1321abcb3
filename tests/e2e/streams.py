"""What the clients of the tests ask for, and how they read an answer while others go on."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edged.v1 import inference_pb2 as pb
from edged.v1.inference_pb2_grpc import InferenceServiceStub

WAIT_S = 40.0
"""Longest wait for anything; reached only by a test that fails."""

TIERS = (pb.TIER_INTERACTIVE, pb.TIER_STANDARD, pb.TIER_BATCH)


def ask(
    prompt: str | Sequence[int] | pb.ChatPrompt,
    *,
    max_tokens: int | None = 16,
    tier: "pb.Tier.ValueType" = pb.TIER_STANDARD,
    model: str = "",
    client: str = "",
    targets: pb.Targets | None = None,
    **sampling: Any,
) -> pb.GenerateRequest:
    """A greedy request, unless `sampling` says otherwise."""
    match prompt:
        case str():
            given = pb.Prompt(text=prompt)
        case pb.ChatPrompt():
            given = pb.Prompt(chat=prompt)
        case _:
            given = pb.Prompt(token_ids=pb.TokenIds(ids=prompt))
    return pb.GenerateRequest(
        model=model,
        prompt=given,
        sampling=pb.Sampling(**({"max_tokens": max_tokens, "temperature": 0.0} | sampling)),
        tier=tier,
        client=client,
        targets=targets,
    )


def chat(system: str, *contents: str) -> pb.ChatPrompt:
    """A conversation; the user speaks first."""
    roles = ("system", *("user", "assistant") * len(contents))
    said = zip(roles, (system, *contents), strict=False)
    return pb.ChatPrompt(messages=[pb.ChatMessage(role=role, content=text) for role, text in said])


def work(count: int, *, max_tokens: int) -> list[pb.GenerateRequest]:
    """Requests of every tier, half of them greedy, half seeded; always the same ones."""
    return [
        ask(
            [(7 * n + i) % 200 for i in range(20 + n)],
            max_tokens=max_tokens,
            tier=TIERS[n % len(TIERS)],
            temperature=float(n % 2),
            seed=n,
            ignore_eos=True,
        )
        for n in range(count)
    ]


@dataclass
class Answer:
    """What one stream has said so far."""

    events: list[pb.GenerateResponse] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    """When each event came, on the monotonic clock."""
    error: grpc.aio.AioRpcError | None = None

    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") or "" for event in self.events]

    def count(self, kind: str) -> int:
        return self.kinds().count(kind)

    def first_at_s(self, kind: str) -> float:
        return self.arrived_s[self.kinds().index(kind)]

    @property
    def request_id(self) -> str:
        assert self.events, f"no event came: {self.error}"
        assert self.events[0].HasField("admitted"), f"began with {self.events[0]}"
        return self.events[0].admitted.request_id

    @property
    def deltas(self) -> list[pb.TokenDelta]:
        return [event.token for event in self.events if event.HasField("token")]

    @property
    def token_ids(self) -> list[int]:
        """The tokens, having checked that their indices are 0, 1, 2, …"""
        token_ids: list[int] = []
        for delta in self.deltas:
            assert delta.index == len(token_ids), f"index {delta.index} after {len(token_ids)}"
            token_ids += delta.token_ids
        return token_ids

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def causes(self) -> list["pb.PreemptionCause.ValueType"]:
        return [event.preempted.cause for event in self.events if event.HasField("preempted")]

    @property
    def finished(self) -> pb.Finished:
        """How it ended; fails unless it ended well."""
        assert self.error is None, f"{self.error.code()}: {self.error.details()}"
        assert self.events, "the stream was empty"
        assert self.events[-1].HasField("finished"), f"ended with {self.events[-1]}"
        return self.events[-1].finished

    @property
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self.error is None else self.error.code()

    @property
    def reason(self) -> str:
        """The stable reason of its error; "" without one."""
        return "" if self.error is None else reason_of(self.error)

    @property
    def detail(self) -> str:
        return "" if self.error is None else self.error.details() or ""


class Stream:
    """One Generate call, read in the background from the moment it is made."""

    def __init__(
        self,
        inference: InferenceServiceStub,
        request: pb.GenerateRequest,
        timeout_s: float | None = None,
    ) -> None:
        self.answer = Answer()
        self._call = inference.Generate(request, timeout=timeout_s)
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for event in self._call:
                self.answer.events.append(event)
                self.answer.arrived_s.append(time.monotonic())
                self._wake()
        except grpc.aio.AioRpcError as error:
            self.answer.error = error
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
        finally:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, is_enough: Callable[[Answer], bool]) -> Answer:
        """Wait until what has come is enough; fails when the stream ends before that."""
        async with asyncio.timeout(WAIT_S):
            while not is_enough(self.answer):
                ended = self._reading.done()
                assert not ended, f"ended early: {self.answer.kinds()}, {self.answer.error}"
                await self._changed.wait()
        return self.answer

    async def tokens(self, count: int) -> Answer:
        """Wait for so many tokens."""
        return await self.until(lambda answer: len(answer.token_ids) >= count)

    async def end(self) -> Answer:
        async with asyncio.timeout(WAIT_S):
            await self._reading
        return self.answer

    async def leave(self) -> None:
        """Cancel the call, as a client does that goes away."""
        self._call.cancel()
        async with asyncio.timeout(WAIT_S):
            await self._reading


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo's reason of a failed call."""
    status = rpc_status.from_call(error)
    assert isinstance(status, status_pb2.Status), f"no rich status: {error}"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError(f"no ErrorInfo: {status}")


def check_equal(answers: Sequence[Answer], wanted: Sequence[Answer]) -> None:
    """Each answer whole, each token once, as in a run that nothing disturbed."""
    assert len(answers) == len(wanted)
    for answer, want in zip(answers, wanted, strict=True):
        assert answer.finished.reason == want.finished.reason
        assert answer.token_ids == want.token_ids
        assert answer.text == want.text
