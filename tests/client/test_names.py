"""A host's name that the system does not tell: it is waited for as long as was said, no longer."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edged.cli.remote import Connection
from edged.client.connect.link import Link
from edged.client.connect.names import NoAddressError, look_up, look_up_async
from edged.client.connect.target import Pinned, Plaintext, Security, Target
from edged.client.connect.trust import fetch_certificate
from edged.client.errors import UnreachableError
from tests.client.certificates import certified
from tests.client.servers import WAIT_S

NAME = "gpubox.local"
PLACE = f"{NAME}:7411"
SHORT_S = 0.1


class Resolver:
    """Tells where NAME is when it is let go, and says nothing before."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.may_tell = threading.Event()
        self.has_waited_out = False
        self._ask: Callable[..., Any] = socket.getaddrinfo

    def __call__(self, host: str, *rest: Any, flags: int = 0, **named: Any) -> Any:
        if host != NAME or flags & socket.AI_NUMERICHOST:
            return self._ask(host, *rest, flags=flags, **named)
        self.num_asked += 1
        self.has_waited_out |= not self.may_tell.wait(WAIT_S)
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
    late = rf"^{NAME} has no address here: the system has not told one within 0\.1 s$"
    with pytest.raises(NoAddressError, match=late):
        Connection(Target("box", PLACE, Plaintext()), SHORT_S)
    with pytest.raises(NoAddressError, match=late):
        fetch_certificate(PLACE, SHORT_S)


@pytest.mark.parametrize("security", [Plaintext(), Pinned(certified("edged").pem)])
def test_the_library_does_not_and_the_event_loop_ends(
    resolver: Resolver, security: Security
) -> None:
    async def ask() -> None:
        link = Link([Target("box", PLACE, security)], SHORT_S)
        with pytest.raises(UnreachableError):
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
