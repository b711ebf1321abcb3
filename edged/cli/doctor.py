"""The command `edgectl doctor`: what it takes, whom it asks, and how findings are shown."""

# ruff: noqa: PLC0415  # gRPC and the checks are imported when the command runs

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edged.cli.columns import Style, Styled, painted
from edged.cli.connected import Global, find_target
from edged.cli.exits import CommandError, ExitCode
from edged.cli.options import HostOption
from edged.cli.output import emit, emit_json, wants_colour
from edged.errors import EdgedError

if TYPE_CHECKING:
    from edged.client.connect.target import Target
    from edged.node.doctor.finding import Finding
    from edged.node.doctor.host import Host
    from edged.node.doctor.subject import Answer, Running
    from edged.v1 import admin_pb2

ASK_LIMIT_S = 1.0
"""For a daemon's answer; the checks that need it have some more."""

_STYLES = {"ok": Style.GREEN, "note": Style.CYAN, "warning": Style.YELLOW, "problem": Style.RED}


def doctor(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="As JSON: healthy, findings[check, level, text, fix].")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Configuration file. Default: as `edged serve`."
        ),
    ] = None,
    lan: Annotated[
        bool,
        typer.Option("--lan", help="Check multicast and the firewall though no LAN is configured."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell also what is in order.")
    ] = False,
) -> None:
    """Say what is wrong with this host for a daemon, and how to mend it.

    Needs neither a daemon nor a configuration. Exit code 1 if there is a problem; warnings and
    notes are none.
    """
    from edged import __version__
    from edged.node.doctor.examine import examine, is_healthy
    from edged.node.doctor.host import this_host
    from edged.node.doctor.subject import examined, once

    given = context.find_object(Global)
    assert given is not None, "the callback of the app has run"
    machine = this_host(os.environ)
    subject = examined(
        machine,
        __version__,
        config_file=config,
        wants_lan=lan,
        ask_usual=once(lambda: _ask_usual(host or given.host, machine)),
        ask_at=lambda address: _ask_at(address, machine),
    )
    findings = examine(subject)
    if json:
        shown = [
            {"check": one.check, "level": one.level.value, "text": one.text, "fix": one.fix}
            for one in findings
        ]
        emit_json({"healthy": is_healthy(findings), "findings": shown})
    else:
        emit(report(findings, verbose=verbose, colour=wants_colour(sys.stdout)))
    if not is_healthy(findings):
        raise typer.Exit(ExitCode.ERROR)


def report(findings: Sequence["Finding"], *, verbose: bool, colour: bool) -> str:
    """A line for each area that is in order, a head and lines for each that is not, and a sum."""
    text = ""
    for area, of_area in groupby(findings, key=lambda one: one.area):
        shown = list(of_area)
        if not verbose:
            shown = [one for one in shown if one.level.value != "ok"]
        if shown:
            text += painted(Styled(area, Style.BOLD), colour=colour) + "\n"
            text += "".join(_lines(finding, colour=colour) for finding in shown)
        else:
            text += f"{painted(Styled(area, Style.BOLD), colour=colour)}: ok\n"
    return f"{text}\n{_sum(one.level.value for one in findings)}\n"


def _lines(finding: "Finding", *, colour: bool) -> str:
    level = Styled(finding.level.value, _STYLES[finding.level.value])
    text = f"  {painted(level, colour=colour, width=7)}  {painted(finding.text, colour=colour)}\n"
    fix = f"           fix: {painted(finding.fix, colour=colour)}\n" if finding.fix else ""
    return text + fix


def _sum(levels: Iterable[str]) -> str:
    counts = Counter(levels)
    names = [("problem", "problems"), ("warning", "warnings"), ("note", "notes")]
    told = [f"{counts[one]} {one if counts[one] == 1 else many}" for one, many in names]
    return f"{', '.join(told)}, {counts['ok']} in order"


# ── Asking daemons ───────────────────────────────────────────────────────────────────────────────


def _ask_usual(host: str | None, machine: "Host") -> "Answer":
    """The daemon that every other command of edgectl would ask."""
    from edged.node.doctor.subject import Silent

    try:
        target = find_target(host)
    except (CommandError, EdgedError) as error:
        return Silent(str(error))
    return _ask(target, machine)


def _ask_at(address: str, machine: "Host") -> "Answer":
    from edged.client.connect.target import Plaintext, Target

    return _ask(Target(address, address, Plaintext()), machine)


def _ask(target: "Target", machine: "Host") -> "Answer":
    from edged.cli.remote import Connection
    from edged.node.doctor.subject import Refused, Silent
    from edged.v1 import admin_pb2

    try:
        with Connection(target, ASK_LIMIT_S) as connection:
            answer = connection.call(connection.admin.GetStatus, admin_pb2.GetStatusRequest())
    except CommandError as error:
        if error.exit_code is ExitCode.DENIED:
            return Refused(target.shown, error.sentence)
        why, _, _what_to_do = error.sentence.partition("; ")
        return Silent(why)
    except EdgedError as error:
        return Silent(error.detail)
    running = _running(target.shown, answer.status)
    return replace(running, is_local=_is_of(machine, target.address))


def _is_of(machine: "Host", address: str) -> bool:
    """Whether all that it is an address of is this machine's: a name may be of any."""
    from edged.client.connect.names import NoAddressError, look_up

    if machine.is_own(address):
        return True
    try:
        found = look_up(address, ASK_LIMIT_S)
    except NoAddressError:
        return False
    return all(machine.is_own(f"{place[0]}:{place[1]}") for _, place in found)


def _running(at: str, status: "admin_pb2.Status") -> "Running":
    from edged.cli.as_json import enum_name
    from edged.node.doctor.subject import ModelSeen, Running
    from edged.v1 import admin_pb2

    models = tuple(
        ModelSeen(
            name=model.name,
            state=enum_name(admin_pb2.ModelState.DESCRIPTOR, model.state),
            failure=model.failure,
            num_engine_losses=model.num_engine_losses,
            warnings=tuple(model.warnings),
        )
        for model in status.models
    )
    state = enum_name(admin_pb2.DaemonState.DESCRIPTOR, status.state)
    return Running(
        at, status.version, state, tuple(status.listeners), models, tuple(status.warnings)
    )
