"""A front over models that are played by hand."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.rpc.front import Front, running_front


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    async with running_front() as running:
        yield running
