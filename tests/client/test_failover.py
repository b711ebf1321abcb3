"""What is asked again, of whom, and what never is."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from edged.client import Admitted, AsyncClient, RetryPolicy, Timeouts
from edged.client.errors import (
    BadRequestError,
    ClientError,
    ConnectionLostError,
    DeadlineExceededError,
    OverloadedError,
    ProtocolError,
    RequestCancelledError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
)
from edged.errors import EdgedError, InvalidRequestError, Reason
from tests.client.scripted import (
    HEARTBEAT,
    WHOLE,
    Scene,
    admitted,
    dies,
    ends,
    finished,
    is_silent,
    playing,
    refuses,
    says,
    socket_address,
    then,
    token,
    within_time,
)
from tests.client.servers import free_port
from tests.rpc.fakes import GATE_TIMEOUT_S

QUICK = RetryPolicy(max_attempts=3, first_backoff_s=0.01)
FULL = EdgedError(Reason.QUEUE_FULL, "the queue is full", retry_after_s=0.01)
DRAINING = EdgedError(Reason.DRAINING, "the daemon is shutting down")


def client_of(
    where: str | Sequence[str],
    retry: RetryPolicy | None = QUICK,
    idle_s: float = GATE_TIMEOUT_S,
) -> AsyncClient:
    timeouts = Timeouts(connect_s=GATE_TIMEOUT_S, idle_s=idle_s)
    return AsyncClient(where, retry=retry, timeouts=timeouts, environ={})


async def text_of(client: AsyncClient) -> str:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        return (await client.complete("Hi")).text


async def error_of(client: AsyncClient, **options: float) -> ClientError:
    with pytest.raises(ClientError) as raised:
        async with asyncio.timeout(GATE_TIMEOUT_S):
            await client.complete("Hi", **options)  # type: ignore[arg-type]  # deadline_s alone
    return raised.value


@pytest.mark.parametrize(
    "reason",
    [
        Reason.QUEUE_FULL,
        Reason.CLIENT_SHARE,
        Reason.RATE_LIMITED,
        Reason.CONCURRENCY_LIMITED,
        Reason.MODEL_LOADING,
        Reason.DRAINING,
        Reason.ENGINE_LOST,
    ],
)
async def test_what_may_pass_soon_is_asked_again(reason: Reason) -> None:
    refusal = refuses(EdgedError(reason, "not now"))
    async with playing(refusal, says(*WHOLE)) as daemon, client_of(daemon.address) as client:
        assert await text_of(client) == "Paris"
        assert daemon.num_calls == 2


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("prompt", "is empty"),
        EdgedError(Reason.TOKEN_REVOKED, "revoked"),
        EdgedError(Reason.ADMIN_ONLY, "no"),
        EdgedError(Reason.UNKNOWN_MODEL, "there is no model 'x'"),
        EdgedError(Reason.MODEL_FAILED, "out of memory"),
        EdgedError(Reason.UNATTAINABLE, "its targets cannot be promised", retry_after_s=0.01),
        EdgedError(Reason.QUEUE_TIMEOUT, "it waited for 30 s", retry_after_s=0.01),
        EdgedError(Reason.CANCELLED, "by an operator"),
        EdgedError(Reason.POISONED_REQUEST, "it took its engine down twice"),
        EdgedError(Reason.INTERNAL, "a defect"),
        EdgedError(Reason.SLOW_READER, "it did not read"),
        EdgedError(Reason.DEADLINE_EXCEEDED, "late"),
    ],
    ids=lambda error: str(error.reason),
)
async def test_what_will_not_pass_is_asked_once(error: EdgedError) -> None:
    async with playing(refuses(error)) as daemon, client_of(daemon.address) as client:
        assert (await error_of(client)).detail == error.detail.rstrip(".")
        assert daemon.num_calls == 1


async def test_a_daemon_that_dies_before_it_admits_is_asked_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    address = socket_address(tmp_path)
    async with client_of(address, RetryPolicy(max_attempts=100, first_backoff_s=0.01)) as client:
        async with playing(dies(), address=address) as first:
            asking = asyncio.create_task(text_of(client))
            await within_time(first.died)
        async with playing(says(*WHOLE), address=address) as second:
            assert await asking == "Paris"
        assert (first.num_calls, second.num_calls) == (1, 1)


async def test_a_request_that_was_admitted_and_lost_is_never_asked_again() -> None:
    lost = then(says(admitted(), token("Par")), dies())
    async with playing(lost, says(*WHOLE)) as daemon, client_of(daemon.address) as client:
        error = await error_of(client)
        assert isinstance(error, ConnectionLostError)
        assert (error.text_so_far, error.request_id) == ("Par", "0123456789abcdef")
        assert error.daemon == daemon.address
        assert daemon.num_calls == 1


async def test_it_is_lost_too_where_only_the_way_was_lost() -> None:
    lost = then(says(admitted()), ends(grpc.StatusCode.UNAVAILABLE))
    async with playing(lost, says(*WHOLE)) as daemon, client_of(daemon.address) as client:
        assert isinstance(await error_of(client), ConnectionLostError)
        assert daemon.num_calls == 1


async def test_what_was_lost_before_the_first_token_is_taken_over_by_another() -> None:
    lost = then(says(HEARTBEAT, admitted("first")), ends(grpc.StatusCode.UNAVAILABLE))
    async with playing(lost) as one, playing(says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            events = [event async for event in client.generate("Hi")]
        admissions = [event for event in events if isinstance(event, Admitted)]
        assert [event.daemon for event in admissions] == [one.address, other.address]
        assert "".join(event.text for event in events) == "Paris"
        assert (one.num_calls, other.num_calls) == (1, 1)


async def test_nothing_is_taken_over_after_the_first_token() -> None:
    lost = then(says(admitted(), token("Par")), ends(grpc.StatusCode.UNAVAILABLE))
    async with playing(lost) as one, playing(says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            error = await error_of(client)
        assert isinstance(error, ConnectionLostError)
        assert error.text_so_far == "Par"
        assert other.num_calls == 0


async def test_what_nobody_takes_over_ends_with_the_error_of_the_first() -> None:
    lost = then(says(admitted()), ends(grpc.StatusCode.UNAVAILABLE))
    full = refuses(EdgedError(Reason.UNKNOWN_MODEL, "there is no model"))
    async with playing(lost) as one, playing(full) as other:
        async with client_of([one.address, other.address]) as client:
            error = await error_of(client)
        assert isinstance(error, ConnectionLostError)
        assert error.daemon == one.address
        assert error.__notes__ == [f"{other.address}: there is no model"]


async def test_an_operator_who_cancels_means_it() -> None:
    cancelled = then(says(admitted()), refuses(EdgedError(Reason.CANCELLED, "by an operator")))
    async with playing(cancelled) as one, playing(says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            assert (await error_of(client)).reason is Reason.CANCELLED
        assert other.num_calls == 0


@pytest.mark.parametrize(
    "reason", [Reason.DRAINING, Reason.UNKNOWN_MODEL, Reason.QUEUE_FULL, Reason.UNATTAINABLE]
)
async def test_a_refusal_goes_to_the_next_daemon_at_once(reason: Reason) -> None:
    refusal = refuses(EdgedError(reason, "not here", retry_after_s=1000.0))
    async with playing(refusal) as one, playing(says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            assert await text_of(client) == "Paris"
        assert (one.num_calls, other.num_calls) == (1, 1)


async def test_a_wrong_token_is_told_though_another_daemon_would_do_it() -> None:
    refusal = refuses(EdgedError(Reason.TOKEN_INVALID, "there is no such token"))
    async with playing(refusal) as one, playing(says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            assert isinstance(await error_of(client), UnauthenticatedError)
        assert other.num_calls == 0


async def test_a_method_that_the_first_does_not_answer_is_asked_of_the_next() -> None:
    timeouts = Timeouts(call_s=0.2)
    async with playing(is_silent()) as first, playing(says(b"")) as second:
        where = [first.address, second.address]
        async with AsyncClient(where, timeouts=timeouts) as client:
            assert (await client.status()).version == ""
        assert (first.num_calls, second.num_calls) == (1, 1)


async def test_a_deadline_that_has_passed_is_told_by_one_daemon_alone() -> None:
    async with playing(is_silent()) as first, playing(says(*WHOLE)) as second:
        async with client_of([first.address, second.address]) as client:
            error = await error_of(client, deadline_s=0.2)
        assert isinstance(error, DeadlineExceededError)
        assert not hasattr(error, "__notes__")
        assert second.num_calls == 0


@pytest.mark.parametrize("scene", [ends(grpc.StatusCode.UNAVAILABLE), is_silent()])
async def test_a_cancel_that_may_have_been_done_is_not_asked_again(scene: Scene) -> None:
    timeouts = Timeouts(call_s=0.2)
    async with playing(scene) as first, playing(says(b"")) as second:
        where = [first.address, second.address]
        async with AsyncClient(where, retry=QUICK, timeouts=timeouts) as client:
            with pytest.raises((ConnectionLostError, DeadlineExceededError)):
                await client.cancel("29")
        assert (first.num_calls, second.num_calls) == (1, 0)


async def test_closing_the_client_ends_the_wait_for_another_attempt() -> None:
    full = refuses(EdgedError(Reason.QUEUE_FULL, "the queue is full", retry_after_s=20.0))
    async with playing(full) as daemon, client_of(daemon.address) as client:
        answer = asyncio.create_task(text_of(client))
        await within_time(daemon.called)
        with pytest.raises(TimeoutError):  # it waits for 20 s
            await asyncio.wait_for(asyncio.shield(answer), 0.2)
        await client.aclose()
        with pytest.raises(RequestCancelledError, match="the client was closed"):
            await asyncio.wait_for(answer, 10.0)


async def test_nobody_at_the_first_address_goes_to_the_next_and_is_remembered() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with playing(says(*WHOLE)) as other, client_of([nobody, other.address]) as client:
        assert await text_of(client) == "Paris"
        assert [link.shown for link in client._route.order()] == [other.address, nobody]
        assert await text_of(client) == "Paris"


async def test_only_the_daemon_that_may_do_it_soon_is_asked_again() -> None:
    unknown = refuses(EdgedError(Reason.UNKNOWN_MODEL, "there is no model"))
    async with playing(unknown) as one, playing(refuses(FULL), says(*WHOLE)) as other:
        async with client_of([one.address, other.address]) as client:
            assert await text_of(client) == "Paris"
        assert (one.num_calls, other.num_calls) == (1, 2)


async def test_attempts_end_with_the_error_that_tells_most() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with playing(refuses(FULL)) as daemon, client_of([nobody, daemon.address]) as client:
        error = await error_of(client)
        assert isinstance(error, OverloadedError)
        assert (error.retry_after_s, error.daemon) == (0.01, daemon.address)
        assert error.__notes__ == [f"{nobody}: no daemon answers at {nobody}"]
        assert daemon.num_calls == QUICK.max_attempts


async def test_without_retries_it_is_asked_once() -> None:
    async with playing(refuses(FULL)) as daemon, client_of(daemon.address, None) as client:
        assert isinstance(await error_of(client), OverloadedError)
        assert daemon.num_calls == 1


async def test_a_wait_that_is_longer_than_allowed_is_not_begun() -> None:
    busy = refuses(EdgedError(Reason.QUEUE_FULL, "full", retry_after_s=1000.0))
    async with playing(busy) as daemon, client_of(daemon.address) as client:
        assert (await error_of(client)).retry_after_s == 1000.0
        assert daemon.num_calls == 1


async def test_a_wait_that_passes_the_deadline_is_not_begun() -> None:
    busy = refuses(EdgedError(Reason.QUEUE_FULL, "full", retry_after_s=25.0))
    async with playing(busy) as daemon, client_of(daemon.address) as client:
        error = await error_of(client, deadline_s=20.0)
        assert isinstance(error, OverloadedError)
        assert daemon.num_calls == 1


async def test_a_silent_daemon_is_left_and_another_is_asked() -> None:
    async with playing(is_silent()) as one, playing(says(*WHOLE)) as other:
        where = [one.address, other.address]
        async with client_of(where, idle_s=0.05) as client:
            assert await text_of(client) == "Paris"
            await one.wait_until_given_up()


async def test_silence_after_a_token_is_an_error() -> None:
    silent = then(says(admitted(), token("Par")), is_silent())
    async with playing(silent) as daemon, client_of(daemon.address, idle_s=0.05) as client:
        error = await error_of(client)
        await daemon.wait_until_given_up()
    assert isinstance(error, ConnectionLostError)
    assert "has said nothing for 0.05 s" in error.detail
    assert error.text_so_far == "Par"


async def test_heartbeats_are_no_silence_and_are_not_shown() -> None:
    loading = says(*[HEARTBEAT] * 20, *WHOLE)
    async with playing(loading) as daemon, client_of(daemon.address) as client:
        kinds = [type(event).__name__ async for event in client.generate("Hi")]
    assert kinds == ["Admitted", "Token", "Token", "Finished"]


async def test_a_deadline_ends_an_answer() -> None:
    silent = then(says(admitted(), token("Par")), is_silent())
    async with playing(silent) as daemon, client_of(daemon.address) as client:
        error = await error_of(client, deadline_s=0.3)
        await daemon.wait_until_given_up()
    assert isinstance(error, DeadlineExceededError)
    assert error.text_so_far == "Par"


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        (says(b"\xff\xff\xff"), "sent what is no event of an answer"),
        (says(token("x")), "began its answer with Token"),
        (says(admitted()), "ended its answer without saying why"),
        (says(), "ended its answer without saying why"),
        (ends(grpc.StatusCode.UNIMPLEMENTED), "does not know this call"),
        (ends(grpc.StatusCode.UNKNOWN, "odd"), "answers as no daemon does: UNKNOWN odd"),
    ],
)
async def test_what_is_no_daemon_is_told_once(scene: object, told: str) -> None:
    async with playing(scene) as daemon, client_of(daemon.address) as client:  # type: ignore[arg-type]  # pytest's
        error = await error_of(client)
        assert isinstance(error, ProtocolError)
        assert told in error.detail
        assert daemon.address in error.detail
        assert daemon.num_calls == 1


@pytest.mark.parametrize(
    ("code", "detail", "kind"),
    [
        (grpc.StatusCode.CANCELLED, "", ConnectionLostError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", OverloadedError),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (9 vs. 8)",
            BadRequestError,
        ),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceededError),
    ],
)
async def test_what_grpc_says_on_the_way_has_its_class(
    code: grpc.StatusCode, detail: str, kind: type[ClientError]
) -> None:
    async with playing(ends(code, detail)) as daemon, client_of(daemon.address, None) as client:
        assert type(await error_of(client)) is kind


async def test_nobody_there_is_told_with_the_address() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with client_of(nobody) as client:
        error = await error_of(client)
    assert isinstance(error, UnreachableError)
    assert error.detail == f"no daemon answers at {nobody}"


async def test_a_drain_is_told_when_nothing_else_is_there() -> None:
    async with playing(refuses(DRAINING)) as daemon, client_of(daemon.address) as client:
        assert isinstance(await error_of(client), UnavailableError)
        assert daemon.num_calls == QUICK.max_attempts


async def test_an_answer_after_its_end_is_not_read() -> None:
    scene = says(*WHOLE, finished(), token("more"))
    async with playing(scene) as daemon, client_of(daemon.address) as client:
        assert await text_of(client) == "Paris"
