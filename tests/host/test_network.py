"""edged under a real systemd, on a network: its sandbox lets it be found, and asked with TLS."""

import asyncio
import base64
import json
from collections.abc import Iterator

import pytest

from edged.cli.exits import ExitCode
from tests.e2e.settings import sim_tables
from tests.host.booted import BootedHost
from tests.host.service import dropped_in, running

ADDRESS = "192.0.2.1"
LISTEN = f"{ADDRESS}:7411"
TOKENS = "/etc/credstore/edged.tokens"

pytestmark = pytest.mark.timeout(1200)  # the first test installs edged


@pytest.fixture
def network(installed: BootedHost) -> Iterator[BootedHost]:
    """With an interface that can multicast, to itself."""
    made = installed.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    if made.returncode:
        pytest.skip(f"no network interface can be made: {made.stderr}")
    for words in (
        "link set lan1 up",
        f"address add {ADDRESS}/24 dev lan0",
        "link set lan0 up multicast on",
        "route add 224.0.0.0/4 dev lan0",
    ):
        installed.check("ip", *words.split())
    yield installed
    installed.check("ip", "link", "delete", "lan0")


@pytest.fixture
def token(network: BootedHost) -> Iterator[str]:
    """One that an operator made before the first start, for systemd to hand over."""
    network.check("mkdir", "--parents", "/etc/credstore")
    yield network.check("edgectl", "token", "create", "laptop", "--file", TOKENS).strip()
    network.check("find", "/etc/credstore", "-name", "*edged.tokens*", "-delete")
    network.check("rmdir", "/etc/credstore")


async def test_service_is_found_paired_with_and_asked_across_the_network(
    network: BootedHost, token: str
) -> None:
    tables = sim_tables(server={"listen": LISTEN, "discovery": True})
    async with running(network, tables) as service:
        await service.until(lambda: '"advertised"' in "".join(service.lines()), "it is announced")
        found = await asyncio.to_thread(
            network.check, "edgectl", "discover", "--json", user="alice"
        )
        peer = json.loads(found)
        assert (peer["addresses"], peer["auth"]) == ([LISTEN], "token")
        pinned = ("--fingerprint", peer["fingerprint"], "--token", token)
        await asyncio.to_thread(network.check, "edgectl", "pair", LISTEN, *pinned, user="alice")
        ask = ("edgectl", "--host", LISTEN, "run", "--max-tokens", "4", "hello")
        for user, code in (("alice", ExitCode.OK), ("bob", ExitCode.DENIED)):
            done = await asyncio.to_thread(network.run, *ask, user=user)
            assert done.returncode == code, f"{user}: {done.stderr}"
        assert network.path("/var/lib/private/edged/key.pem").exists(), "its own certificate"


async def test_key_that_only_root_reads_is_handed_over_as_a_credential(
    network: BootedHost, token: str
) -> None:
    key, certificate = "/etc/ssl/private/edged-test.key", "/etc/ssl/certs/edged-test.crt"
    network.check("mkdir", "--parents", "/etc/ssl/private")
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=edged")
    network.check("openssl", "req", "-x509", *made, "-keyout", key, "-out", certificate)
    network.check("chmod", "0600", key)
    given = "/run/credentials/edged.service/tls.key"
    server = {"listen": LISTEN, "tls_certificate": certificate, "tls_key": given}
    with dropped_in(network, f"[Service]\nLoadCredential=tls.key:{key}\n"):
        async with running(network, sim_tables(server=server)):
            shown = await asyncio.to_thread(network.check, "edgectl", "identity", "--json")
            der = ("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
            digest = bytes.fromhex(network.check(*der).partition("=")[2].strip().replace(":", ""))
            encoded = base64.b64encode(digest).decode().rstrip("=")
            assert f"SHA256:{encoded}" in shown
    network.check("rm", key, certificate)
