"""Whatever bytes come, the front lives, answers others, and has no defect to log.

Requests are mutated with hypothesis; frames are those of `tests.rpc.bursts`, with fixed seeds. The
installed daemon has the same done to it, and more, in `tests/e2e/test_hostile.py`.
"""

import asyncio
import contextlib
import logging
from random import Random

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.errors import InvalidRequestError
from edged.rpc.convert import Call, to_submission
from edged.v1 import inference_pb2 as pb
from tests.rpc.assault import Target, attack
from tests.rpc.bursts import BURSTS, mutated, valid_request
from tests.rpc.fakes import GATE_TIMEOUT_S, finished
from tests.rpc.front import TIERS, Front, ended, text_request

NUM_FRAMES = 300
"""Of each kind."""
CALL = Call("r1", seed=1, peer="ipv4:127.0.0.1:5000", remaining_s=None, now_s=0.0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_a_mutated_request_is_refused_or_valid(seed: int) -> None:
    draw = Random(seed)
    try:
        request = pb.GenerateRequest.FromString(mutated(valid_request(draw), draw))
    except DecodeError:
        return
    with contextlib.suppress(InvalidRequestError):
        assert to_submission(request, CALL, TIERS).prompt is not None


@pytest.mark.parametrize("name", BURSTS)
async def test_a_front_that_was_sent_anything_serves_on(
    front: Front, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    finishing = asyncio.create_task(_finish_all(front))
    with caplog.at_level(logging.WARNING):
        tally = await attack(Target.at(front.target), name, num_frames=NUM_FRAMES)
        assert tally.num_frames >= NUM_FRAMES
        assert not tally.ends["refused"]
        async with asyncio.timeout(GATE_TIMEOUT_S):
            assert await ended(front.inference.Generate(text_request())) == grpc.StatusCode.OK
    finishing.cancel()
    assert not caplog.records


async def _finish_all(front: Front) -> None:
    """Every request that comes through has an empty answer."""
    while True:
        stream = await front.models.submitted.get()
        stream.put(finished(stream))
