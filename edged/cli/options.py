"""The options that several commands of `edgectl` share."""

from typing import Annotated

import typer

from edged.cli.complete import model_names
from edged.client.connect.address import HOST_VARIABLE

MOST_SECONDS = 1e9
"""Thirty years: what is beyond was not meant, and overflows somewhere."""

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="HOST:PORT|unix:PATH|NAME",
        help="The daemon; NAME is one that was paired with. Default: "
        f"${HOST_VARIABLE}, else the usual unix socket where a daemon listens on it, else "
        "127.0.0.1:7411.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON with the field names of proto/edged/v1; streams give a line each."
    ),
]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Again when it changed.")]
IntervalOption = Annotated[
    float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="Least pause with --watch.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Default: the daemon's default model.",
        autocompletion=model_names,
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", min=1, max=2**32 - 1, help="Most tokens to generate."),
]
TemperatureOption = Annotated[
    float | None, typer.Option(min=0, help="0 takes the likeliest token always.")
]
TopKOption = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="Keep the k likeliest tokens; 0: all.")
]
TopPOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Keep this much probability; 0 is refused.")
]
MinPOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Keep tokens this likely next to the likeliest."),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**64 - 1, help="Same seed, same prompt: same answer.")
]
StopOption = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be repeated.")
]
SystemOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="How the model shall behave.")
]
LimitOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0.001,
        max=MOST_SECONDS,
        metavar="SECONDS",
        help="Longest time to the end of an answer; then it is cancelled. Without: none, but a "
        "daemon that gives no sign of life for 30 s is left.",
    ),
]
ClientOption = Annotated[
    str, typer.Option(metavar="NAME", help="App that the request counts for, as `ps` shows it.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Tell the request's events and times on stderr.")
]
TtftOption = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=MOST_SECONDS, metavar="SECONDS", help="Target of the time to first token."
    ),
]
TpotOption = Annotated[
    float | None,
    typer.Option(
        min=0.0001,
        max=MOST_SECONDS,
        metavar="SECONDS",
        help="Target of the time per further token.",
    ),
]
TtltOption = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=MOST_SECONDS, metavar="SECONDS", help="Target of the time to the last token."
    ),
]
ExpectedTokensOption = Annotated[
    int | None,
    typer.Option(min=1, max=2**32 - 1, help="Length of the answer, as far as you know it."),
]
OrRejectOption = Annotated[
    bool,
    typer.Option(
        "--or-reject",
        help="Be refused if the targets cannot be promised: exit code 4, or 1 if never.",
    ),
]
