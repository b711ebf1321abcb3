"""How long a message may wait for a client that does not read."""

import asyncio
from typing import TypeVar

import grpc

from edged.errors import EdgedError, Reason

WRITE_STALL_S = 60.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def write_within(
    context: grpc.aio.ServicerContext[_Request, _Response], message: _Response, stall_s: float
) -> None:
    """Send one message of a stream; returns when the client's flow control has let it go.

    Raises:
        EdgedError: SLOW_READER; the client did not read for `stall_s`. gRPC still holds the
            message; nothing further may be written, and the client learns of the error when it
            reads on.
    """
    try:
        async with asyncio.timeout(stall_s):
            await context.write(message)
    except TimeoutError:
        raise EdgedError(
            Reason.SLOW_READER,
            f"the client has not read from the stream for {stall_s:g} s, the longest wait",
        ) from None
