"""The command `edgectl discover`: its words and options; `discovered` does the work, and is
imported when it is needed, as it imports zeroconf and gRPC.
"""

# ruff: noqa: PLC0415  # see above

from typing import Annotated

import typer

from edged.cli.connected import limit_s
from edged.cli.options import MOST_SECONDS, JsonOption


def discover(
    context: typer.Context,
    *,
    json: JsonOption = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Ask each what it serves and how busy it is."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Tell what comes, changes and goes, until Ctrl-C.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="How long to look. Default: 0.8, 2 in a flood, up to 3 until one is found.",
        ),
    ] = None,
) -> None:
    """List the daemons of the local network that advertise themselves; those paired with first.

    What is listed is what they say of themselves. With --probe, those that were paired with are
    asked over TLS with the token for them, and only they.
    """
    from edged.cli import discovered

    time_s = limit_s(context, timeout)
    if watch:
        discovered.watch(json=json, probe=probe, timeout_s=time_s)
    else:
        discovered.print_found(json=json, probe=probe, timeout_s=time_s)
