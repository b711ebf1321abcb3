"""The client for programs that run on an event loop."""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from google.protobuf.message import DecodeError, Message

from edged.client.asking import Options, Prompt, to_prompt, to_request
from edged.client.calling import Caller
from edged.client.connect.link import Link
from edged.client.connect.peers import PeerBook
from edged.client.errors import ProtocolError, bad_request, client_error
from edged.client.events import Answer
from edged.client.lan.nearby import Moved, discover_async, ways_to_others
from edged.client.retry import RetryPolicy
from edged.client.route import Given, Route, Where, given_by
from edged.client.stream import AsyncStream, Call
from edged.client.values import (
    Identity,
    Model,
    Request,
    Status,
    Tier,
    TokenCount,
    to_identity,
    to_model,
    to_request_row,
    to_status,
    to_tier,
)
from edged.clock import Clock, MonotonicClock
from edged.errors import EdgedError, Reason
from edged.places import peers_file
from edged.v1 import access_pb2, admin_pb2, inference_pb2

if TYPE_CHECKING:
    from edged.client.lan.browse import Discovery

ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. Nothing waits longer; for a whole answer there is `deadline_s`."""

    connect_s: float = 5.0
    """For a connection to be made."""
    call_s: float = 10.0
    """For the answer of a method that is no `generate`."""
    idle_s: float = 30.0
    """For the next sign of life in an answer. A daemon gives one every `server.heartbeat_s`, at
    most 10 seconds, so this is three of them."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; expected more than 0")


DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_RETRY = RetryPolicy()


class AsyncClient:
    """Asks one daemon, or the first of several that does it.

    `where` is a name that was paired with, an address, a socket, a daemon that was discovered, or
    several of them in the order in which they are to be asked; without it, `EDGED_HOST`, a socket
    on this machine, or the usual port. `client` names the program to the daemon, `token` is for a
    daemon that has given one. `retry=None` asks once. `fall_over` lets the other daemons that this
    user has paired with be asked when none of those that were given will do; they see the prompt.

    Made anywhere, it belongs to the event loop of its first call. Not to be used across a fork.
    """

    def __init__(
        self,
        where: Where = None,
        *,
        token: str | None = None,
        client: str = "",
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        retry: RetryPolicy | None = DEFAULT_RETRY,
        fall_over: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises ClientError: what was given is no address, or has to be paired with first."""
        self._client = client
        self._timeouts = timeouts
        self._environ = environ
        self._clock: Clock = MonotonicClock()
        self._given = given_by(where, token, environ)
        find_others = self._find_others if fall_over else None
        self._route = Route(self._given, self._connect, self._clock, find_others)
        self._caller = Caller(self._route, retry, self._clock, draw=random.Random())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; what runs ends with RequestCancelledError."""
        self._caller.close()
        await self._route.close()

    @staticmethod
    async def discover(
        timeout_s: float | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> "Discovery":
        """The daemons that answer on the local network, those that were paired with first."""
        return await discover_async(timeout_s, environ=environ)

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncStream:
        """One answer, event by event: iterate over it. The daemon is asked when the first event is.

        Raises:
            BadRequestError: the prompt or an option is of the wrong kind. All else comes from the
                iteration.
        """
        request = to_request(prompt, options, self._client)
        deadline_s = options.get("deadline_s")
        if deadline_s is not None and not deadline_s > 0:
            raise bad_request("deadline_s", f"is {deadline_s!r}; expected more than 0")
        call = Call(request.SerializeToString(), deadline_s, self._timeouts.idle_s)
        return AsyncStream(self._caller, call, self._clock)

    async def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Answer:
        """One whole answer. Raises ClientError, with the text as far as it came."""
        async with self.generate(prompt, **options) as stream:
            return await stream.answer()

    async def tokenize(self, prompt: Prompt, *, model: str | None = None) -> tuple[int, ...]:
        """The token ids of a prompt, as `generate` would see them."""
        request = inference_pb2.TokenizeRequest(model=model or "", prompt=to_prompt(prompt))
        answer = await self._ask(
            "InferenceService/Tokenize", request, inference_pb2.TokenizeResponse
        )
        return tuple(answer.token_ids)

    async def count_tokens(self, prompt: Prompt, *, model: str | None = None) -> TokenCount:
        """How many tokens a prompt has, and how many a request may have."""
        request = inference_pb2.CountTokensRequest(model=model or "", prompt=to_prompt(prompt))
        answer = await self._ask(
            "InferenceService/CountTokens", request, inference_pb2.CountTokensResponse
        )
        return TokenCount(answer.num_tokens, answer.max_tokens)

    # ── The daemon: of several, the first that answers ───────────────────────────────────────────

    async def status(self) -> Status:
        """What the daemon is doing."""
        request = admin_pb2.GetStatusRequest()
        answer = await self._ask("AdminService/GetStatus", request, admin_pb2.GetStatusResponse)
        return to_status(answer.status)

    async def models(self) -> tuple[Model, ...]:
        """Its configured models."""
        request = admin_pb2.ListModelsRequest()
        answer = await self._ask("AdminService/ListModels", request, admin_pb2.ListModelsResponse)
        return tuple(map(to_model, answer.models))

    async def tiers(self) -> tuple[Tier, ...]:
        """Its tiers, most urgent first."""
        request = admin_pb2.ListTiersRequest()
        answer = await self._ask("AdminService/ListTiers", request, admin_pb2.ListTiersResponse)
        return tuple(map(to_tier, answer.tiers))

    async def requests(self) -> tuple[Request, ...]:
        """Every request that is not finished, most urgent first."""
        request = admin_pb2.ListRequestsRequest()
        answer = await self._ask(
            "AdminService/ListRequests", request, admin_pb2.ListRequestsResponse
        )
        return tuple(map(to_request_row, answer.requests))

    async def cancel(self, request_id: str) -> str:
        """End a request, of whatever program, by its id or the beginning of it; its whole id.
        Every daemon is asked until one knows it; never again, where one may have done it: another
        request may have the same beginning."""
        request = admin_pb2.CancelRequest(request_id=request_id)
        answer = await self._ask(
            "AdminService/Cancel", request, admin_pb2.CancelResponse, is_repeatable=False
        )
        return answer.request_id

    async def identity(self) -> Identity:
        """Who the daemon is, and what this client may do."""
        request = access_pb2.GetIdentityRequest()
        answer = await self._ask(
            "AccessService/GetIdentity", request, access_pb2.GetIdentityResponse
        )
        return to_identity(answer)

    # ── Asking ───────────────────────────────────────────────────────────────────────────────────

    async def _ask(
        self,
        method: str,
        request: Message,
        response: type[ResponseT],
        *,
        is_repeatable: bool = True,
    ) -> ResponseT:
        raw_request = request.SerializeToString()
        path = f"/edged.v1.{method}"

        async def ask(link: Link, limit_s: float | None) -> bytes:
            return await link.unary(path, raw_request, self._timeouts.call_s)

        link, raw = await self._caller.anywhere(ask, is_repeatable=is_repeatable)
        try:
            return response.FromString(raw)
        except DecodeError:
            error = ProtocolError(
                Reason.INTERNAL, f"what listens at {link.shown} sent what is no answer of {method}"
            )
            error.daemon = link.shown
            raise error from None

    def _connect(self, given: Given) -> Link:
        find = Moved(given.peer, given.ways, self._clock) if given.peer is not None else None
        return Link(given.ways, self._timeouts.connect_s, find, self._clock)

    async def _find_others(self) -> list[Given]:
        try:
            book = PeerBook(peers_file(self._environ))
            known = [one.peer.fingerprint for one in self._given if one.peer is not None]
            others = await ways_to_others(book.all(), known, book=book)
            return [Given(ways, peer) for peer, ways in others]
        except EdgedError as error:
            raise client_error(error) from None
