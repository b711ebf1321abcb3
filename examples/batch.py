"""Summarize every line of a file: python examples/batch.py DOCUMENTS ANSWERS [DAEMON]

ANSWERS gets one JSON object a line, in the order in which they are done. Started again, it goes on
where it was; a daemon that is full, drained or started anew is waited for. What is wrong with one
document is written for it, anything else ends the job.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from edged.client import Answer, AsyncClient, ClientError, Message, RetryPolicy
from edged.client.errors import (
    BadRequestError,
    ConnectionLostError,
    RequestCancelledError,
    ServerFaultError,
)

NUM_AT_ONCE = 16
NUM_TRIES = 5
PATIENT = RetryPolicy(max_attempts=10_000, max_wait_s=3600, max_backoff_s=2)
SYSTEM = Message("system", "Summarize what you are given in one sentence.")


async def main(documents: Path, answers: Path, where: str | None = None) -> None:
    todo = documents_without(documents, answered(answers))
    client = AsyncClient(where, client="example-batch", retry=PATIENT)
    with answers.open("a") as output:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(NUM_AT_ONCE):
                group.create_task(work(client, todo, output))


async def work(client: AsyncClient, todo: Iterator[tuple[int, str]], output: TextIO) -> None:
    """Everybody draws from the same documents until there are no more."""
    for number, document in todo:
        try:
            answer = await summary(client, document)
            result = {"document": number, "summary": answer.text}
        except (BadRequestError, ServerFaultError) as error:  # it is the document's own
            result = {"document": number, "error": str(error)}
        print(json.dumps(result), file=output, flush=True)


async def summary(client: AsyncClient, document: str) -> Answer:
    """What was refused, the client has tried again by itself. What was lost half way is begun
    again here: nothing of it was used."""
    for num_left in reversed(range(NUM_TRIES)):
        try:
            return await client.complete(
                [SYSTEM, Message("user", document)], tier="batch", max_tokens=100
            )
        except (ConnectionLostError, RequestCancelledError):
            if num_left == 0:
                raise
    raise AssertionError("it returns or raises")


def documents_without(documents: Path, done: set[int]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(documents.read_text().splitlines(), start=1):
        if line and number not in done:
            yield number, line


def answered(answers: Path) -> set[int]:
    """Of an earlier run. A line that was cut short with it is taken away."""
    if not answers.exists():
        return set()
    lines = answers.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    answers.write_text("".join(whole))
    return {json.loads(line)["document"] for line in whole}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4]))
    except* ClientError as several:
        sys.exit(f"{several.exceptions[0]}")
