"""Interfaces that cannot be looked at, as where no descriptor is left: that is told, and passes."""

import asyncio
from collections.abc import Sequence

import pytest

from edged.client.lan import browse
from edged.client.lan.browse import Browser
from edged.errors import EdgedError
from edged.node.lan.interfaces import Interface
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
