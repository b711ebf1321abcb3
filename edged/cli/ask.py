"""The commands `edgectl run` and `edgectl chat`: their words and options; `generate` and `talk` do
the work, and are imported when they are needed, as they import gRPC.
"""

# ruff: noqa: PLC0415  # see above

from typing import TYPE_CHECKING, Annotated

import typer

from edged.cli.connected import connected, limit_s
from edged.cli.options import (
    ClientOption,
    ExpectedTokensOption,
    HostOption,
    JsonOption,
    LimitOption,
    MaxTokensOption,
    MinPOption,
    ModelOption,
    OrRejectOption,
    SeedOption,
    StopOption,
    SystemOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    TpotOption,
    TtftOption,
    TtltOption,
    VerboseOption,
)
from edged.core.types import SloTier

if TYPE_CHECKING:
    from edged.cli.remote import Connection


def run(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help='What to ask; "-" reads stdin.')],
    *,
    host: HostOption = None,
    json: JsonOption = False,
    model: ModelOption = "",
    tier: Annotated[
        SloTier | None, typer.Option("--tier", "-t", help="Default: the daemon's default tier.")
    ] = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
    system: SystemOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Give the prompt to the model without its chat template.")
    ] = False,
    ttft: TtftOption = None,
    tpot: TpotOption = None,
    ttlt: TtltOption = None,
    expected_tokens: ExpectedTokensOption = None,
    or_reject: OrRejectOption = False,
    timeout: LimitOption = None,
    client: ClientOption = "edgectl",
    verbose: VerboseOption = False,
) -> None:
    """Ask once and stream the answer to stdout. Ctrl-C cancels it on the server."""
    if raw and system:
        raise typer.BadParameter("--raw takes the prompt as it is, so --system has no place in it")
    from edged.cli.generate import Answer, Asker, Asking, Targets
    from edged.cli.talk import prompt_of

    asking = Asking(
        model=model,
        tier=tier,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
        client=client,
        targets=Targets(ttft_s=ttft, tpot_s=tpot, ttlt_s=ttlt),
        expected_tokens=expected_tokens,
        or_reject=or_reject,
        limit_s=limit_s(context, timeout),
        json=json,
        verbose=verbose,
    )
    question = prompt_of(prompt, system=system, raw=raw)
    connected(context, host, lambda connection: Asker(connection, asking).ask(question, Answer()))


def chat(
    context: typer.Context,
    *,
    host: HostOption = None,
    json: JsonOption = False,
    model: ModelOption = "",
    tier: Annotated[
        SloTier, typer.Option("--tier", "-t", help="Somebody watches, so it is urgent.")
    ] = SloTier.INTERACTIVE,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
    system: SystemOption = None,
    timeout: LimitOption = None,
    client: ClientOption = "edgectl",
    verbose: VerboseOption = False,
) -> None:
    """Talk with a model: a line is a turn; /clear forgets, /exit or end of input ends.

    On a terminal, Ctrl-C during an answer cancels that answer and at the prompt leaves; from a
    pipe it does both.
    """
    from edged.cli import talk
    from edged.cli.generate import Asker, Asking

    asking = Asking(
        model=model,
        tier=tier,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        stop=tuple(stop or ()),
        client=client,
        limit_s=limit_s(context, timeout),
        json=json,
        verbose=verbose,
    )

    def use(connection: "Connection") -> None:
        talk.chat(Asker(connection, asking), system=system)

    connected(context, host, use)
