"""The command `edged`: serve, and tell what is configured."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from edged.cli.entry import run_command
from edged.cli.exits import CommandError, ExitCode
from edged.cli.install_service import install_service
from edged.cli.output import Json, emit, emit_json, note
from edged.config.layers import show_key
from edged.config.load import Flag, Loaded, load_settings
from edged.config.reference import as_toml, effective, reference_markdown
from edged.config.settings import Settings
from edged.config.values import KV_TYPES
from edged.core.policies import SERVING
from edged.embedded import EMBEDDED
from edged.errors import AddressError, ConfigError

_NAME_AND_PATH = re.compile(r"([A-Za-z0-9._-]{1,64})=(.+)", re.DOTALL)

app = typer.Typer(
    name="edged",
    help="A local LLM server: many apps share one model, and the urgent go first.",
    epilog="Exit codes: 0 ok; 1 error; 2 wrong usage; 78 `serve` refuses its configuration; "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(
    help="Show, check and explain the configuration.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")
app.command()(install_service)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: $EDGED_CONFIG, $XDG_CONFIG_HOME/edged/config.toml, "
        "/etc/edged/config.toml.",
    ),
]


ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME=PATH",
        help="Serve this model, before any configured one; may be repeated. Also a bare PATH, "
        'named after the file, or "embedded".',
    ),
]
ListenOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help='TCP address; "" for none.')
]
SocketOption = Annotated[str | None, typer.Option(metavar="PATH", help='Unix socket; "" for none.')]
InsecureOption = Annotated[
    bool | None,
    typer.Option(
        "--insecure/--no-insecure",
        help="Listen without TLS and tokens where other hosts can reach it.",
    ),
]
KvTypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="KV cache: f16, q8_0 or q4_0.", autocompletion=lambda: list(KV_TYPES)
    ),
]


def _number_or_auto(text: str) -> object:
    return int(text) if text.isdecimal() else text


ContextOption = Annotated[
    object | None,
    typer.Option(metavar="N|auto", parser=_number_or_auto, help="Tokens in the KV cache."),
]
SequencesOption = Annotated[
    int | None, typer.Option(metavar="N", help="Most requests that hold KV at once.")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Scheduling policy: {' or '.join(SERVING)}.",
        autocompletion=lambda: list(SERVING),
    ),
]
BackendOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Runtime: llama_cpp or sim.")
]
LogLevelOption = Annotated[
    str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV with TIMESTAMP or seconds, ContextTokens, GeneratedTokens, and maybe Client.",
    ),
]
SyntheticOption = Annotated[
    bool,
    typer.Option(
        "--synthetic",
        help="Requests drawn to be like an hour of a conversation service: the default without "
        "--trace.",
    ),
]
TierMixOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        "--tiers",
        metavar="TIER=SHARE[,ttft=S][,tpot=S][,ttlt=S]",
        help="A tier's share of the requests and its targets; may be repeated.",
    ),
]


_SECTIONS: Mapping[str, str] = {
    "listen": "server",
    "socket": "server",
    "insecure": "server",
    "kv_type": "engine",
    "context_tokens": "engine",
    "max_sequences": "engine",
    "policy": "scheduler",
    "backend": "engine",
    "log_level": "server",
}
"""Parameters that are settings of the same name, read from the context."""


@app.command()
def serve(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    model: ModelsOption = None,
    listen: ListenOption = None,
    socket: SocketOption = None,
    insecure: InsecureOption = None,
    kv_type: KvTypeOption = None,
    context_tokens: ContextOption = None,
    max_sequences: SequencesOption = None,
    policy: PolicyOption = None,
    backend: BackendOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Serve in the foreground until SIGTERM or Ctrl-C, then drain."""
    flags = setting_flags(context.params)
    # gRPC's core would write a line for every connection that is no TLS.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The daemon is the largest import of all, and nothing but serving needs it.
    from edged import daemon  # noqa: PLC0415

    try:
        loaded = _load_settings(flags, config)

        def read() -> Settings:
            # The same file: if it is gone, that is wrong, and no other one is looked for.
            return load_settings(flags, os.environ, loaded.file or config).settings

        code = daemon.run(loaded.settings, read)
    except AddressError:
        raise
    except ConfigError as error:
        # What is wrong now is wrong at the next start too; an address may be free then.
        raise CommandError(error.detail, ExitCode.CONFIGURATION) from None
    raise typer.Exit(code)


def _load_settings(flags: list[Flag], config: Path | None) -> Loaded:
    """Raises CommandError, USAGE, for what only the flags have wrong, and ConfigError."""
    try:
        return load_settings(flags, os.environ, config)
    except ConfigError as error:
        load_settings((), os.environ, config)
        raise CommandError(error.detail, ExitCode.USAGE) from None


@app.command()
def simulate(
    *,
    trace: TraceOption = None,
    synthetic: SyntheticOption = False,
    jobs: Annotated[
        int, typer.Option(min=2, max=1_000_000, metavar="N", help="Most requests.")
    ] = 2000,
    gap_cv: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100, metavar="CV", help="Of drawn gaps; 1, the default, is Poisson."
        ),
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="N,…", help="Requests per second. Default: the trace's, or 4.")
    ] = "",
    load: Annotated[str, typer.Option(metavar="N,…", help="Times the rate.")] = "1",
    tier: TierMixOption = None,
    policies: Annotated[str, typer.Option(metavar="NAME,…", help="Default: all.")] = "",
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="The device: a sample, or a JSON file.")
    ] = "consumer-gpu",
    slots: Annotated[
        int | None, typer.Option(min=1, max=4096, metavar="N", help="Instead of the device's.")
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=16, max=1_000_000_000, metavar="N", help="KV cells, instead of the device's."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Runs to average.")] = 1,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw targets kept and goodput against the rate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: every run.")] = False,
) -> None:
    """Simulate scheduling policies on a workload: the production scheduler on a manual clock."""
    from edged.cli.simulate import simulate as run  # noqa: PLC0415

    run(
        trace=trace,
        is_synthetic=synthetic,
        num_jobs=jobs,
        gap_cv=gap_cv,
        rate=rate,
        load=load,
        tiers=tier or [],
        policies=policies,
        profile=profile,
        num_slots=slots,
        num_cells=kv_tokens,
        num_seeds=seeds,
        json=as_json,
        picture=plot,
    )


@app.command()
def profile(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help='A configured model\'s name, NAME=PATH, PATH or "embedded". Default: the default '
            "model.",
        ),
    ] = None,
    *,
    config: ConfigOption = None,
    kv_type: KvTypeOption = None,
    context_tokens: ContextOption = None,
    max_sequences: SequencesOption = None,
    backend: BackendOption = None,
) -> None:
    """Measure a model on this device, and print a profile for `edged simulate`."""
    flags = setting_flags({**context.params, "model": None})
    settings = _load_settings(flags, config).settings
    if model is not None and model not in settings.models:
        settings = _load_settings([*model_flags([model]), *flags], config).settings
        model = None  # one that is named on the command line is the default
    from edged.cli.profile import print_profile  # noqa: PLC0415

    print_profile(settings, model or settings.default_model)


@config_app.command("show")
def config_show(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each comes from.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: file, settings[key, value, origin, …].")
    ] = False,
    model: ModelsOption = None,
    listen: ListenOption = None,
    socket: SocketOption = None,
    insecure: InsecureOption = None,
    kv_type: KvTypeOption = None,
    context_tokens: ContextOption = None,
    max_sequences: SequencesOption = None,
    policy: PolicyOption = None,
    backend: BackendOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Show every effective setting, as a file that would give the same ones.

    Takes the flags of `edged serve`, and shows what that would run with.
    """
    loaded = _load_settings(setting_flags(context.params), config)
    if not as_json:
        emit(as_toml(loaded, with_origin=origin))
        return
    settings = [
        {
            "key": show_key(setting.key),
            "value": cast(Json, setting.value),
            "origin": {"kind": setting.origin.kind.value, "name": setting.origin.name},
            "description": setting.description,
        }
        for setting in effective(loaded)
    ]
    emit_json({"file": str(loaded.file) if loaded.file else None, "settings": settings})


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A configuration file.")],
) -> None:
    """Check a configuration file by itself, without the environment's EDGED_* variables."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("EDGED_")}
    loaded = load_settings((), environ, file)
    note(f"{file}: ok, {len(loaded.settings.models)} model(s): {', '.join(loaded.settings.models)}")


@config_app.command("reference")
def config_reference() -> None:
    """Print every setting that exists, its default and its meaning, as a Markdown table."""
    emit(reference_markdown())


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: version.")] = False,
) -> None:
    """Print the version."""
    from edged import __version__  # noqa: PLC0415  # reads package metadata, which takes a while

    emit_json({"version": __version__}) if as_json else emit(f"edged {__version__}\n")


def setting_flags(params: Mapping[str, object]) -> list[Flag]:
    """The settings that the parameters of `edged serve` stand for; those not given are left out."""
    flags = model_flags(cast("list[str] | None", params["model"]) or [])
    for name, section in _SECTIONS.items():
        if params.get(name) is not None:
            flags.append(Flag((section, name), params[name], f"--{name.replace('_', '-')}"))
    return flags


def model_flags(texts: list[str]) -> list[Flag]:
    """The settings of --model NAME=PATH, PATH or embedded, in the order given.

    Raises:
        CommandError: two have one name.
    """
    flags: dict[str, Flag] = {}
    for text in texts:
        named = _NAME_AND_PATH.fullmatch(text)
        if named:
            name, path = named.groups()
        else:
            name, path = (EMBEDDED if text == EMBEDDED else Path(text).stem), text
        if name in flags:
            raise CommandError(f"--model: two models are named {name!r}", ExitCode.USAGE)
        flags[name] = Flag(("models", name, "path"), path, "--model")
    return list(flags.values())


def main() -> int:
    """The entry point `edged`."""

    def command() -> None:
        if not __debug__:
            raise CommandError(
                "python -O removes the checks that edged relies on: start it without -O "
                "and without PYTHONOPTIMIZE"
            )
        app()

    return run_command("edged", command)


if __name__ == "__main__":
    sys.exit(main())
