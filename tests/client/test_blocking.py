"""The client for programs that block: its thread, other threads, Ctrl-C, forks, the end of all."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from typing import TypeVar

import pytest

from edged.client import AsyncClient, AsyncStream, Client, Stream
from edged.client.errors import RequestCancelledError, UnreachableError
from edged.client.loop import THREAD_NAME
from edged.core.types import RequestId
from edged.errors import EdgedError, Reason
from tests.client.scripted import (
    WHOLE,
    admitted,
    dies,
    is_silent,
    playing,
    refuses,
    says,
    then,
    within_time,
)
from tests.rpc.fakes import GATE_TIMEOUT_S
from tests.rpc.front import running_front

ResultT = TypeVar("ResultT")


async def aside(work: Callable[[], ResultT]) -> ResultT:
    """On a thread of its own, while the daemon serves on this one."""
    return await asyncio.wait_for(asyncio.to_thread(work), GATE_TIMEOUT_S)


def threads_of_clients() -> int:
    return sum(thread.name == THREAD_NAME for thread in threading.enumerate())


async def run_program(code: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), GATE_TIMEOUT_S)
    return process.returncode or 0, output.decode(), errors.decode()


async def test_an_answer_streams() -> None:
    async with playing(says(*WHOLE)) as daemon:

        def ask() -> tuple[str, str, str | None, str | None]:
            with Client(daemon.address) as client, client.generate("Hi") as stream:
                shown = "".join(event.text for event in stream)
                assert stream.finished is not None
                return shown, stream.text, stream.request_id, stream.daemon

        assert await aside(ask) == ("Paris", "Paris", "0123456789abcdef", daemon.address)


async def test_a_stream_keeps_its_client() -> None:
    async with playing(says(*WHOLE)) as daemon:

        def ask() -> str:
            return "".join(event.text for event in Client(daemon.address).generate("Hi"))

        assert await aside(ask) == "Paris"
        assert (await aside(lambda: Client(daemon.address).complete("Hi"))).text == "Paris"


async def test_leaving_the_loop_cancels_on_the_daemon() -> None:
    async with playing(then(says(admitted()), is_silent())) as daemon:

        def ask() -> None:
            for _ in client.generate("Hi"):
                break

        with Client(daemon.address) as client:
            await aside(ask)
            await daemon.wait_until_given_up()


async def test_an_exception_in_the_loop_cancels_on_the_daemon() -> None:
    async with playing(then(says(admitted()), is_silent())) as daemon:

        def ask() -> None:
            for _ in client.generate("Hi"):
                raise ZeroDivisionError

        with Client(daemon.address) as client:
            with pytest.raises(ZeroDivisionError):
                await aside(ask)
            await daemon.wait_until_given_up()


async def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert offered(Client) - {"close", "is_closed"} == offered(AsyncClient) - {"aclose"}
    assert offered(Stream) - {"close"} == offered(AsyncStream) - {"aclose", "cancel"}
    for name in offered(AsyncClient) - {"aclose"}:
        parameters = [signature(getattr(kind, name)).parameters for kind in (Client, AsyncClient)]
        assert parameters[0] == parameters[1], name


async def test_every_method_works() -> None:
    async with running_front() as front:

        def ask() -> None:
            front.models.request_ids = (RequestId("abcd1234"),)
            with Client(front.target) as client:
                assert client.status().models == client.models()
                assert len(client.tiers()) == 3
                assert client.requests() == ()
                assert client.cancel("abcd") == "abcd1234"
                assert client.identity().name == "desk"
                assert client.tokenize("Hi") == (1, 2, 3)
                assert client.count_tokens("Hi").num_tokens == 3

        await aside(ask)


async def test_closing_a_stream_cancels_on_the_daemon() -> None:
    async with playing(then(says(admitted()), is_silent())) as daemon:

        def ask() -> None:
            stream = client.generate("Hi")
            next(stream)
            stream.close()
            stream.close()
            assert next(stream, None) is None

        with Client(daemon.address) as client:
            await aside(ask)
            await daemon.wait_until_given_up()


async def test_threads_share_a_client() -> None:
    async with playing(says(*WHOLE)) as daemon:

        def ask_often() -> list[str]:
            with Client(daemon.address) as client, ThreadPoolExecutor(8) as pool:
                return [answer.text for answer in pool.map(client.complete, ["Hi"] * 64)]

        assert await aside(ask_often) == ["Paris"] * 64


async def test_a_client_leaves_no_thread() -> None:
    assert threads_of_clients() == 0
    async with playing(says(*WHOLE)) as daemon:

        def ask() -> int:
            with Client(daemon.address) as client:
                client.complete("Hi")
                return threads_of_clients()

        assert await aside(ask) == 1
    assert threads_of_clients() == 0


async def test_a_client_that_is_dropped_leaves_no_thread() -> None:
    async with playing(says(*WHOLE)) as daemon:

        def ask() -> int:
            client = Client(daemon.address)
            client.complete("Hi")
            return threads_of_clients()

        assert await aside(ask) == 1
        await aside(gc.collect)
    assert threads_of_clients() == 0


async def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    stream = client.generate("Hi")
    client.close()
    client.close()
    assert client.is_closed
    stream.close()
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        client.status()
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        next(stream)


async def test_closing_the_client_ends_a_wait_of_another_thread() -> None:
    async with playing(then(says(admitted()), is_silent())) as daemon:
        client = Client(daemon.address)
        stream = client.generate("Hi")
        await aside(lambda: next(stream))
        waiting = asyncio.create_task(aside(stream.answer))
        await aside(client.close)
        with pytest.raises(RequestCancelledError):
            await waiting


async def test_closing_the_client_ends_a_wait_for_another_attempt() -> None:
    full = refuses(EdgedError(Reason.QUEUE_FULL, "the queue is full", retry_after_s=20.0))
    async with playing(full) as daemon:
        client = Client(daemon.address)
        waiting = asyncio.create_task(aside(lambda: client.complete("Hi")))
        await within_time(daemon.called)
        with pytest.raises(TimeoutError):  # it waits for 20 s
            await asyncio.wait_for(asyncio.shield(waiting), 0.2)
        await aside(client.close)
        with pytest.raises(RequestCancelledError, match="the client was closed"):
            await waiting


async def test_closing_a_stream_ends_a_wait_of_another_thread() -> None:
    async with playing(is_silent()) as daemon:
        with Client(daemon.address) as client:
            stream = client.generate("Hi")
            waiting = asyncio.create_task(aside(stream.answer))
            await within_time(daemon.called)
            await aside(stream.close)
            with pytest.raises(RequestCancelledError, match="the stream was closed"):
                await waiting
            await daemon.wait_until_given_up()


@pytest.mark.parametrize(
    "ending",
    [
        "client.complete('Hi')",
        "next(client.generate('Hi'))",
        "stream = client.generate('Hi'); next(stream)",
        "stream = client.generate('Hi'); next(stream); del client",
        "client.close()",
        "client.complete('Hi'); raise SystemExit(0)",
        "import threading; threading.Thread(target=client.complete, args=['Hi']).start()",
    ],
)
async def test_a_program_ends_without_a_word(ending: str) -> None:
    code = f"import sys; from edged.client import Client; client = Client(sys.argv[1]); {ending}"
    async with playing(says(*WHOLE)) as daemon:
        assert await run_program(code, daemon.address) == (0, "", "")


async def test_a_program_ends_though_an_answer_is_waited_for() -> None:
    """By a thread that does not keep it."""
    code = """
import sys, threading
from edged.client import AsyncClient, AsyncStream, Client, Stream
client = Client(sys.argv[1])
stream = client.generate("Hi")
next(stream)
def read():
    try:
        stream.answer()
    except Exception:
        pass
threading.Thread(target=read, daemon=True).start()
"""
    async with playing(then(says(admitted()), is_silent())) as daemon:
        assert await run_program(code, daemon.address) == (0, "", "")
        await daemon.wait_until_given_up()


async def test_a_lost_connection_is_told_by_the_error_alone() -> None:
    code = """
import sys
from edged.client import Client, ClientError
try:
    Client(sys.argv[1]).complete("Hi")
except ClientError as error:
    print(error.text_so_far)
"""
    async with playing(then(says(*WHOLE[:2]), dies())) as daemon:
        assert await run_program(code, daemon.address) == (0, "Par\n", "")


async def test_ctrl_c_cancels_the_request_and_is_raised() -> None:
    code = """
import sys
from edged.client import AsyncClient, AsyncStream, Client, Stream
with Client(sys.argv[1]) as client:
    try:
        for event in client.generate("Hi"):
            print("asked", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()
"""
    async with playing(then(says(admitted()), is_silent())) as daemon:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", code, daemon.address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(GATE_TIMEOUT_S):
            assert await process.stdout.readline() == b"asked\n"
            process.send_signal(signal.SIGINT)
            assert await process.stdout.readline() == b"interrupted\n"
            # The program still runs: nothing but the cancellation can have told the daemon.
            await daemon.wait_until_given_up()
            output, errors = await process.communicate(b"\n")
        assert (process.returncode, output, errors) == (0, b"", b"")


async def test_a_client_in_the_child_of_a_fork_says_so() -> None:
    code = """
import os, sys
from edged.client import AsyncClient, AsyncStream, Client, Stream
client = Client(sys.argv[1])
stream = client.generate("Hi")
if os.fork():
    os.wait()
    print(client.complete("Hi").text)
else:
    for use in (client.status, lambda: next(stream)):
        try:
            use()
        except RuntimeError as error:
            print(error, flush=True)
    client.close()
"""
    async with playing(says(*WHOLE)) as daemon:
        code_, output, errors = await run_program(code, daemon.address)
    told = "a client does not survive a fork: make another one in the child\n"
    assert (code_, output, errors) == (0, f"{told}{told}Paris\n", "")


async def test_a_second_event_loop_is_told() -> None:
    code = """
import asyncio, sys
from edged.client import AsyncClient
client = AsyncClient(sys.argv[1])
async def ask():
    return (await client.complete("Hi")).text
print(asyncio.run(ask()))
try:
    asyncio.run(ask())
except RuntimeError as error:
    print(error)
"""
    async with playing(says(*WHOLE)) as daemon:
        code_, output, errors = await run_program(code, daemon.address)
    told = "a client belongs to one event loop: make another one for this"
    assert (code_, output, errors) == (0, f"Paris\n{told}\n", "")


def test_nobody_there_is_told() -> None:
    with Client("127.0.0.1:1", retry=None) as client, pytest.raises(UnreachableError):
        client.status()
