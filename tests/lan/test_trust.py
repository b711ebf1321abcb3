"""One host asks another's models: over TLS, with a token; and each way in which that is refused."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.cli.program import Program
from tests.e2e.daemon import Daemon, environment_of, serving
from tests.e2e.settings import sim_tables
from tests.lan.network import Host, Network
from tests.lan.watching import is_change, watching

NO_TOKEN = "edged_00000000_" + "x" * 43
EXIT_DENIED = 5
EVERYWHERE = "[::]:7411"
Done = subprocess.CompletedProcess[str]


@dataclass
class Pair:
    """A daemon on one host, and a user on another who was paired with it as `studio`."""

    daemon: Daemon
    there: Host
    here: Host
    home: Path
    token: str
    fingerprint: str

    def edgectl(self, *arguments: str, **environ: str) -> Done:
        return edgectl(self.here, self.home, *arguments, **environ)

    def ask(self, *options: str, **environ: str) -> Done:
        words = ("run", "--max-tokens", "8", "Hello")
        return self.edgectl("--host", "studio", *words, *options, **environ)

    def log(self) -> str:
        return json.dumps(self.daemon.log)


def edgectl(host: Host, home: Path, *arguments: str, stdin: str = "", **environ: str) -> Done:
    return subprocess.run(
        [*host.within, Program("edgectl").path, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**environment_of(home), **environ},
        timeout=40,
        check=False,
    )


def succeeded(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def serving_with_tls(
    host: Host, folder: Path, listen: str = EVERYWHERE, **environ: str
) -> AsyncIterator[Daemon]:
    server: Mapping[str, bool | str] = {
        "discovery": True,
        "name": "studio",
        "state_directory": str(folder / "state"),
    }
    tables = sim_tables(server=server)
    async with serving(folder, tables, "--listen", listen, within=host.within, **environ) as daemon:
        await daemon.ready()
        await daemon.logged("advertised")
        yield daemon


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The daemon's and the user's."""
    there, home = tmp_path / "daemon", tmp_path / "home"
    (there / "state").mkdir(parents=True, mode=0o700)
    home.mkdir()
    return there, home


@asynccontextmanager
async def paired(
    network: Network, folders: tuple[Path, Path], *limits: str, listen: str = EVERYWHERE
) -> AsyncIterator[Pair]:
    there, here, _ = network.hosts
    folder, home = folders
    file = ("--file", str(folder / "state"))
    token = succeeded(edgectl(there, folder, "token", "create", "laptop", *file, *limits)).strip()
    async with serving_with_tls(there, folder, listen) as daemon:
        identity = json.loads(succeeded(await daemon.edgectl("identity", "--json")))
        fingerprint = identity["fingerprint"]
        # By its name, which the network tells; so the address is found by multicast.
        trusted = ("--token", "-", "--fingerprint", fingerprint)
        succeeded(edgectl(here, home, "pair", "studio", *trusted, stdin=token))
        yield Pair(daemon, there, here, home, token, fingerprint)


async def test_a_request_goes_across_with_tls_and_a_token(
    network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders) as pair:
        assert succeeded(pair.ask())
        (found,) = map(json.loads, succeeded(pair.edgectl("discover", "--json")).splitlines())
        assert (found["peer"], found["auth"]) == ("studio", "token")
        assert found["fingerprint"] == pair.fingerprint
        (probed,) = succeeded(pair.edgectl("discover", "--probe")).splitlines()[1:]
        words = probed.split()
        assert words[3:7] == ["token", "studio", "ready", "sim"]
        line = await pair.daemon.logged("request finished")
        assert line["client"].startswith("token:laptop")
        assert pair.token.split("_", 2)[2] not in pair.log()


@pytest.mark.parametrize("interface", ["eth0", "bat0"], ids=["eth0", "as if percent-encoded"])
async def test_it_may_listen_at_an_address_of_the_link_alone(
    network: Network, folders: tuple[Path, Path], interface: str
) -> None:
    for host in network.hosts:
        host.ip("link", "set", "eth0", "down")
        host.ip("link", "set", "eth0", "name", interface)
        host.ip("link", "set", interface, "up")
    shown = network.hosts[0].ip("-6", "-o", "address", "show", "dev", interface, "scope", "link")
    where = f"[{shown.split()[3].partition('/')[0]}%{interface}]:7411"
    async with paired(network, folders, listen=where) as pair:
        assert succeeded(pair.ask())
        assert succeeded(pair.edgectl("--host", where, "identity"))


async def test_a_token_goes_to_nobody_but_who_was_paired_with(
    network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders) as pair:
        stranger = network.hosts[2]
        (found,) = succeeded(
            edgectl(stranger, pair.home.parent, "discover", "--probe", EDGED_TOKEN=pair.token)
        ).splitlines()[1:]
        assert found.split()[3:7] == ["token", "no", "not", "paired"]


@pytest.mark.parametrize(
    ("token", "sentence"),
    [(NO_TOKEN, "token"), ("edged_nonsense", "token")],
)
async def test_a_wrong_token_is_refused(
    token: str, sentence: str, network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders) as pair:
        done = pair.ask(EDGED_TOKEN=token)
        assert done.returncode == EXIT_DENIED, done.stderr
        assert sentence in done.stderr
        assert await reason(pair, token) == "TOKEN_INVALID"
        assert token not in pair.log()


async def test_a_revoked_token_is_refused(network: Network, folders: tuple[Path, Path]) -> None:
    async with paired(network, folders) as pair:
        succeeded(pair.ask())
        succeeded(await pair.daemon.edgectl("token", "revoke", "laptop"))
        done = pair.ask()
        assert done.returncode == EXIT_DENIED
        assert "revoked" in done.stderr
        assert await reason(pair, pair.token) == "TOKEN_REVOKED"
        assert pair.token.split("_", 2)[2] not in pair.log()


async def test_a_missing_token_is_refused(network: Network, folders: tuple[Path, Path]) -> None:
    async with paired(network, folders) as pair:
        assert await reason(pair, None) == "TOKEN_MISSING"


async def test_a_tier_above_the_tokens_is_refused(
    network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders, "--tier", "batch") as pair:
        succeeded(pair.ask("--tier", "batch"))
        done = pair.ask("--tier", "interactive")
        assert done.returncode == EXIT_DENIED
        assert "interactive" in done.stderr
        assert await reason(pair, pair.token, tier=1) == "TIER_NOT_ALLOWED"


async def test_a_changed_certificate_is_refused_loudly(
    network: Network, folders: tuple[Path, Path]
) -> None:
    folder, _ = folders
    async with paired(network, folders) as pair:
        pass
    for name in ("key.pem", "certificate.pem"):
        (folder / "state" / name).unlink()
    async with serving_with_tls(pair.there, folder) as other:
        done = pair.ask()
        assert done.returncode == EXIT_DENIED
        assert "HAS CHANGED" in done.stderr
        assert pair.fingerprint in done.stderr
        # What the network tells is no reason to believe it.
        (found,) = map(json.loads, succeeded(pair.edgectl("discover", "--json")).splitlines())
        assert found["peer"] is None
        assert pair.token.split("_", 2)[2] not in json.dumps(other.log)


async def test_plaintext_to_a_port_with_tls_is_told_apart(
    network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders) as pair:
        address = f"plaintext:{pair.there.address()}:7411"
        done = pair.edgectl("--host", address, "run", "Hello")
        assert done.returncode == 3
        assert "speaks TLS" in done.stderr


async def test_a_daemon_that_moved_is_found_by_its_certificate(
    network: Network, folders: tuple[Path, Path]
) -> None:
    async with paired(network, folders) as pair, watching(pair.here, pair.home) as watcher:
        await watcher.until(is_change("added", "studio"))
        pair.there.ip("address", "del", f"{pair.there.address()}/24", "dev", "eth0")
        pair.there.ip("address", "add", "10.77.0.99/24", "dev", "eth0")
        await watcher.until(
            lambda told: told["addresses"][0] == "10.77.0.99:7411" and told["peer"] == "studio"
        )
        assert succeeded(pair.ask())


async def test_it_is_found_though_another_daemon_has_its_address_now(
    network: Network, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    other = network.hosts[2]
    elsewhere = tmp_path / "other"
    (elsewhere / "state").mkdir(parents=True, mode=0o700)
    file = ("--file", str(elsewhere / "state"))
    async with paired(network, folders) as pair:
        pair.there.ip("address", "del", f"{pair.there.address()}/24", "dev", "eth0")
        pair.there.ip("address", "add", "10.77.0.99/24", "dev", "eth0")
        other.ip("address", "add", f"{pair.there.address()}/24", "dev", "eth0")
        succeeded(edgectl(other, elsewhere, "token", "create", "laptop", *file))
        async with serving_with_tls(other, elsewhere):
            identity = json.loads(succeeded(pair.edgectl("--host", "studio", "identity", "--json")))
            assert identity["fingerprint"] == pair.fingerprint


async def reason(pair: Pair, token: str | None, tier: int = 0) -> str:
    """What the daemon answers to a call without edgectl, from the other host."""
    certificate = pair.daemon.folder / "state" / "certificate.pem"
    shutil.copy(certificate, pair.home / "pinned.pem")
    script = _CALL.format(
        pem=str(pair.home / "pinned.pem"),
        address=f"{pair.there.address()}:7411",
        metadata=[("authorization", f"Bearer {token}")] if token else [],
        tier=tier,
    )
    said = pair.here.run(Program("python").path, "-c", script).split()
    assert said[0] in {grpc.StatusCode.UNAUTHENTICATED.name, grpc.StatusCode.PERMISSION_DENIED.name}
    return said[1]


_CALL = """
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from edged.v1 import inference_pb2, inference_pb2_grpc

credentials = grpc.ssl_channel_credentials(open({pem!r}, "rb").read())
options = [("grpc.ssl_target_name_override", "edged"), ("grpc.enable_http_proxy", 0)]
channel = grpc.secure_channel({address!r}, credentials, options)
stub = inference_pb2_grpc.InferenceServiceStub(channel)
request = inference_pb2.GenerateRequest(prompt=inference_pb2.Prompt(text="Hello"), tier={tier})
try:
    list(stub.Generate(request, timeout=20, metadata={metadata!r}))
    print("OK NONE")
except grpc.RpcError as error:
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        detail.Unpack(info)
    print(error.code().name, info.reason)
"""
