"""A client in Node.js, whose gRPC shares no code with the daemon's, over TCP and its socket."""

from pathlib import Path
from typing import Any

import pytest

from edged.v1 import admin_pb2
from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import ask
from tests.interop.node import Node, Seen
from tests.unit.test_docs import DEFAULT_ADDRESS, blocks, section

SEED = 20261128
TEXT = "Once upon a time"
NUM_TOKENS = 40
SERVICE = "edged.v1.InferenceService"


async def tcp(daemon: Daemon) -> str:
    """HOST:PORT of it."""
    return next(one for one in (await daemon.status()).listeners if not one.startswith("unix:"))


async def unix(daemon: Daemon) -> str:
    return f"unix:{daemon.socket}"


def asking(max_tokens: int = NUM_TOKENS, **changes: Any) -> Seen:
    """The same request as `ask(TEXT, …)` of the Python client, seeded."""
    sampling = {"max_tokens": max_tokens, "temperature": 1, "seed": SEED, "ignore_eos": True}
    request = {"prompt": {"text": TEXT}, "sampling": sampling, "tier": "TIER_INTERACTIVE"}
    return {**request, "client": "node", **changes}


async def all_free(daemon: Daemon, num_ended: int) -> None:
    """Wait until so many requests have ended and nothing holds a slot or a cell. What a status
    says of requests is as old as what it says of cells, so that both are of one moment."""

    def is_free(model: admin_pb2.Model) -> bool:
        ended = sum(tier.num_finished for tier in model.tiers)
        return ended == num_ended and not (model.kv.used_tokens or model.kv.used_slots)

    await daemon.model_until(is_free)
    assert await daemon.requests() == []


def token_ids(seen: list[Seen]) -> list[int]:
    """The tokens, having checked that each event goes on where the one before ended."""
    ids: list[int] = []
    for event in seen:
        if event.get("event") == "token":
            assert event["index"] == len(ids)
            ids += event["token_ids"]
    return ids


def detail(error: Seen, name: str) -> Seen:
    [found] = [one for one in error["details"] if one["@type"] == f"google.rpc.{name}"]
    return found


@pytest.mark.parametrize("where", [tcp, unix])
async def test_it_streams_the_events_and_the_text_that_a_client_in_python_gets(
    node: Node, tmp_path: Path, where: Any
) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        seen = await node.client("generate", await where(daemon), request=asking())
        request = ask(
            TEXT,
            max_tokens=NUM_TOKENS,
            tier=pb.TIER_INTERACTIVE,
            temperature=1,
            seed=SEED,
            ignore_eos=True,
        )
        answer = await daemon.generate(request).end()
    *events, last = seen
    assert last == {"end": True}
    assert (events[0]["event"], events[-1]["event"]) == ("admitted", "finished")
    tokens = [event for event in events if event["event"] == "token"]
    assert token_ids(events) == answer.token_ids
    assert len(answer.token_ids) == NUM_TOKENS
    assert "".join(token["text"] for token in tokens) == answer.text
    assert not answer.text.isascii(), "text in more than one byte a character came across"
    assert events[-1]["reason"] == "FINISH_REASON_LENGTH"
    assert events[-1]["usage"]["num_generated_tokens"] == NUM_TOKENS


@pytest.mark.parametrize("where", [tcp, unix])
async def test_a_cancelled_call_frees_what_the_request_held(
    node: Node, tmp_path: Path, where: Any
) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        endless = asking(10_000)
        seen = await node.client("generate", await where(daemon), request=endless, cancel_after=3)
        assert [one["event"] for one in seen if "event" in one].count("token") >= 3
        assert next(one["error"] for one in seen if "error" in one)["code"] == "CANCELLED"
        await all_free(daemon, num_ended=1)
        request_id = seen[0]["request_id"]
        assert request_id in {line.get("request_id") for line in daemon.log}


async def test_a_deadline_ends_the_request_in_the_daemon_too(node: Node, tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables(step_s=0.01)) as daemon:
        await daemon.ready()
        endless = asking(10_000)
        seen = await node.client("generate", await tcp(daemon), request=endless, deadline_s=1)
        assert "token" in [one.get("event") for one in seen]
        assert next(one["error"] for one in seen if "error" in one)["code"] == "DEADLINE_EXCEEDED"
        await all_free(daemon, num_ended=1)


async def test_a_wrong_request_is_told_field_by_field(node: Node, tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        wrong = asking(sampling={"top_p": 7, "temperature": -1})
        first, *_ = await node.client("generate", await tcp(daemon), request=wrong)
    error = first["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    info = detail(error, "ErrorInfo")
    assert (info["reason"], info["domain"]) == ("INVALID_ARGUMENT", "edged")
    violations = detail(error, "BadRequest")["field_violations"]
    assert {one["field"] for one in violations} == {"sampling.top_p", "sampling.temperature"}
    assert all(one["description"] for one in violations)


async def test_an_unknown_model_is_told_by_its_reason(node: Node, tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        address = await tcp(daemon)
        first, *_ = await node.client("generate", address, request=asking(model="nope"))
    assert first["error"]["code"] == "NOT_FOUND"
    assert detail(first["error"], "ErrorInfo")["reason"] == "UNKNOWN_MODEL"


async def test_a_full_queue_is_told_with_the_time_to_try_again(node: Node, tmp_path: Path) -> None:
    tables = {
        **sim_tables(engine={"max_sequences": 1}, step_s=0.01),
        "tiers.interactive": {"max_waiting": 1},
    }
    async with serving(tmp_path, tables) as daemon:
        await daemon.ready()
        runs = daemon.generate(ask("runs", max_tokens=None, tier=pb.TIER_INTERACTIVE))
        await runs.tokens(1)
        address = await tcp(daemon)
        endless = asking(10_000)
        async with node.starting("generate", address, request=endless) as waits:
            await waits.until("admitted")
            first, *_ = await node.client("generate", address, request=asking(client="other"))
        error = first["error"]
        assert error["code"] == "RESOURCE_EXHAUSTED"
        assert detail(error, "ErrorInfo")["reason"] == "QUEUE_FULL"
        delay = detail(error, "RetryInfo")["retry_delay"]
        retry_ms = delay["seconds"] * 1000 + delay["nanos"] / 1e6
        assert retry_ms > 0
        assert [float(text) for text in error["pushback_ms"]] == [pytest.approx(retry_ms, abs=1)]
        await runs.leave()
        await all_free(daemon, num_ended=2)


async def test_the_health_of_the_service_is_seen(node: Node, tmp_path: Path) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        assert await node.client("health", await tcp(daemon), service=SERVICE) == [
            {"status": "SERVING"}
        ]
        [unknown] = await node.client("health", await unix(daemon), service="nope")
        assert unknown["error"]["code"] == "NOT_FOUND"


async def test_a_client_without_proto_files_generates_through_reflection(
    node: Node, tmp_path: Path
) -> None:
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        first, *seen = await node.client("reflection", await tcp(daemon), request=asking(5))
    assert {SERVICE, "edged.v1.AdminService"} <= set(first["services"])
    kinds = [one.get("event", "end") for one in seen]
    assert (kinds[0], kinds[-2:]) == ("admitted", ["finished", "end"])
    assert len(token_ids(seen)) == 5


async def test_the_example_of_the_readme_streams_an_answer(node: Node, tmp_path: Path) -> None:
    code, *_ = blocks(section("Other languages"), "js")
    assert DEFAULT_ADDRESS in code
    async with serving(tmp_path, sim_tables()) as daemon:
        await daemon.ready()
        code = code.replace(DEFAULT_ADDRESS, await tcp(daemon))
        async with node.running("-e", code) as example:
            printed = await example.output()
        content = "What is the capital of France? Answer in one sentence."
        prompt = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=content)])
        request = ask(prompt, max_tokens=60, tier=pb.TIER_INTERACTIVE)
        answer = await daemon.generate(request).end()
    assert len(answer.text) > 10
    assert printed == answer.text + "\n"
