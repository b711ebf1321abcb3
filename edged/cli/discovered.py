"""What `edgectl discover` does: looks, asks those it found, and shows both."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from edged.cli.as_json import as_json, enum_name
from edged.cli.columns import Cell, Column, Style, Styled, laid_out
from edged.cli.exits import CommandError, ExitCode
from edged.cli.output import Json, emit, emit_json, harmless, note, wants_colour
from edged.cli.probe import NOT_ASKED, Answer, probe, probe_all
from edged.client.connect.peers import PeerBook
from edged.client.lan.browse import Browser, Change, Kind, discover
from edged.client.lan.found import FoundDaemon
from edged.node.lan.dns_sd import shown
from edged.places import peers_file
from edged.v1 import admin_pb2, inference_pb2

MAX_PROBES_WAITING = 256
"""With --watch; who comes while so many are being asked is not."""
MAX_CELL_CHARACTERS = 120
"""Of what a daemon that was asked says."""

_WORDS = {Kind.ADDED: "found", Kind.UPDATED: "changed", Kind.REMOVED: "gone"}
_NONE = (
    "no daemon was found on the local network{problem}. A daemon is found if it has "
    "server.discovery = true and listens on an address of the network; multicast (UDP port 5353) "
    "must not be blocked by a firewall, by the isolation of a wireless network or by a router "
    "between two networks. `edgectl pair HOST:PORT` needs no discovery."
)


def print_found(*, json: bool, probe: bool, timeout_s: float | None) -> None:
    """List what is found in the time.

    Raises:
        CommandError: nothing; the exit code is that of no answer.
    """
    peers = PeerBook(peers_file(os.environ)).all()
    found = asyncio.run(discover(peers, timeout_s))
    if not found.daemons:
        problem = "" if found.problem is None else f": {found.problem}"
        raise CommandError(_NONE.format(problem=problem), ExitCode.UNREACHABLE)
    answers: Sequence[Answer | None] = [None] * len(found.daemons)
    if probe:
        answers = asyncio.run(probe_all(found.daemons, peers, os.environ))
    pairs = list(zip(found.daemons, answers, strict=True))
    if json:
        for daemon, answer in pairs:
            emit_json(_as_json(daemon, answer))
    else:
        emit(table(pairs, probed=probe))
    if found.problem is not None:
        note(f"edgectl: there may be more: {found.problem}")


def watch(*, json: bool, probe: bool, timeout_s: float | None) -> None:
    """A line for each change, for that long or until Ctrl-C."""
    asyncio.run(_watch(json=json, probed=probe, timeout_s=timeout_s))


async def _watch(*, json: bool, probed: bool, timeout_s: float | None) -> None:
    peers = PeerBook(peers_file(os.environ)).all()

    async def ask(daemon: FoundDaemon) -> Answer:
        return await probe(daemon, peers, os.environ)

    def tell(change: Change, answer: Answer | None) -> None:
        tell_change(change, answer, json=json)

    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), Browser(peers) as browser:
                if browser.problem is not None:
                    note(f"edgectl: {browser.problem}")
                await tell_each(browser.changes(), ask if probed else None, tell)
    except BaseExceptionGroup as group:
        # The reader of the output went away while something was being asked.
        raise group.exceptions[0] from None


async def tell_each(
    changes: AsyncIterator[Change],
    ask: Callable[[FoundDaemon], Awaitable[Answer]] | None,
    tell: Callable[[Change, Answer | None], None],
) -> None:
    """Those of one daemon in their order, though the answer of one that is asked comes late."""
    asked: dict[object, Change | None] = {}
    """Who is being asked, and what became of it meanwhile: that is told after the answer."""

    async def ask_and_tell(change: Change) -> None:
        assert ask is not None, "answers are wanted"
        following: Change | None = change
        while following is not None:
            asked[change.key] = None
            is_here = following.kind is not Kind.REMOVED
            tell(following, await ask(following.daemon) if is_here else None)
            following = asked[change.key]
        del asked[change.key]

    async with asyncio.TaskGroup() as asking:
        async for change in changes:
            is_answer_wanted = ask is not None and change.kind is not Kind.REMOVED
            if change.key in asked:
                is_new = change.kind is Kind.ADDED
                asked[change.key] = replace(change, kind=Kind.UPDATED) if is_new else change
            elif is_answer_wanted and len(asked) < MAX_PROBES_WAITING:
                asked[change.key] = None
                asking.create_task(ask_and_tell(change))
            else:
                tell(change, NOT_ASKED if is_answer_wanted else None)


def tell_change(change: Change, answer: Answer | None, *, json: bool) -> None:
    if json:
        emit_json({"change": change.kind.value, **_as_json(change.daemon, answer)})
        return
    daemon = change.daemon
    words = [_WORDS[change.kind], daemon.name, daemon.addresses[0], daemon.version]
    words += [daemon.auth.value, "paired" if daemon.peer is not None else "not paired"]
    if answer is not None:
        words += [_state(answer), _models(answer), _tiers(answer), _load(answer)]
    emit(harmless("  ".join(words)).rstrip() + "\n")


def table(pairs: Sequence[tuple[FoundDaemon, Answer | None]], *, probed: bool) -> str:
    heads = ["NAME", "ADDRESS", "VERSION", "AUTH", "PAIRED"]
    heads += ["STATE", "MODELS", "TIERS", "LOAD"] if probed else []
    rows: list[list[Cell]] = []
    for daemon, answer in pairs:
        row: list[Cell] = [
            daemon.name,
            daemon.addresses[0] if answer is None else answer.address or daemon.addresses[0],
            daemon.version,
            daemon.auth.value,
            Styled("no", None) if daemon.peer is None else Styled(daemon.peer, Style.GREEN),
        ]
        if answer is not None:
            row += [_state(answer), _models(answer), _tiers(answer), _load(answer)]
        rows.append(row)
    columns = [Column(head) for head in heads]
    return laid_out(columns, rows, colour=wants_colour(sys.stdout))


def _state(answer: Answer) -> str:
    if answer.status is not None:
        return enum_name(admin_pb2.DaemonState.DESCRIPTOR, answer.status.state)
    return _told(answer.problem)


def _models(answer: Answer) -> str:
    if answer.status is None:
        return "-"
    return _told(",".join(model.name for model in answer.status.models)) or "-"


def _tiers(answer: Answer) -> str:
    names = (enum_name(inference_pb2.Tier.DESCRIPTOR, tier.tier) for tier in answer.tiers)
    return _told(",".join(names)) or "-"


def _told(text: str) -> str:
    """Words of a daemon, in one line. Whoever is on the network may be one."""
    if len(text) > MAX_CELL_CHARACTERS:
        text = text[: MAX_CELL_CHARACTERS - 1] + "…"
    return shown(text)


def _load(answer: Answer) -> str:
    if answer.status is None:
        return "-"
    tiers = [tier for model in answer.status.models for tier in model.tiers]
    running = sum(tier.num_running for tier in tiers)
    waiting = sum(tier.num_waiting + tier.num_preempted for tier in tiers)
    return f"{running} running, {waiting} waiting"


def _as_json(daemon: FoundDaemon, answer: Answer | None) -> dict[str, Json]:
    told: dict[str, Json] = {
        "name": daemon.name,
        "addresses": list(daemon.addresses),
        "version": daemon.version,
        "auth": daemon.auth.value,
        "fingerprint": daemon.fingerprint or None,
        "peer": daemon.peer,
    }
    if answer is not None:
        told["address"] = answer.address
        told["problem"] = answer.problem or None
        told["status"] = None if answer.status is None else as_json(answer.status)
        told["tiers"] = [as_json(tier) for tier in answer.tiers]
    return told
