"""The urgent go first: an interactive request takes a slot from batch work, which goes on later."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import Answer, ask, check_equal, work
from tests.models import embedded_model, require_llama_cpp

STEP_S = 0.005


def batch() -> list[pb.GenerateRequest]:
    """As many as there are slots, for about a second."""
    requests = work(2, max_tokens=140)
    for request in requests:
        request.tier = pb.TIER_BATCH
    return requests


CHAT = ask("hello, is anybody there?", tier=pb.TIER_INTERACTIVE, max_tokens=20)


async def run_over_batch(daemon: Daemon) -> tuple[list[Answer], Answer]:
    """The answers of batch work that fills every slot, and of a chat that comes upon it."""
    streams = [daemon.generate(request) for request in batch()]
    for stream in streams:
        await stream.tokens(3)
    urgent = await daemon.generate(CHAT).end()
    return [await stream.end() for stream in streams], urgent


def preempted(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.causes]


@pytest.mark.parametrize(
    ("cached_sequences", "snapshot_bytes", "cause"),
    [
        (16, 2**30, pb.PREEMPTION_CAUSE_PARK),
        (0, 2**30, pb.PREEMPTION_CAUSE_SWAP),
        (0, 0, pb.PREEMPTION_CAUSE_RECOMPUTE),
    ],
    ids=["park", "swap", "recompute"],
)
async def test_interactive_request_overtakes_batch_work(
    cached_sequences: int,
    snapshot_bytes: int,
    cause: "pb.PreemptionCause.ValueType",
    tmp_path: Path,
) -> None:
    engine = {
        "max_sequences": 2,
        "cached_sequences": cached_sequences,
        "snapshot_bytes": snapshot_bytes,
    }
    async with serving(tmp_path, sim_tables(engine=engine, step_s=STEP_S)) as daemon:
        # One after the other: what is preempted here would be counted below.
        wanted = [await daemon.generate(request).end() for request in (*batch(), CHAT)]
        answers, urgent = await run_over_batch(daemon)
        check_equal([*answers, urgent], wanted)
        (victim,) = preempted(answers)
        assert victim.causes[0] == cause
        assert victim.first_at_s("preempted") < victim.first_at_s("resumed")
        assert urgent.first_at_s("token") < victim.first_at_s("resumed")
        assert urgent.arrived_s[-1] < min(answer.arrived_s[-1] for answer in answers)
        assert victim.finished.timings.num_preemptions == len(victim.causes)
        assert urgent.finished.timings.num_preemptions == 0
        model = await daemon.model_until(lambda model: not model.kv.used_slots)
        counts = {
            pb.PREEMPTION_CAUSE_PARK: model.num_parks,
            pb.PREEMPTION_CAUSE_SWAP: model.num_swaps,
            pb.PREEMPTION_CAUSE_RECOMPUTE: model.num_recomputes,
        }
        assert counts[cause] == len(victim.causes)


async def test_without_the_policy_the_interactive_request_waits(tmp_path: Path) -> None:
    tables = sim_tables(engine={"max_sequences": 2}, step_s=STEP_S)
    async with serving(tmp_path, tables, "--policy", "fcfs") as daemon:
        answers, urgent = await run_over_batch(daemon)
        assert not preempted(answers)
        # Its first token and their last come on streams of their own, a step apart.
        assert urgent.arrived_s[-1] > min(answer.arrived_s[-1] for answer in answers)


@pytest.mark.model
async def test_a_real_model_counts_on_after_a_chat_had_its_slot(tmp_path: Path) -> None:
    require_llama_cpp()
    embedded_model()
    engine = {"context_tokens": 512, "max_sequences": 1, "num_threads": 1}
    async with serving(
        tmp_path, {"engine": engine, "models.embedded": {"path": "embedded"}}
    ) as daemon:
        await daemon.ready()
        request = ask("1, 2, 3, 4, 5, 6, 7, 8,", tier=pb.TIER_BATCH, max_tokens=48, ignore_eos=True)
        wanted = await daemon.generate(request).end()
        assert wanted.text.startswith(" 9, 10, 11, 12,")
        batch = daemon.generate(request)
        await batch.tokens(5)
        urgent = await daemon.generate(CHAT).end()
        answer = await batch.end()
        assert answer.causes == [pb.PREEMPTION_CAUSE_SWAP]
        assert urgent.arrived_s[-1] < answer.first_at_s("resumed")
        assert answer.token_ids == wanted.token_ids
        assert answer.finished.timings.num_preemptions == 1
