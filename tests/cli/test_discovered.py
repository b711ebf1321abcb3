"""What `edgectl discover` makes of what daemons say, some of which are liars."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from edged.cli.discovered import (
    MAX_CELL_CHARACTERS,
    MAX_PROBES_WAITING,
    table,
    tell_change,
    tell_each,
)
from edged.cli.output import emit_json
from edged.cli.probe import NOT_ASKED, Answer
from edged.client.lan.browse import Change, Kind
from edged.client.lan.found import FoundDaemon
from edged.node.lan.dns_sd import Auth
from edged.v1 import admin_pb2, inference_pb2

OPEN = FoundDaemon("Studio", ("192.0.2.1:7411",), "1.0", Auth.NONE, "", None)


def serving(*names: str) -> Answer:
    models = [admin_pb2.Model(name=name) for name in names]
    return Answer("192.0.2.1:7411", "", admin_pb2.Status(models=models))


ANSWER = serving("main")


def test_who_was_not_asked_is_listed_too() -> None:
    _, first, second = table([(OPEN, serving("main")), (OPEN, NOT_ASKED)], probed=True).splitlines()
    assert "main" in first
    assert second.split()[5:] == ["not", "asked", "-", "-", "-"]


def test_a_change_shows_what_the_list_does(capsys: pytest.CaptureFixture[str]) -> None:
    tiers = (inference_pb2.TIER_STANDARD, inference_pb2.TIER_BATCH)
    answer = replace(ANSWER, tiers=tuple(admin_pb2.TierInfo(tier=tier) for tier in tiers))
    tell_change(Change(Kind.ADDED, OPEN, 1), answer, json=False)
    line = capsys.readouterr().out
    for word in table([(OPEN, answer)], probed=True).splitlines()[1].split():
        assert word in line
    assert "standard,batch" in line


@pytest.mark.parametrize("answer", [serving("m\nme\u202e"), Answer("a", "m\nme\u202e")])
def test_nobody_can_add_a_line_to_the_list_or_reverse_one(answer: Answer) -> None:
    lines = table([(OPEN, answer)], probed=True).splitlines()
    assert len(lines) == 2
    assert "m\ufffdme\ufffd" in lines[1]


def test_what_a_daemon_says_of_itself_is_cut() -> None:
    (line,) = table([(OPEN, serving("m" * 10_000))], probed=True).splitlines()[1:]
    assert line.count("m") == MAX_CELL_CHARACTERS - 1


def test_json_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"name": "\x9b\x7f\x1bé"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert json.loads(line) == {"name": "\x9b\x7f\x1bé"}


async def told_of(*changes: Change) -> list[tuple[Kind, Answer | None]]:
    """What is told if the first answer comes after all of the changes."""
    told: list[tuple[Kind, Answer | None]] = []
    are_over = asyncio.Event()

    async def come() -> AsyncIterator[Change]:
        for change in changes:
            yield change
            await asyncio.sleep(0)
        are_over.set()

    async def ask(_: FoundDaemon) -> Answer:
        await are_over.wait()
        return ANSWER

    await tell_each(come(), ask, lambda change, answer: told.append((change.kind, answer)))
    return told


async def test_who_goes_while_it_is_asked_is_gone_at_last() -> None:
    added, removed = Change(Kind.ADDED, OPEN, 1), Change(Kind.REMOVED, OPEN, 1)
    assert await told_of(added, removed) == [(Kind.ADDED, ANSWER), (Kind.REMOVED, None)]
    assert await told_of(added, removed, added) == [(Kind.ADDED, ANSWER), (Kind.UPDATED, ANSWER)]


async def test_so_many_are_asked_at_once() -> None:
    told = await told_of(*(Change(Kind.ADDED, OPEN, key) for key in range(MAX_PROBES_WAITING + 1)))
    assert [answer for _, answer in told] == [NOT_ASKED] + [ANSWER] * MAX_PROBES_WAITING
