"""A bad moment of the host or of the network: interfaces that cannot be looked at, and a flood."""

import asyncio
from collections.abc import Sequence

import pytest

from edged.client.lan import browse
from edged.client.lan.browse import SENDER_BYTES_PER_S, Browser
from edged.errors import EdgedError
from edged.node.lan.interfaces import Interface
from edged.node.lan.multicast import MAX_PACKET_BYTES
from tests.rpc.fakes import GATE_TIMEOUT_S

NO_ROOM = OSError(24, "Too many open files")
WHY = "the network interfaces of this host cannot be looked at: Too many open files"


async def test_one_bad_moment_is_told_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str | None] = []
    has_passed = asyncio.Event()

    def look() -> Sequence[Interface]:
        problems.append(browser.problem)
        if len(problems) == 1:
            raise NO_ROOM
        if len(problems) == 3:
            has_passed.set()
        return ()

    monkeypatch.setattr(browse, "usable_interfaces", look)
    monkeypatch.setattr(browse, "_TICK_S", 0.0)
    monkeypatch.setattr(browse, "_LOOK_AROUND_S", 0.0)
    browser = Browser()
    looking = asyncio.create_task(browser._look_after())
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await has_passed.wait()
    looking.cancel()
    assert problems == [None, WHY, None]


async def test_it_begins_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NO_ROOM

    monkeypatch.setattr(browse, "usable_interfaces", fail)
    monkeypatch.setattr(browse, "open_multicast", fail)
    async with Browser() as browser:
        assert browser.problem == "no socket on the port of multicast DNS: Too many open files"
    with pytest.raises(EdgedError, match=WHY):
        await browse.find("box", timeout_s=0.0)


def flooded(browser: Browser) -> None:
    """Somebody has said more than is read."""
    gate, response = browser._gate(), b"\0\0\x84\0" + bytes(MAX_PACKET_BYTES - 4)
    for _ in range(3 * SENDER_BYTES_PER_S // MAX_PACKET_BYTES + 1):
        gate.datagram_received(response, ("192.0.2.1", 5353))


@pytest.mark.parametrize("is_flooded", [True, False])
async def test_in_a_flood_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, is_flooded: bool
) -> None:
    asked: list[object] = []

    def ask(browser: Browser, *questions: object) -> None:
        asked.append(questions)

    def nothing_to_multicast_on(_: object) -> None:
        raise NO_ROOM

    async def begin(browser: Browser) -> None:
        if is_flooded:
            flooded(browser)

    monkeypatch.setattr(browse, "usable_interfaces", tuple)
    monkeypatch.setattr(browse, "open_multicast", nothing_to_multicast_on)
    monkeypatch.setattr(browse, "_FIRST_QUERY_S", (GATE_TIMEOUT_S, GATE_TIMEOUT_S))
    monkeypatch.setattr(browse, "INSIST_S", (0.0, 0.0))
    monkeypatch.setattr(browse, "DISCOVER_S", 0.0)
    monkeypatch.setattr(browse, "PATIENCE_S", 0.0)
    monkeypatch.setattr(Browser, "_ask", ask)
    monkeypatch.setattr(Browser, "_open_one_shots", begin)
    assert (await browse.discover()).daemons == ()
    assert len(asked) == (2 if is_flooded else 0)
