"""`edged install-service`: shows the plan of an installation, or does it a step at a time."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Annotated

import typer

from edged.cli.exits import CommandError
from edged.cli.output import emit, note

if TYPE_CHECKING:
    from edged.node.install.installation import Host
    from edged.node.install.steps import Step


def install_service(
    *,
    user: Annotated[
        bool, typer.Option("--user", help="For yourself, and not for all users of the system.")
    ] = False,
    uninstall: Annotated[
        bool,
        typer.Option("--uninstall", help="Stop it, and remove it with its state: keys and tokens."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    no_start: Annotated[
        bool,
        typer.Option(
            "--no-start", help="Do not start or restart it now; it starts with the system."
        ),
    ] = False,
    root: Annotated[
        Path, typer.Option(metavar="DIR", hidden=True, help="Install below this directory.")
    ] = Path("/"),
    program: Annotated[
        Path | None,
        typer.Option(metavar="FILE", hidden=True, help="The program, and not this one."),
    ] = None,
) -> None:
    """Make edged a service that systemd or launchd starts, or remove it.

    Writes the unit, a configuration file if there is none, and links on the PATH, and restarts a
    service that runs what was installed before. What is right already is left alone.
    """
    # Only this command needs them.
    from edged.config.reference import commented_file  # noqa: PLC0415
    from edged.node.install import installation, shipped, steps  # noqa: PLC0415

    is_staged = root != Path("/")
    host = installation.Host(
        environ=os.environ,
        run=_not_run if is_staged else steps.run_command,
        uid=os.geteuid(),
        is_user=user,
        is_macos=sys.platform == "darwin",
        root=root.absolute(),
    )
    _refuse(installation.why_nowhere(host), is_dry_run=False)
    if not is_staged:
        _refuse(installation.why_not(host), dry_run)
    if uninstall:
        plan = installation.plan_uninstall(host)
    else:
        found = program or shipped.program("edged")
        needed = (found,) if program else shipped.needed_to_run(found)
        _refuse(installation.why_not_this_program(host, needed), dry_run)
        wanted = installation.Wanted(found, commented_file(), not no_start)
        plan = installation.plan_install(host, wanted)
    _carry_out(plan, host, is_dry_run=dry_run, is_staged=is_staged)
    if dry_run or not plan:
        note("nothing was done" if plan else "nothing to do")
    elif not uninstall and not is_staged:
        _tell_how_to_go_on(host)


def _carry_out(
    plan: "tuple[Step, ...]", host: "Host", *, is_dry_run: bool, is_staged: bool
) -> None:
    from edged.node.install.steps import Run, perform  # noqa: PLC0415

    for step in plan:
        if is_dry_run:
            emit(f"{step}\n")
        elif is_staged and isinstance(step, Run):
            emit(f"not done: {step}\n")
        else:
            emit(f"{step}\n")
            perform(step, host.run)


def _tell_how_to_go_on(host: "Host") -> None:
    programs = host.layout.programs
    if str(programs) not in host.environ.get("PATH", "").split(os.pathsep):
        note(f'edged and edgectl are in {programs}: export PATH="{programs}:$PATH"')
    if not host.is_user:
        note("who may use its socket: root, and the group edged (usermod -aG edged NAME)")
    elif not host.is_macos:
        note("it runs while you are logged in; from boot on with: loginctl enable-linger")


def _not_run(argv: Sequence[str]) -> CompletedProcess[str]:
    """Nothing runs below another root directory, so nothing that is asked is so."""
    return CompletedProcess(argv, 1, "", "")


def _refuse(reason: str | None, is_dry_run: bool) -> None:
    if reason is not None and not is_dry_run:
        raise CommandError(reason)
    if reason is not None:
        note(f"this would be refused: {reason}")
