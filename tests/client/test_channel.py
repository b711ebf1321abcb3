"""What gRPC is told of an address: any socket's path, any interface's name, and any host's name
that the system knows, however it does."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest

from edged.client.connect.channel import open_aio_channel, open_channel
from edged.client.connect.link import Link
from edged.client.connect.names import NoAddressError, uri_of
from edged.client.connect.target import Pinned, Plaintext, Security, Target, Trusted
from edged.client.errors import UnreachableError
from edged.v1 import admin_pb2, admin_pb2_grpc
from tests.client.certificates import authority, certified
from tests.client.servers import VERSION, WAIT_S, grpc_server

PLAINTEXT = Plaintext()
REQUEST = admin_pb2.GetStatusRequest()


def at(address: str) -> Target:
    return Target("box", address, PLAINTEXT)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41b", "a%b", "a b", "ä", "a\udcffb"])
async def test_a_socket_may_have_any_name(tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain"
    with grpc_server(None, unix=plain):
        (tmp_path / name).symlink_to(plain)
        target = at(f"unix:{tmp_path / name}")
        with open_channel(target) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            assert stub.GetStatus(REQUEST, timeout=WAIT_S).status.version == VERSION
        async with await open_aio_channel(target) as aio:
            answer = await admin_pb2_grpc.AdminServiceStub(aio).GetStatus(REQUEST, timeout=WAIT_S)
            assert answer.status.version == VERSION


# ── Names ────────────────────────────────────────────────────────────────────────────────────────

NAME = "gpubox.local"
Know = Callable[..., None]


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch) -> Know:
    """Lets the system, and nobody else, know that NAME has these addresses."""
    resolve = socket.getaddrinfo

    def know(*addresses: str, before: Callable[[], object] = lambda: None) -> None:
        def look_up(host: str, *rest: object, flags: int = 0, **named: object) -> Sequence[object]:
            if host != NAME or flags & socket.AI_NUMERICHOST:
                return resolve(host, *rest, flags=flags, **named)  # type: ignore[arg-type]
            before()
            return [one for at in addresses for one in resolve(at, *rest, **named)]  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return know


def version_at(address: str, security: Security = PLAINTEXT) -> str:
    """Or why gRPC had no answer."""
    try:
        with open_channel(Target("box", address, security)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            return str(stub.GetStatus(REQUEST, timeout=WAIT_S).status.version)
    except grpc.RpcError as error:
        return str(error.code().name)


async def version_told(link: Link) -> str:
    answer = await link.unary("/edged.v1.AdminService/GetStatus", b"", WAIT_S)
    return str(admin_pb2.GetStatusResponse.FromString(answer).status.version)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.2", "127.0.0.1"]]
)
async def test_a_name_that_the_system_alone_knows_is_reached_where_it_answers(
    know: Know, addresses: list[str]
) -> None:
    know(*addresses)
    with grpc_server(None) as at_address:
        place = f"{NAME}:{at_address.rpartition(':')[2]}"
        assert version_at(place) == VERSION
        link = Link([at(place)], WAIT_S)
        assert await version_told(link) == VERSION
        await link.close()


def test_an_address_of_the_link_is_reached_over_its_interface() -> None:
    assert uri_of("[fe80::1%lo]:7411") == "ipv6:[fe80::1%251]:7411"
    assert uri_of("[::1]:7411") == "ipv6:[::1]:7411"


@pytest.mark.parametrize(
    ("name", "told"), [(NAME, VERSION), ("127.0.0.1", "UNAVAILABLE"), ("else.local", "UNAVAILABLE")]
)
def test_an_authority_vouches_for_the_name_and_for_no_address_of_it(
    know: Know, name: str, told: str
) -> None:
    know("127.0.0.1")
    ours = authority()
    with grpc_server(certified(name, issuer=ours)) as at_address:
        place = f"{NAME}:{at_address.rpartition(':')[2]}"
        assert version_at(place, Trusted(ours.pem)) == told


def test_a_certificate_that_is_pinned_is_one_by_any_name(know: Know) -> None:
    know("127.0.0.1")
    ours = certified("edged")
    with grpc_server(ours) as at_address:
        place = f"{NAME}:{at_address.rpartition(':')[2]}"
        assert version_at(place, Pinned(ours.pem)) == VERSION
        assert version_at(place, Pinned(certified("edged").pem)) == "UNAVAILABLE"


async def test_a_name_that_takes_its_time_holds_up_nobody(know: Know) -> None:
    left = threading.Event()
    know("127.0.0.1", before=lambda: left.wait(WAIT_S))
    try:
        with grpc_server(None) as address:
            link = Link([at(f"{NAME}:1"), at(address)], WAIT_S)
            async with asyncio.timeout(WAIT_S / 2):
                assert await version_told(link) == VERSION
            await link.close()
    finally:
        left.set()


@pytest.mark.parametrize("security", [PLAINTEXT, Pinned(certified("edged").pem)])
async def test_a_name_without_an_address_is_told_as_that(security: Security) -> None:
    target = Target("box", "nosuch.invalid:7411", security)
    with pytest.raises(NoAddressError, match=r"nosuch\.invalid has no address here"):
        open_channel(target)
    link = Link([target, target], WAIT_S)
    with pytest.raises(UnreachableError, match=r"nosuch\.invalid has no address here"):
        await version_told(link)
    await link.close()
