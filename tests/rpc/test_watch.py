"""When watchers are told, without a server."""

import asyncio
from contextlib import aclosing

import pytest

from edged.rpc.view import DaemonState
from edged.rpc.watch import moments_to_tell
from tests.rpc.fakes import GATE_TIMEOUT_S, PlayedModels, model_status


async def test_no_change_falls_between_the_reading_and_the_waiting() -> None:
    models = PlayedModels(model_status())
    # Stands in the event loop's queue before anything that the watcher starts.
    asyncio.get_running_loop().call_soon(lambda: models.set_status("tiny", num_engine_losses=1))
    moments = moments_to_tell(models, lambda: DaemonState.READY, 0.01, asyncio.sleep)
    async with asyncio.timeout(GATE_TIMEOUT_S), aclosing(moments):
        async for _ in moments:
            if models.status()[0].num_engine_losses == 1:
                break


async def test_an_error_of_the_models_ends_the_watch() -> None:
    class Broken(PlayedModels):
        async def wait_for_change(self) -> None:
            raise ZeroDivisionError

    moments = moments_to_tell(Broken(), lambda: DaemonState.READY, 0.01, asyncio.sleep)
    async with asyncio.timeout(GATE_TIMEOUT_S), aclosing(moments):
        await anext(moments)
        with pytest.raises(ZeroDivisionError):
            await anext(moments)
