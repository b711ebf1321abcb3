"""The commands `edgectl identity`, `token` and `pair`: their words and options; `identity`,
`tokens`, `pair` and `pair_here` do the work, and are imported when they are needed.
"""

# ruff: noqa: PLC0415  # see above

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edged.cli.complete import model_names
from edged.cli.connected import Global, connected
from edged.cli.options import HostOption, JsonOption
from edged.core.types import SloTier

if TYPE_CHECKING:
    from edged.node.trust.grant import Grant

token_app = typer.Typer(
    help="Make, list and revoke the tokens that apps and other hosts show.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MaxTierOption = Annotated[
    SloTier | None,
    typer.Option("--tier", "-t", help="The most urgent it may ask for. Default: interactive."),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A model it may use; may be repeated. Default: all.",
        autocompletion=model_names,
    ),
]
AdminOption = Annotated[bool, typer.Option("--admin", help="It may operate the daemon too.")]
RateOption = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Most requests it may begin per minute, on average."),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Most requests it may have open at once.")
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Change this tokens.json, or the one in this directory, instead of asking a daemon.",
    ),
]
WhereArgument = Annotated[
    str,
    typer.Argument(
        metavar="[HOST[:PORT]|NAME]",
        help="A daemon on another host. Without it: wait here for others that want to pair.",
    ),
]
PeerNameOption = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What to call the daemon here; without HOST, what to call the client. Default: its "
        "own name.",
    ),
]
AsOption = Annotated[
    str,
    typer.Option(
        "--as", metavar="NAME", help="With HOST: what to be called there. Default: the host's name."
    ),
]
TokenOption = Annotated[
    str,
    typer.Option(
        metavar="TOKEN",
        help='With HOST: one of `edgectl token create`, instead of a code; "-" reads stdin.',
    ),
]
FingerprintOption = Annotated[
    str,
    typer.Option(
        metavar="SHA256:…",
        help="With HOST: the certificate it must have, instead of a question.",
    ),
]


def identity(context: typer.Context, *, host: HostOption = None, json: JsonOption = False) -> None:
    """Show who the daemon is: its name, its certificate, where it listens; and what you may do."""
    from edged.cli.identity import print_identity

    connected(context, host, lambda connection: print_identity(connection, json=json))


@token_app.callback()
def token(context: typer.Context, host: HostOption = None) -> None:
    given = context.find_object(Global)
    assert given is not None, "the callback of the app has run"
    context.obj = Global(host or given.host, given.timeout_s)


@token_app.command("create")
def token_create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whom it is for; requests count for that name.")
    ],
    *,
    host: HostOption = None,
    json: JsonOption = False,
    tier: MaxTierOption = None,
    model: ModelsOption = None,
    admin: AdminOption = False,
    rate: RateOption = None,
    concurrency: ConcurrencyOption = None,
    file: FileOption = None,
) -> None:
    """Make a token and print it, alone, on stdout. It cannot be shown again."""
    from edged.cli import tokens

    grant = _grant(name, tier, model, admin, rate=rate, concurrency=concurrency)
    if file is not None:
        tokens.create_in_file(file, grant, json=json)
        return
    connected(context, host, lambda connection: tokens.create(connection, grant, json=json))


@token_app.command("list")
def token_list(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: JsonOption = False,
    file: FileOption = None,
) -> None:
    """List the tokens, also those that were revoked."""
    from edged.cli import tokens

    if file is not None:
        tokens.list_in_file(file, json=json)
        return
    connected(context, host, lambda connection: tokens.list_all(connection, json=json))


@token_app.command("revoke")
def token_revoke(
    context: typer.Context,
    name_or_id: Annotated[
        str, typer.Argument(metavar="NAME_OR_ID", help="As `edgectl token list` shows it.")
    ],
    *,
    host: HostOption = None,
    json: JsonOption = False,
    file: FileOption = None,
) -> None:
    """Refuse a token from now on. What it has running goes on."""
    from edged.cli import tokens

    if file is not None:
        tokens.revoke_in_file(file, name_or_id, json=json)
        return
    connected(context, host, lambda connection: tokens.revoke(connection, name_or_id, json=json))


def pair(
    context: typer.Context,
    where: WhereArgument = "",
    *,
    host: HostOption = None,
    json: JsonOption = False,
    name: PeerNameOption = "",
    as_name: AsOption = "",
    token: TokenOption = "",
    fingerprint: FingerprintOption = "",
    tier: MaxTierOption = None,
    model: ModelsOption = None,
    admin: AdminOption = False,
    rate: RateOption = None,
    concurrency: ConcurrencyOption = None,
    once: Annotated[bool, typer.Option("--once", help="Without HOST: end after one.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the daemons paired with.")] = False,
    forget: Annotated[
        str, typer.Option(metavar="NAME", help="Forget a daemon that was paired with.")
    ] = "",
) -> None:
    """Trust a daemon on another host, and be trusted by it; or wait here for such others.

    Run it without HOST on the daemon's machine, then with HOST on the other. Both show a code:
    compare the two, and answer. --tier, --model, --admin, --rate and --concurrency say on the
    daemon's machine what the other may do.
    """
    is_for_waiting = bool(tier or model or admin or rate or concurrency or once)
    _check_pair([where, list_, forget], is_for_waiting, bool(as_name or token or fingerprint))
    if list_ or forget:
        from edged.cli import peers

        if list_:
            peers.print_peers(json=json)
        else:
            peers.forget(forget)
    elif where:
        from edged.cli.pair import Wish, pair_with

        given = context.find_object(Global)
        assert given is not None, "the callback of the app has run"
        pair_with(Wish(where, name, as_name, token, fingerprint, given.timeout_s, json))
    else:
        from edged.cli.pair_here import wait_for_clients

        grant = _grant(name, tier, model, admin, rate=rate, concurrency=concurrency)
        connected(context, host, lambda connection: wait_for_clients(connection, grant, once=once))


def _check_pair(ways: list[object], is_for_waiting: bool, is_for_asking: bool) -> None:
    """Raises typer.BadParameter: options that belong to different uses."""
    where, *_ = ways
    if sum(map(bool, ways)) > 1:
        raise typer.BadParameter("HOST, --list and --forget exclude one another")
    if any(ways) and is_for_waiting:
        raise typer.BadParameter(
            "--tier, --model, --admin, --rate, --concurrency and --once are for the daemon's "
            "machine, without HOST"
        )
    if is_for_asking and not where:
        raise typer.BadParameter("--as, --token and --fingerprint need a HOST")


def _grant(
    name: str,
    tier: SloTier | None,
    models: list[str] | None,
    is_admin: bool,
    *,
    rate: float | None,
    concurrency: int | None,
) -> "Grant":
    from edged.node.trust.grant import Grant

    return Grant(
        name=name,
        max_tier=tier or SloTier.INTERACTIVE,
        models=tuple(models or ()),
        is_admin=is_admin,
        max_requests_per_minute=rate,
        max_concurrent_requests=concurrency,
    )
