"""The whole of it on a real model, SmolLM2-135M-Instruct: three engines with KV of three types."""

import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio

from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.streams import WAIT_S, ask, chat
from tests.models import embedded_model, require_llama_cpp

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

SYSTEM = "You answer questions about geography."
"""Under its template's own system message this model answers the question in broken French, and
llama.cpp by itself does the same."""
QUESTION = "What is the capital of France?"
FRANCE = chat(SYSTEM, QUESTION)
COUNT = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,"
KV_NUMBERS = 30 * 3 * 64 * 2
"""Numbers of K and V for one token: layers × KV heads × head size × 2."""
KV_BYTES = {"f16": KV_NUMBERS * 2, "q8_0": KV_NUMBERS * 34 // 32, "q4_0": KV_NUMBERS * 18 // 32}
MAX_IDLE_BYTES = 120 * 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """A model for each KV type; the first is the default."""
    require_llama_cpp()
    embedded_model()
    # Threads of ggml wait for each other by spinning: on a busy machine one is faster.
    engine = {"context_tokens": 1024, "max_sequences": 4, "num_threads": 1}
    models = {
        f"models.{name}": {"path": "embedded", "kv_type": name} for name in ("q8_0", "f16", "q4_0")
    }
    async with serving(tmp_path_factory.mktemp("embedded"), {"engine": engine, **models}) as daemon:
        yield daemon


@pytest.mark.parametrize("kv_type", KV_BYTES)
async def test_status_reports_the_kv_type_that_is_held(daemon: Daemon, kv_type: str) -> None:
    model = await daemon.ready(kv_type)
    assert model.kv.effective_type == kv_type
    assert model.kv.bytes_per_token == KV_BYTES[kv_type]
    assert model.kv.capacity_tokens == 1024
    answer = await daemon.generate(ask(FRANCE, model=kv_type, max_tokens=24)).end()
    assert "Paris" in answer.text


async def test_daemon_itself_is_small_and_has_loaded_no_runtime(daemon: Daemon) -> None:
    model = await daemon.ready()
    await daemon.generate(ask(FRANCE)).end()
    assert (await daemon.status()).resident_bytes < MAX_IDLE_BYTES
    assert psutil.Process(daemon.pid).memory_info().rss < MAX_IDLE_BYTES
    if not sys.platform.startswith("linux"):
        pytest.skip("what a process has loaded is read from /proc")
    assert runtimes_in(model.engine_pid) == {"libllama"}, "else the line below says nothing"
    assert runtimes_in(daemon.pid) == set()


def runtimes_in(pid: int) -> set[str]:
    """The runtimes whose libraries a process has mapped."""
    mapped = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("libllama", "libmlx") if name in mapped}


async def test_edgectl_run_gives_a_sensible_answer(daemon: Daemon) -> None:
    done = await daemon.edgectl(
        *("run", "--temperature", "0", "--max-tokens", "24", "--system", SYSTEM, QUESTION)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of France is Paris.\n"


async def test_chat_knows_what_was_said_before(daemon: Daemon) -> None:
    said = chat(SYSTEM, QUESTION, "The capital of France is Paris.", "And Japan?")
    answer = await daemon.generate(ask(said, max_tokens=24)).end()
    assert "Tokyo" in answer.text


async def test_answer_ends_before_a_stop_string(daemon: Daemon) -> None:
    answer = await daemon.generate(ask(FRANCE, max_tokens=24, stop=["Paris"])).end()
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    assert answer.finished.stop == "Paris"
    assert answer.text == "The capital of France is "


async def test_answer_ends_by_itself(daemon: Daemon) -> None:
    answer = await daemon.generate(ask(FRANCE, max_tokens=64)).end()
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    assert answer.finished.stop == ""
    assert answer.finished.usage.num_generated_tokens < 64
    assert "<|im_end|>" not in answer.text


async def test_logprobs_are_those_of_the_likeliest_tokens(daemon: Daemon) -> None:
    answer = await daemon.generate(ask(FRANCE, max_tokens=6, logprobs=3)).end()
    positions = [position for delta in answer.deltas for position in delta.logprobs]
    assert [position.chosen.token_id for position in positions] == answer.token_ids
    assert b"".join(position.chosen.piece for position in positions).decode() == answer.text
    for position in positions:
        logprobs = [one.logprob for one in position.top]
        assert len(logprobs) == 3
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1.0 + 1e-6
        assert position.top[0].token_id == position.chosen.token_id, "greedy takes the likeliest"
        assert position.top[0].piece == position.chosen.piece
        assert position.chosen.logprob == pytest.approx(logprobs[0])


async def test_tokens_are_counted_as_generate_counts_them(daemon: Daemon) -> None:
    prompt = pb.Prompt(chat=FRANCE)
    tokenized = await daemon.inference.Tokenize(pb.TokenizeRequest(prompt=prompt), timeout=WAIT_S)
    request = pb.CountTokensRequest(prompt=prompt)
    counted = await daemon.inference.CountTokens(request, timeout=WAIT_S)
    by_chat = await daemon.generate(ask(FRANCE, max_tokens=8)).end()
    by_ids = await daemon.generate(ask(tokenized.token_ids, max_tokens=8)).end()
    assert counted.num_tokens == len(tokenized.token_ids)
    assert counted.max_tokens == 1024
    assert by_chat.finished.usage.num_prompt_tokens == counted.num_tokens
    assert by_ids.token_ids == by_chat.token_ids


async def test_prompt_that_can_never_fit_is_refused_with_both_numbers(daemon: Daemon) -> None:
    answer = await daemon.generate(ask("word " * 2000)).end()
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert answer.reason == "PROMPT_TOO_LONG"
    for number in ("2001", "1024"):
        assert number in answer.detail


async def test_streams_count_on_when_their_engine_is_killed(daemon: Daemon) -> None:
    before = await daemon.ready()
    request = ask(COUNT, max_tokens=60, ignore_eos=True)
    wanted = await daemon.generate(request).end()
    assert wanted.text.startswith(" 17, 18, 19, 20,")
    streams = [daemon.generate(request) for _ in range(2)]
    for stream in streams:
        await stream.tokens(10)
    os.kill(before.engine_pid, signal.SIGKILL)
    for stream in streams:
        answer = await stream.end()
        assert answer.causes == [pb.PREEMPTION_CAUSE_ENGINE_LOST]
        assert answer.count("resumed") == 1
        assert answer.finished.timings.num_engine_losses == 1
        assert len(answer.token_ids) == 60
        # What counts is so sure of the next number that no rounding changes it.
        assert answer.token_ids == wanted.token_ids
    after = await daemon.ready()
    assert after.num_engine_losses == before.num_engine_losses + 1
    assert after.engine_pid != before.engine_pid
