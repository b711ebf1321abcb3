"""A client in Node.js over the network: TLS with the daemon's own certificate, and tokens."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edged.core.types import SloTier
from edged.node.trust.grant import Grant
from edged.node.trust.identity import CERTIFICATE_FILE
from edged.node.trust.tokens import TOKENS_FILE, TokenStore
from edged.v1 import inference_pb2 as pb
from tests.e2e.daemon import Daemon, serving
from tests.e2e.settings import sim_tables
from tests.e2e.streams import ask
from tests.interop.node import Node, Seen
from tests.interop.test_node import asking, detail, token_ids
from tests.unit.test_docs import blocks, section

README_ADDRESS = "desk.local:7411"
README_CERTIFICATE = "certificate.pem"


@dataclass
class Network:
    """A daemon that listens where other hosts could reach it."""

    daemon: Daemon
    address: str
    certificate: Path
    tokens: TokenStore
    token: str
    """For everything."""

    async def ask(self, node: Node, token: str | None = None, **changes: object) -> list[Seen]:
        return await node.client(
            "generate",
            self.address,
            certificate=self.certificate.read_text(),
            token=self.token if token is None else token,
            request=asking(5, **changes),
        )


@asynccontextmanager
async def on_the_network(folder: Path) -> AsyncIterator[Network]:
    state = folder / "state"
    tokens = TokenStore(state / TOKENS_FILE)
    token, _ = tokens.create(Grant("laptop"), time.time())
    tables = sim_tables(server={"state_directory": str(state)})
    async with serving(folder, tables, "--listen", "0.0.0.0:0") as daemon:
        await daemon.ready()
        [listener] = [one for one in (await daemon.status()).listeners if "unix" not in one]
        address = f"127.0.0.1:{listener.rpartition(':')[2]}"
        yield Network(daemon, address, state / CERTIFICATE_FILE, tokens, token)


async def test_it_generates_over_tls_with_a_token(node: Node, tmp_path: Path) -> None:
    async with on_the_network(tmp_path) as network:
        seen = await network.ask(node)
        assert seen[0]["event"] == "admitted"
        assert len(token_ids(seen)) == 5
        health = await node.client(
            "health",
            network.address,
            certificate=network.certificate.read_text(),
            token=network.token,
            service="edged.v1.InferenceService",
        )
        assert health == [{"status": "SERVING"}]


@pytest.mark.parametrize(
    ("token", "reason"),
    [("", "TOKEN_MISSING"), (f"edged_00000000_{'A' * 43}", "TOKEN_INVALID")],
)
async def test_without_a_valid_token_it_is_told_so(
    node: Node, tmp_path: Path, token: str, reason: str
) -> None:
    async with on_the_network(tmp_path) as network:
        first, *_ = await network.ask(node, token)
    assert first["error"]["code"] == "UNAUTHENTICATED"
    assert detail(first["error"], "ErrorInfo")["reason"] == reason


async def test_a_token_that_is_revoked_is_refused_from_the_next_call_on(
    node: Node, tmp_path: Path
) -> None:
    async with on_the_network(tmp_path) as network:
        assert (await network.ask(node))[-1] == {"end": True}
        network.tokens.revoke("laptop", time.time())
        first, *_ = await network.ask(node)
    assert first["error"]["code"] == "UNAUTHENTICATED"
    assert detail(first["error"], "ErrorInfo")["reason"] == "TOKEN_REVOKED"


async def test_a_tier_above_the_token_s_is_refused(node: Node, tmp_path: Path) -> None:
    async with on_the_network(tmp_path) as network:
        token, _ = network.tokens.create(Grant("job", SloTier.BATCH), time.time())
        first, *_ = await network.ask(node, token)
        assert first["error"]["code"] == "PERMISSION_DENIED"
        assert detail(first["error"], "ErrorInfo")["reason"] == "TIER_NOT_ALLOWED"
        assert len(token_ids(await network.ask(node, token, tier="TIER_BATCH"))) == 5


async def test_a_limit_of_the_token_is_told_with_the_time_to_try_again(
    node: Node, tmp_path: Path
) -> None:
    async with on_the_network(tmp_path) as network:
        grant = Grant("slow", max_requests_per_minute=1)
        token, _ = network.tokens.create(grant, time.time())
        assert (await network.ask(node, token))[-1] == {"end": True}
        first, *_ = await network.ask(node, token)
    assert first["error"]["code"] == "RESOURCE_EXHAUSTED"
    assert detail(first["error"], "ErrorInfo")["reason"] == "RATE_LIMITED"
    [pushback] = first["error"]["pushback_ms"]
    assert 0 < int(pushback) <= 60_000


async def test_plaintext_and_a_certificate_of_somebody_else_come_to_nothing(
    node: Node, tmp_path: Path
) -> None:
    async with on_the_network(tmp_path / "one") as one, on_the_network(tmp_path / "two") as two:
        plain = {"token": one.token, "request": asking(5), "deadline_s": 3}
        first, *_ = await node.client("generate", one.address, **plain)
        assert first["error"]["code"] == "UNAVAILABLE"
        certificate = two.certificate.read_text()
        first, *_ = await node.client("generate", one.address, certificate=certificate, **plain)
        assert first["error"]["code"] == "UNAVAILABLE"
        assert not await one.daemon.requests()


async def test_the_example_of_the_readme_for_another_host_streams_an_answer(
    node: Node, tmp_path: Path
) -> None:
    first, second = blocks(section("Other languages"), "js")
    # The second takes the place of the first one's client.
    begin, _, rest = first.partition("const client = ")
    _, _, end = rest.partition("\n")
    assert README_ADDRESS in second
    assert README_CERTIFICATE in second
    async with on_the_network(tmp_path) as network:
        code = begin + second + end.replace("})\n  .on(", "}, metadata)\n  .on(", 1)
        assert "}, metadata)" in code
        code = code.replace(README_ADDRESS, network.address)
        code = code.replace(README_CERTIFICATE, str(network.certificate))
        async with node.running("-e", code, EDGED_TOKEN=network.token) as example:
            printed = await example.output()
        content = "What is the capital of France? Answer in one sentence."
        prompt = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=content)])
        request = ask(prompt, max_tokens=60, tier=pb.TIER_INTERACTIVE)
        answer = await network.daemon.generate(request).end()
    assert printed == answer.text + "\n"
