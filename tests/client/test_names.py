"""A host's name that the system does not tell: it is waited for as long as was said, no longer."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edged.cli.remote import Connection
from edged.client.connect import names
from edged.client.connect.link import LOOK_S, Link
from edged.client.connect.names import NoAddressError, look_up, look_up_async
from edged.client.connect.target import Pinned, Plaintext, Security, Target
from edged.client.connect.trust import fetch_certificate
from edged.client.errors import NotTrustedError, UnreachableError
from tests.client.certificates import certified
from tests.client.servers import WAIT_S, grpc_server

NAME = "gpubox.local"
PLACE = f"{NAME}:7411"
SHORT_S = 0.1
LATE = rf"^{NAME} has no address here: the system has not told one within 0\.1 s$"


class Resolver:
    """Tells where NAME is when it is let go, and says nothing before."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.takes_s = 0.0
        self.may_tell = threading.Event()
        self.has_waited_out = False
        self._ask: Callable[..., Any] = socket.getaddrinfo

    def __call__(self, host: str, *rest: Any, flags: int = 0, **named: Any) -> Any:
        if host != NAME or flags & socket.AI_NUMERICHOST:
            return self._ask(host, *rest, flags=flags, **named)
        self.num_asked += 1
        self.has_waited_out |= not self.may_tell.wait(WAIT_S)
        threading.Event().wait(self.takes_s)
        return self._ask("127.0.0.1", *rest, **named)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.may_tell.set()
    for thread in threading.enumerate():
        if thread.name == "edged-aside":
            thread.join(WAIT_S)
    assert not made.has_waited_out, "somebody has waited for it"


def test_edgectl_waits_no_longer_than_it_is_told(resolver: Resolver) -> None:
    with pytest.raises(NoAddressError, match=LATE):
        Connection(Target("box", PLACE, Plaintext()), SHORT_S)
    with pytest.raises(NoAddressError, match=LATE):
        fetch_certificate(PLACE, look_up_s=SHORT_S)


@pytest.mark.parametrize("security", [Plaintext(), Pinned(certified("edged").pem)])
def test_the_library_does_not_and_the_event_loop_ends(
    resolver: Resolver, security: Security
) -> None:
    async def ask() -> None:
        link = Link([Target("box", PLACE, security)], SHORT_S)
        with pytest.raises(UnreachableError, match=LATE):
            await link.unary("/a/B", b"", WAIT_S)
        await link.close()

    asyncio.run(ask())


async def test_who_asks_for_the_same_name_waits_for_the_same_answer(resolver: Resolver) -> None:
    looks = [asyncio.create_task(look_up_async(PLACE, WAIT_S)) for _ in range(2)]
    with pytest.raises(NoAddressError):
        await look_up_async(PLACE, SHORT_S)
    resolver.may_tell.set()
    assert await asyncio.gather(*looks) == [[(socket.AF_INET, ("127.0.0.1", 7411))]] * 2
    assert resolver.num_asked == 1
    look_up(PLACE)
    assert resolver.num_asked == 2, "it may have another address by then"


async def test_after_a_while_it_is_asked_anew(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "ASK_ANEW_S", 0.0)
    looks = [asyncio.create_task(look_up_async(PLACE, WAIT_S)) for _ in range(2)]
    with pytest.raises(NoAddressError):
        await look_up_async(PLACE, SHORT_S)
    assert resolver.num_asked == 3
    resolver.may_tell.set()
    await asyncio.gather(*looks)


async def test_a_name_that_takes_longer_than_a_look_hides_no_other_certificate(
    resolver: Resolver,
) -> None:
    resolver.takes_s = LOOK_S + 0.1
    resolver.may_tell.set()
    with grpc_server(certified("edged")) as address:
        place = f"{NAME}:{address.rpartition(':')[2]}"
        link = Link([Target("box", place, Pinned(certified("edged").pem, "box"))], WAIT_S)
        with pytest.raises(NotTrustedError, match="CERTIFICATE OF box HAS CHANGED"):
            await link.unary("/a/B", b"", WAIT_S)
        await link.close()
