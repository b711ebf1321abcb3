"""Two machines pair: a real daemon, `edgectl` at a terminal at each end, and what comes of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edged.client.connect.peers import PeerBook
from edged.places import peers_file, state_directory
from tests.cli.program import Program
from tests.cli.terminal import Terminal
from tests.e2e.daemon import Daemon, environment_of, serving
from tests.e2e.settings import sim_tables

CODE = re.compile(r"code (\d{3} \d{3})")


@dataclass
class Machines:
    daemon: Daemon
    address: str
    """As the client reaches it."""
    here: Program
    """`edgectl` on the daemon's machine."""
    there: Program
    """`edgectl` on the other one."""


@asynccontextmanager
async def machines(folder: Path, port: int = 0) -> AsyncIterator[Machines]:
    """A daemon that other hosts can reach, with a token for somebody else."""
    ours, theirs = folder / "daemon", folder / "client"
    for one in (ours, theirs):
        one.mkdir(exist_ok=True)
    environ = environment_of(ours)
    tokens = state_directory(environ) / "tokens.json"
    if not tokens.exists():
        Program("edgectl", environ).run("token", "create", "somebody", "--file", str(tokens))
    async with serving(ours, sim_tables(), "--listen", f"0.0.0.0:{port}") as daemon:
        listening = await daemon.logged("listening")
        port = next(
            int(one.rpartition(":")[2]) for one in listening["listeners"] if "0.0.0.0:" in one
        )
        await daemon.ready()
        yield Machines(
            daemon,
            f"127.0.0.1:{port}",
            daemon.program("edgectl"),
            Program("edgectl", environment_of(theirs)),
        )


def code_in(terminal: Terminal) -> str:
    found = CODE.search(terminal.shown)
    assert found, terminal.shown
    return found[1]


def pair_by_code(where: Machines, *grant: str) -> None:
    """Both ends, each with a person who says yes."""
    with ExitStack() as opened:
        here = Terminal(where.here, ("pair", "--once", *grant), {})
        opened.callback(here.close)
        here.read_until("Ctrl-C ends")
        there = Terminal(
            where.there, ("pair", where.address, "--as", "laptop", "--name", "box"), {}
        )
        opened.callback(there.close)
        there.read_until("answer there")
        here.read_until("[y/N]")
        assert "laptop at 127.0.0.1 wants to pair" in here.shown
        assert code_in(here) == code_in(there)
        here.type("y\n")
        assert here.exit_code() == 0
        there.read_until("[y/N]")
        there.type("y\n")
        assert there.exit_code() == 0
        assert "paired with box" in there.shown
        shown = {re.search(r"SHA256:\S+", one.shown)[0] for one in (here, there)}  # type: ignore[index]  # there is one
        assert len(shown) == 1, "both ends show the same certificate"


async def test_two_machines_pair_and_one_uses_the_other_until_its_certificate_changes(
    tmp_path: Path,
) -> None:
    async with machines(tmp_path) as where:
        await asyncio.to_thread(pair_by_code, where, "--tier", "standard")
        asked = await asyncio.to_thread(where.there.run, "--host", "box", "run", "Hi", "-n", "3")
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout
        urgent = await asyncio.to_thread(
            where.there.run, "--host", "box", "run", "Hi", "-n", "3", "--tier", "interactive"
        )
        assert urgent.returncode == 5, "the token is for less urgent tiers"
        listed = await asyncio.to_thread(where.here.run, "token", "list")
        assert re.search(r"^laptop .* standard ", listed.stdout, re.MULTILINE)
        revoked = await asyncio.to_thread(where.here.run, "token", "revoke", "laptop")
        assert revoked.returncode == 0
        refused = await asyncio.to_thread(where.there.run, "--host", "box", "ps")
        assert (refused.returncode, "revoked" in refused.stderr) == (5, True)
        port = int(where.address.rpartition(":")[2])
    state = state_directory(environment_of(tmp_path / "daemon"))
    for name in ("key.pem", "certificate.pem"):
        (state / name).unlink()
    async with machines(tmp_path, port) as where:
        for host in ("box", f"tls:{where.address}"):
            changed = await asyncio.to_thread(where.there.run, "--host", host, "ps")
            assert changed.returncode == 5
            assert "THE CERTIFICATE OF box HAS CHANGED" in changed.stderr
        again = await asyncio.to_thread(
            where.there.run, "pair", where.address, "--fingerprint", "0" * 64
        )
        assert (again.returncode, "HAS CHANGED" in again.stderr) == (5, True)
        forgotten = await asyncio.to_thread(where.there.run, "pair", "--forget", "box")
        assert forgotten.returncode == 0
        await asyncio.to_thread(pair_by_code, where)


async def test_a_script_pairs_with_a_token_and_the_fingerprint_that_identity_shows(
    tmp_path: Path,
) -> None:
    async with machines(tmp_path) as where:
        identity = await asyncio.to_thread(where.here.run, "identity")
        fingerprint = re.search(r"SHA256:\S+", identity.stdout)
        assert fingerprint
        made = await asyncio.to_thread(where.here.run, "token", "create", "script")
        paired = await asyncio.to_thread(
            lambda: where.there.run(
                *("pair", where.address, "--token", "-", "--fingerprint", fingerprint[0]),
                stdin=made.stdout,
            )
        )
        assert paired.returncode == 0, paired.stderr
        [peer] = PeerBook(peers_file(where.there.environ)).all()
        assert peer.token == made.stdout.strip()
        plain = await asyncio.to_thread(
            where.there.run, "--host", f"plaintext:{where.address}", "ps"
        )
        assert (plain.returncode, "speaks TLS" in plain.stderr) == (3, True)
        for secret in (made.stdout.strip(), peer.certificate_pem):
            assert secret not in str(where.daemon.log)


@pytest.mark.parametrize("leaves", ["client", "administrator"])
async def test_whoever_leaves_a_pairing_ends_it_for_the_other(tmp_path: Path, leaves: str) -> None:
    def act(where: Machines) -> None:
        with ExitStack() as opened:
            here = Terminal(where.here, ("pair",), {})
            opened.callback(here.close)
            here.read_until("Ctrl-C ends")
            there = Terminal(where.there, ("pair", where.address), {})
            opened.callback(there.close)
            here.read_until("[y/N]")
            if leaves == "client":
                there.interrupt_until_it_leaves()
                assert there.exit_code() == 130
                here.type("y\n")
                here.read_until("its client has left")
                here.interrupt_until_it_leaves()
                assert here.exit_code() == 130
            else:
                here.interrupt_until_it_leaves()
                assert here.exit_code() == 130
                there.read_until("the administrator has left without an answer")
                assert there.exit_code() == 5

    async with machines(tmp_path) as where:
        await asyncio.to_thread(act, where)
        assert PeerBook(peers_file(where.there.environ)).all() == ()
        listed = await asyncio.to_thread(where.here.run, "token", "list")
        assert len(listed.stdout.splitlines()) == 2, "the head, and somebody else's"
