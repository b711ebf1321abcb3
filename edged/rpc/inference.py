"""InferenceService: one call is one request; it lives as long as the call does.

Theory of operation: gRPC cancels the handler's task when the client cancels, leaves or passes its
deadline. The handler writes to the call itself, so that the cancellation also arrives while it is
blocked in a write to a client that does not read; a generator would learn of it only when it is
collected. Whatever way the handler is left, the stream is cancelled on the way out.
"""

# ruff: noqa: N802  methods have the names of the service

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import grpc

from edged.clock import Clock
from edged.core.types import RequestId, SloTier
from edged.errors import EdgedError, Reason
from edged.rpc.access.allowance import Allowance
from edged.rpc.access.caller import Caller, current_caller
from edged.rpc.access.own_requests import OwnRequests
from edged.rpc.access.permits import check_model, check_service, has_every_tier, tiers_for
from edged.rpc.convert import Call, Tiers, max_request_tokens, to_prompt, to_submission
from edged.rpc.convert_events import HEARTBEAT, to_response
from edged.rpc.doors.network_limits import NetworkLimits
from edged.rpc.gate import DoorGates
from edged.rpc.heartbeat import Silence, with_silences
from edged.rpc.writing import WRITE_STALL_S, write_within
from edged.supervise.model import Models, ModelStatus, Stream, Submission
from edged.v1 import inference_pb2 as pb
from edged.v1.inference_pb2_grpc import InferenceServiceServicer

_GenerateContext = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    max_generate_calls: int = 4096
    """Of each tier and each door of this host: a thousand documents of a batch leave every place
    for a chat."""
    max_tokenize_calls: int = 64
    heartbeat_s: float = 10.0
    """Longest silence on a stream of Generate."""
    write_stall_s: float = WRITE_STALL_S
    """Longest time that one message may wait for the client to read; then the call ends."""


class InferenceFront(InferenceServiceServicer):
    """Answers the calls of InferenceService. Lives on the daemon's event loop."""

    def __init__(
        self,
        models: Models,
        tiers: Tiers,
        own: OwnRequests,
        clock: Clock,
        *,
        limits: InferenceLimits,
        network: NetworkLimits,
    ) -> None:
        self._tiers = tiers
        self._models = models
        self._own = own
        self._clock = clock
        self._limits = limits
        self._allowance = Allowance(clock)
        self._generating = {
            tier: DoorGates(
                f"{tier} Generate", limits.max_generate_calls, network.max_generate_calls
            )
            for tier in SloTier
        }
        self._tokenizing = DoorGates(
            "Tokenize", limits.max_tokenize_calls, network.max_tokenize_calls
        )

    def replace_tiers(self, tiers: Tiers) -> None:
        """For requests that come from now on."""
        self._tiers = tiers

    async def Generate(  # type: ignore[override]  # the stubs know no handler that writes itself
        self, request: pb.GenerateRequest, context: _GenerateContext
    ) -> None:
        caller = current_caller()
        submission, ends_after_s = self._permitted(request, context, caller)
        with (
            self._allowance.generating(caller),
            self._generating[submission.service.tier].entered(),
            self._own.held(submission.request_id, caller),
        ):
            stream = self._models.submit(request.model, submission)
            try:
                async with _ending_after(ends_after_s):
                    await self._relay(stream, context)
            finally:
                stream.cancel("its call has ended")

    def _permitted(
        self, request: pb.GenerateRequest, context: _GenerateContext, caller: Caller
    ) -> tuple[Submission, float | None]:
        """The request as the models are handed it, and the seconds after which it is ended here.

        To the scheduler a deadline is a target: the nearer, the more urgent. So that of a caller
        whose targets are limited ends the request, and makes it no more urgent.

        Raises:
            EdgedError: INVALID_ARGUMENT, TIER_NOT_ALLOWED, MODEL_NOT_ALLOWED.
        """
        call = Call(
            request_id=RequestId(secrets.token_hex(8)),
            seed=secrets.randbits(64),
            peer=context.peer(),
            remaining_s=_remaining_s(context),
            now_s=self._clock.now_s(),
            counts_as=caller.counts_as,
        )
        submission = to_submission(request, call, tiers_for(caller.grant, self._tiers))
        check_service(caller.grant, submission.service, request.targets, self._tiers)
        check_model(caller.grant, request.model, self._models.status())
        if submission.deadline_s is None or has_every_tier(caller.grant):
            return submission, None
        return replace(submission, deadline_s=None), submission.deadline_s - call.now_s

    async def Tokenize(
        self,
        request: pb.TokenizeRequest,
        context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse],
    ) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=await self._tokenize(request.model, request.prompt))

    async def CountTokens(
        self,
        request: pb.CountTokensRequest,
        context: grpc.aio.ServicerContext[pb.CountTokensRequest, pb.CountTokensResponse],
    ) -> pb.CountTokensResponse:
        token_ids = await self._tokenize(request.model, request.prompt)
        return pb.CountTokensResponse(
            num_tokens=len(token_ids), max_tokens=self._max_tokens(request.model)
        )

    async def _relay(self, stream: Stream, context: _GenerateContext) -> None:
        """Send every event in order, and a heartbeat in every silence."""
        async with aclosing(with_silences(stream, self._limits.heartbeat_s)) as events:
            async for event in events:
                message = HEARTBEAT if isinstance(event, Silence) else to_response(event)
                await write_within(context, message, self._limits.write_stall_s)

    async def _tokenize(self, model: str, message: pb.Prompt) -> tuple[int, ...]:
        check_model(current_caller().grant, model, self._models.status())
        with self._tokenizing.entered():
            return await self._models.tokenize(model, to_prompt(message))

    def _max_tokens(self, name: str) -> int:
        """Most tokens of one request: what fits in one sequence of the model's KV cache."""
        ready = next(
            (model.ready for model in self._models.status() if _is_named(model, name)), None
        )
        if ready is None:
            raise EdgedError(
                Reason.MODEL_LOADING,
                f"model {name or 'default'!r} is not ready, so its limit is not known yet",
                retry_after_s=1.0,
            )
        return max_request_tokens(ready.kv)


@asynccontextmanager
async def _ending_after(seconds: float | None) -> AsyncIterator[None]:
    """Raises EdgedError: DEADLINE_EXCEEDED; the block took longer."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise EdgedError(
            Reason.DEADLINE_EXCEEDED, f"the deadline of {seconds:.3g} s passed"
        ) from None


def _is_named(model: ModelStatus, name: str) -> bool:
    return model.name == name if name else model.is_default


def _remaining_s(context: _GenerateContext) -> float | None:
    """None for a call without a deadline, which the stubs do not tell."""
    return context.time_remaining()
