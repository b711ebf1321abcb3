"""The command `edgectl`: its words and options; `operate` does the work. Those that ask a model are
in `ask`, those about who may use a daemon in `access`.

That imports gRPC, so it is imported by the commands that need it: help, completion and wrong usage
answer at once.
"""

# ruff: noqa: PLC0415  # see above

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from edged.cli import access, ask
from edged.cli.complete import model_names, request_ids
from edged.cli.connected import Global, connected
from edged.cli.discover import discover
from edged.cli.entry import run_command
from edged.cli.exits import EXIT_CODES_HELP
from edged.cli.options import (
    MOST_SECONDS,
    HostOption,
    IntervalOption,
    JsonOption,
    WatchOption,
)

if TYPE_CHECKING:
    from edged.cli.remote import Connection

app = typer.Typer(
    name="edgectl",
    help="Talk to an edged daemon: ask its models, watch it, operate it.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="List models, or load and unload one.", rich_markup_mode=None)
app.add_typer(models_app, name="models")


@app.callback()
def everywhere(
    context: typer.Context,
    host: HostOption = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="Longest wait for an answer. Default: 10 for questions, none for streams.",
        ),
    ] = None,
) -> None:
    for text in sys.argv:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise typer.BadParameter(f"{text!r} is not UTF-8")
    context.obj = Global(host, timeout)


@app.command()
def status(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: JsonOption = False,
    watch: WatchOption = False,
    interval: IntervalOption = 1.0,
) -> None:
    """Show the daemon, its models and their load."""
    from edged.cli import operate

    def use(connection: "Connection") -> None:
        if watch:
            operate.watch_status(connection, operate.print_whole, json=json, interval_s=interval)
        else:
            operate.print_status(connection, operate.print_whole, json=json)

    connected(context, host, use)


@app.command()
def kv(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: JsonOption = False,
    watch: WatchOption = False,
    interval: IntervalOption = 1.0,
) -> None:
    """Show what memory the models take, and where KV is: on the device, in host memory, on disk.

    With --json, the models as `status --json` has them.
    """
    from edged.cli import operate

    def use(connection: "Connection") -> None:
        if watch:
            operate.watch_status(connection, operate.print_kv, json=json, interval_s=interval)
        else:
            operate.print_status(connection, operate.print_kv, json=json)

    connected(context, host, use)


@app.command()
def ps(context: typer.Context, *, host: HostOption = None, json: JsonOption = False) -> None:
    """List the requests that are not finished, most urgent first.

    TOKENS is computed/prompt+most: tokens whose KV is computed, of the prompt's and the most that
    may be generated.
    """
    from edged.cli import operate

    connected(context, host, lambda connection: operate.print_requests(connection, json=json))


@app.command()
def tiers(context: typer.Context, *, host: HostOption = None, json: JsonOption = False) -> None:
    """List the service tiers, their targets and limits."""
    from edged.cli import operate

    connected(context, host, lambda connection: operate.print_tiers(connection, json=json))


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, host: HostOption = None, json: JsonOption = False) -> None:
    """List the configured models; or load or unload one."""
    if context.invoked_subcommand is not None:
        given = context.find_object(Global)
        assert given is not None, "the callback of the app has run"
        context.obj = Global(host or given.host, given.timeout_s)
        return
    from edged.cli import operate

    connected(context, host, lambda connection: operate.print_models(connection, json=json))


ModelArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A configured model.", autocompletion=model_names)
]


@models_app.command("load")
def models_load(
    context: typer.Context,
    name: ModelArgument,
    *,
    host: HostOption = None,
    json: JsonOption = False,
) -> None:
    """Load a model and wait until it is ready."""
    from edged.cli import operate

    connected(context, host, lambda connection: operate.load_model(connection, name, json=json))


@models_app.command("unload")
def models_unload(
    context: typer.Context,
    name: ModelArgument,
    *,
    host: HostOption = None,
    json: JsonOption = False,
) -> None:
    """Let a model's requests finish, within the daemon's drain_s, then stop its engine."""
    from edged.cli import operate

    connected(context, host, lambda connection: operate.unload_model(connection, name, json=json))


app.command()(ask.run)
app.command()(ask.chat)
app.command()(access.identity)
app.add_typer(access.token_app, name="token")
app.command()(access.pair)
app.command()(discover)


@app.command()
def cancel(
    context: typer.Context,
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A request's id, or its first 4 or more characters.",
            autocompletion=request_ids,
        ),
    ],
    *,
    host: HostOption = None,
    json: JsonOption = False,
) -> None:
    """End a request."""
    from edged.cli import operate

    connected(context, host, lambda connection: operate.cancel(connection, request_id, json=json))


@app.command()
def drain(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: JsonOption = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="Longest wait for running requests. Default: the daemon's drain_s.",
        ),
    ] = None,
) -> None:
    """Let the daemon take no new work, finish what runs, and exit."""
    from edged.cli import operate

    connected(context, host, lambda connection: operate.drain(connection, timeout, json=json))


@app.command()
def profile(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A loaded model. Default: the daemon's default model.",
            autocompletion=model_names,
        ),
    ] = "",
    *,
    host: HostOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="Watch for so long and print the mean. Default: of recent steps.",
        ),
    ] = None,
) -> None:
    """Print how fast a model is in service, as JSON for `edged simulate`.

    `edged profile MODEL` measures a model alone; this is what its steps take beside all else that
    the machine does, the daemon and its clients with it.
    """
    from edged.cli.learned import print_profile

    connected(context, host, lambda connection: print_profile(connection, model, seconds))


@app.command()
def version(context: typer.Context, *, host: HostOption = None, json: JsonOption = False) -> None:
    """Print the version of edgectl and of the daemon."""
    from edged import __version__
    from edged.cli import operate

    def use(connection: "Connection") -> None:
        operate.print_version(connection, __version__, json=json)

    connected(context, host, use)


def main() -> int:
    """The entry point `edgectl`."""
    # gRPC's C core writes lines of its own to stderr, which is for the user; it reads this when it
    # is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return run_command("edgectl", app)


if __name__ == "__main__":
    sys.exit(main())
