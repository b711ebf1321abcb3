"""Daemons that were paired with: asked by name, wherever they are, and nobody in their place."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from edged.client import AsyncClient, Client, RetryPolicy
from edged.client.calling import Caller
from edged.client.connect.authorities import CA_VARIABLE
from edged.client.connect.link import Link
from edged.client.connect.peers import Peer
from edged.client.connect.target import TOKEN_VARIABLE, Plaintext, Target
from edged.client.errors import (
    BadRequestError,
    MisconfiguredError,
    NotTrustedError,
    UnreachableError,
)
from edged.client.lan.browse import Discovery
from edged.client.lan.found import FoundDaemon
from edged.client.lan.nearby import LOOK_AGAIN_S, MAX_CLAIMED, Moved, ways_to_others, ways_to_peer
from edged.client.route import MAX_OTHERS, Given, Route, given_by
from edged.clock import ManualClock
from edged.node.lan.dns_sd import Auth
from edged.places import peers_file
from tests.client.certificates import Certified, certified
from tests.client.paired import environ_of, nobody, peer
from tests.client.scripted import WHOLE, playing, says
from tests.client.servers import mute_host
from tests.rpc.fakes import GATE_TIMEOUT_S

NAMES = ("gpu-box", "nas", "attic")


def found(name: str, own: Certified, *addresses: str, as_peer: str | None = None) -> FoundDaemon:
    return FoundDaemon(name, addresses, "1.2.3", Auth.TOKEN, own.fingerprint, as_peer)


# ── Named ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_peer_is_asked_by_its_name_with_its_token(tmp_path: Path) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE), certified=own) as daemon:
        environ = environ_of(tmp_path, peer("gpu-box", own, daemon.address, token="secret"))
        async with AsyncClient("gpu-box", environ=environ) as client:
            answer = await client.complete("Hi")
    assert (answer.text, answer.admitted.daemon) == ("Paris", "gpu-box")
    assert daemon.metadata[0]["authorization"] == "Bearer secret"


async def test_the_address_that_answers_is_found_among_all(tmp_path: Path) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE), certified=own) as daemon:
        environ = environ_of(tmp_path, peer("gpu-box", own, nobody(), daemon.address, nobody()))
        async with AsyncClient("gpu-box", environ=environ) as client:
            assert (await client.complete("Hi")).text == "Paris"


async def test_a_changed_certificate_is_told_at_once_and_nothing_is_sent(tmp_path: Path) -> None:
    known, other = certified("edged"), certified("edged")
    async with playing(says(*WHOLE), certified=other) as daemon, playing(says(*WHOLE)) as spare:
        environ = environ_of(tmp_path, peer("gpu-box", known, daemon.address, token="secret"))
        where = [daemon.address.replace("127.0.0.1", "tls:127.0.0.1"), spare.address]
        async with AsyncClient(where, environ=environ) as client:
            with pytest.raises(NotTrustedError, match="THE CERTIFICATE OF gpu-box HAS CHANGED"):
                await client.complete("Hi")
    assert (daemon.num_calls, spare.num_calls) == (0, 0)


async def test_plaintext_to_a_port_with_tls_is_told() -> None:
    own = certified("edged")
    async with (
        playing(says(*WHOLE), certified=own) as daemon,
        AsyncClient(daemon.address, retry=None) as client,
    ):
        with pytest.raises(UnreachableError, match=f"reach it as tls:{daemon.address}"):
            await client.complete("Hi")


async def test_tls_to_a_port_without_is_told(tmp_path: Path) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE)) as daemon:
        environ = environ_of(tmp_path, peer("gpu-box", own, daemon.address))
        address = f"tls:{daemon.address}"
        async with AsyncClient(address, environ=environ, retry=None) as client:
            with pytest.raises(UnreachableError, match="a daemon with TLS was expected"):
                await client.complete("Hi")
    assert daemon.num_calls == 0


@pytest.mark.parametrize("where", ["gpu-box", "192.0.2.7:7411"])
def test_a_daemon_that_was_not_paired_with_is_told_before_it_is_asked(
    tmp_path: Path, where: str
) -> None:
    with pytest.raises(NotTrustedError, match="edgectl pair"):
        AsyncClient(where, environ=environ_of(tmp_path))


@pytest.mark.parametrize(
    ("where", "error", "told"),
    [
        ("no address!", BadRequestError, "'no address!' is no address"),
        ([], MisconfiguredError, "0 daemons were given; expected at least one"),
        (["127.0.0.1:1", "127.0.0.1:2"], MisconfiguredError, "2 daemons were given; expected one"),
    ],
)
def test_what_cannot_be_meant_is_told(
    where: str | list[str], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        AsyncClient(where, token="secret", environ={})


def test_authorities_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    environ = environ_of(tmp_path, **{CA_VARIABLE: str(tmp_path / "none.pem")})
    with pytest.raises(MisconfiguredError, match="cannot read it"):
        AsyncClient("192.0.2.7:7411", environ=environ)


def test_peers_that_cannot_be_read_are_told_by_who_looks_around(tmp_path: Path) -> None:
    environ = environ_of(tmp_path)
    peers_file(environ).parent.mkdir(parents=True, exist_ok=True)
    peers_file(environ).write_text("no peers")
    with pytest.raises(MisconfiguredError):
        Client.discover(environ=environ)


def test_a_token_for_one_daemon_is_not_shown_to_several(tmp_path: Path) -> None:
    own, other = certified("edged"), certified("edged")
    peers = (peer("gpu-box", own, nobody(), token="its"), peer("nas", other, nobody()))
    environ = environ_of(tmp_path, *peers, **{TOKEN_VARIABLE: "given"})

    def tokens(where: str | list[str], token: str | None = None) -> list[str | None]:
        return [given.ways[0].token for given in given_by(where, token, environ)]

    assert tokens(["gpu-box", "nas"]) == ["its", None]
    assert tokens("nas") == ["given"]
    assert tokens(["nas"], "mine") == ["mine"]
    assert tokens("127.0.0.1:1") == ["given"]


@pytest.mark.parametrize("token", ["edged_1\n", "edged 1", "edged_é"])
def test_a_token_that_cannot_be_sent_is_told_and_not_shown(token: str) -> None:
    with pytest.raises(BadRequestError, match="another character that no token has") as caught:
        given_by("127.0.0.1:1", token, {})
    assert token not in str(caught.value)
    with pytest.raises(BadRequestError, match=r"127\.0\.0\.1:1"):
        given_by("127.0.0.1:1", None, {TOKEN_VARIABLE: token})


def test_a_target_does_not_show_its_token() -> None:
    assert "secret" not in repr(Target("box", "127.0.0.1:1", Plaintext(), "secret"))


def test_a_target_that_a_program_made_is_taken_as_it_is() -> None:
    target = Target("box", "127.0.0.1:1", Plaintext(), "secret")
    [given] = given_by(target, None, {})
    assert given == Given((target,))
    assert given_by([target], "other", {})[0].ways[0].token == "other"


# ── Discovered ───────────────────────────────────────────────────────────────────────────────────


async def test_a_daemon_that_was_discovered_is_asked_where_it_was_seen(tmp_path: Path) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE), certified=own) as daemon:
        environ = environ_of(tmp_path, peer("gpu-box", own, nobody()))
        seen = found("box", own, daemon.address, as_peer="gpu-box")
        async with AsyncClient(seen, environ=environ) as client:
            assert (await client.complete("Hi")).admitted.daemon == "gpu-box"


def test_a_daemon_that_was_discovered_is_no_daemon_that_was_paired_with(tmp_path: Path) -> None:
    seen = found("box", certified("edged"), "192.0.2.7:7411")
    with pytest.raises(NotTrustedError, match=r"run `edgectl pair 192\.0\.2\.7:7411`"):
        AsyncClient(seen, environ=environ_of(tmp_path))


class Network:
    """What can be seen on it; counts who looks."""

    def __init__(self, *daemons: FoundDaemon) -> None:
        self.daemons = daemons
        self.num_looks = 0

    async def find(self, fingerprint: str) -> list[FoundDaemon]:
        self.num_looks += 1
        return [daemon for daemon in self.daemons if daemon.fingerprint == fingerprint]

    async def look(self, peers: Iterable[Peer]) -> Discovery:
        self.num_looks += 1
        names = {one.fingerprint: one.name for one in peers}
        seen = (replace(one, peer=names.get(one.fingerprint)) for one in self.daemons)
        return Discovery(tuple(seen), None)


async def test_a_peer_that_moved_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    own, liar = certified("edged"), certified("edged")
    async with playing(says(WHOLE[0]), certified=own) as daemon:
        async with playing(says(*WHOLE), certified=liar) as impostor:
            known = peer("gpu-box", own, nobody())
            network = Network(
                found("box", own, impostor.address), found("box", own, daemon.address)
            )
            ways = ways_to_peer(known)
            link = Link(ways, 20.0, Moved(known, ways, ManualClock(), network.find))
            assert await link.unary("/edged.v1.Any/Any", b"", 20.0) == WHOLE[0].SerializeToString()
            await link.close()
        assert impostor.num_calls == 0
    assert network.num_looks == 1


async def test_a_peer_that_is_nowhere_is_not_looked_for_all_the_time() -> None:
    own, clock = certified("edged"), ManualClock()
    known = peer("gpu-box", own, nobody())
    network = Network()
    moved = Moved(known, ways_to_peer(known), clock, network.find)
    assert await moved() == ()
    assert await moved() == ()
    assert network.num_looks == 1
    clock.advance(LOOK_AGAIN_S)
    assert await moved() == ()
    assert network.num_looks == 2


async def test_a_peer_that_was_found_is_looked_for_again_at_once() -> None:
    own = certified("edged")
    known = peer("gpu-box", own, nobody())
    network = Network(found("box", own, "192.0.2.1:1"))
    moved = Moved(known, ways_to_peer(known), ManualClock(), network.find)
    assert [way.address for way in await moved()] == ["192.0.2.1:1"]
    network.daemons = (found("box", own, "192.0.2.2:1"),)
    assert [way.address for way in await moved()] == ["192.0.2.2:1"]


async def test_no_more_claims_are_tried_than_the_limit() -> None:
    own = certified("edged")
    known = peer("gpu-box", own, "192.0.2.1:1")
    claims = [found("box", own, f"192.0.2.9:{port}") for port in range(1, MAX_CLAIMED + 2)]
    moved = Moved(known, ways_to_peer(known), ManualClock(), Network(*claims).find)
    assert len(await moved()) == MAX_CLAIMED


async def test_others_are_those_that_were_paired_with_whoever_is_seen_first() -> None:
    owns = [certified("edged") for _ in NAMES]
    peers = [peer(name, own, "192.0.2.1:1") for name, own in zip(NAMES, owns, strict=True)]
    network = Network(
        found("attic", owns[2], "192.0.2.3:1"), found("stranger", certified("edged"), "192.0.2.9:1")
    )
    others = await ways_to_others(peers, [owns[0].fingerprint], network.look)
    assert [
        (one.name, [way.address for way in ways]) for one, ways in others
    ] == [("attic", ["192.0.2.3:1", "192.0.2.1:1"]), ("nas", ["192.0.2.1:1"])]  # fmt: skip


async def test_a_network_that_cannot_be_looked_at_hides_nobody() -> None:
    async def look(_: Iterable[Peer]) -> Discovery:
        raise OSError("no netlink here")

    nas = peer("nas", certified("edged"), "192.0.2.1:1")
    assert [one for one, _ in await ways_to_others([nas], [], look)] == [nas]


async def test_nobody_is_looked_for_where_nobody_else_was_paired_with() -> None:
    own = certified("edged")
    network = Network()
    known = peer("gpu-box", own, "192.0.2.1:1")
    assert await ways_to_others([known], [own.fingerprint], network.look) == []
    assert network.num_looks == 0


# ── Falling over to those that nobody gave ───────────────────────────────────────────────────────


def plain(address: str, own: Certified) -> Given:
    """A peer that is asked without TLS, so that tests need none."""
    return Given((Target(address, address, Plaintext()),), peer(address, own, address))


def route_to(given: str, clock: ManualClock, *others: Given) -> tuple[Route, list[int]]:
    """And how often the others were looked for."""
    looks: list[int] = []

    async def find_others() -> list[Given]:
        looks.append(1)
        return list(others)

    first = Given((Target(given, given, Plaintext()),))
    return Route([first], lambda one: Link(one.ways, 20.0), clock, find_others), looks


async def asked(route: Route, clock: ManualClock) -> str:
    caller = Caller(route, RetryPolicy(max_attempts=1), clock)

    async def ask(link: Link, limit_s: float | None) -> bytes:
        return await link.unary("/edged.v1.Any/Any", b"", 20.0)

    link, _ = await caller.anywhere(ask)
    return link.shown


async def test_others_are_asked_when_none_of_those_given_will_do() -> None:
    clock = ManualClock(100.0)
    async with playing(says(WHOLE[0])) as other:
        route, looks = route_to(nobody(), clock, plain(other.address, certified("edged")))
        assert await asked(route, clock) == other.address
        assert await asked(route, clock) == other.address
        assert len(looks) == 1, "they are remembered for a while"
        clock.advance(1000.0)
        assert await asked(route, clock) == other.address
        assert len(looks) == 2
        assert len(route._link_of) == 1, "a connection is kept"
        await route.close()


async def test_without_anybody_to_ask_it_says_so() -> None:
    clock = ManualClock(100.0)
    route = Route([], lambda one: Link(one.ways, 20.0), clock)
    with pytest.raises(UnreachableError, match="nobody is left who could be asked"):
        await asked(route, clock)


async def test_others_are_not_looked_for_while_those_given_do_it() -> None:
    clock = ManualClock(100.0)
    async with playing(says(WHOLE[0])) as daemon:
        route, looks = route_to(daemon.address, clock)
        assert await asked(route, clock) == daemon.address
        assert looks == []
        await route.close()


async def test_no_more_others_are_asked_than_the_limit() -> None:
    clock = ManualClock(100.0)
    owns = [certified("edged") for _ in range(MAX_OTHERS + 1)]
    route, _ = route_to(nobody(), clock, *(plain(nobody(), own) for own in owns))
    with pytest.raises(UnreachableError) as raised:
        await asked(route, clock)
    assert len(raised.value.__notes__) == MAX_OTHERS
    await route.close()


async def test_without_leave_nobody_else_is_asked(tmp_path: Path) -> None:
    own = certified("edged")
    async with playing(says(*WHOLE), certified=own) as other:
        environ = environ_of(tmp_path, peer("nas", own, other.address))
        async with AsyncClient(nobody(), environ=environ, retry=None) as client:
            with pytest.raises(UnreachableError):
                await client.complete("Hi")
        assert other.num_calls == 0


async def test_with_leave_a_peer_takes_over(tmp_path: Path) -> None:
    """It is not to be seen on the network of the test, and asked where it was last."""
    own = certified("edged")
    async with playing(says(*WHOLE), certified=own) as other:
        environ = environ_of(tmp_path, peer("nas", own, other.address))
        async with AsyncClient(nobody(), environ=environ, retry=None, fall_over=True) as client:
            assert (await client.complete("Hi")).admitted.daemon == "nas"


async def test_a_peer_that_moved_is_found_while_its_old_address_says_nothing() -> None:
    own = certified("edged")
    with mute_host() as old:
        async with playing(says(WHOLE[0]), certified=own) as daemon:
            known = peer("gpu-box", own, old)
            network = Network(found("box", own, daemon.address))
            ways = ways_to_peer(known)
            link = Link(ways, 1000.0, Moved(known, ways, ManualClock(), network.find))
            async with asyncio.timeout(GATE_TIMEOUT_S):
                await link.unary("/edged.v1.Any/Any", b"", 20.0)
            await link.close()
