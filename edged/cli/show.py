"""What people read: the daemon's messages as aligned text.

Theory of operation: everything is laid out by rich into a string. On a terminal that is as wide as
the terminal and coloured; elsewhere it has no colour and no line is ever cut, so `| grep` sees all.
"""

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edged.cli.as_json import enum_name
from edged.cli.output import harmless, wants_colour
from edged.v1 import admin_pb2, inference_pb2

_PIPE_WIDTH = 100_000
_STYLES = {
    "ready": "green",
    "running": "green",
    "loading": "yellow",
    "restarting": "yellow",
    "preempted": "yellow",
    "held": "yellow",
    "draining": "yellow",
    "unloading": "yellow",
    "failed": "red",
    "waiting": "cyan",
}


def laid_out(what: RenderableType) -> str:
    """Text for stdout, ending in a line break."""
    on_terminal = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        force_terminal=wants_colour(sys.stdout),
        width=shutil.get_terminal_size().columns if on_terminal else _PIPE_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(what)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def status(status: admin_pb2.Status) -> RenderableType:
    state = enum_name(admin_pb2.DaemonState.DESCRIPTOR, status.state)
    parts: list[RenderableType] = [
        Text.assemble(
            f"edged {status.version}  ",
            _state(state),
            f"  up {_duration(status.uptime_s)}  policy {status.policy}  "
            f"{_bytes(status.resident_bytes)} resident",
        ),
        Text(f"listening on {', '.join(status.listeners) or 'nothing'}"),
    ]
    for model in status.models:
        parts += [Text(), *_model_details(model)]
    return Group(*parts)


def requests(rows: Sequence[admin_pb2.RequestInfo]) -> RenderableType:
    with_model = len({row.model for row in rows}) > 1
    heads = ["ID", "CLIENT", "TIER", "STATE", "POSITION", ">TOKENS", ">AGE", ">PREEMPTIONS"]
    table = _table([*heads, "MODEL"] if with_model else heads)
    for row in rows:
        position = str(row.position) if row.HasField("position") else "-"
        cells: list[str | Text] = [
            row.request_id,
            row.client,
            _tier(row.tier),
            _state(enum_name(admin_pb2.RequestState.DESCRIPTOR, row.state)),
            position,
            f"{row.num_computed_tokens}/{row.num_prompt_tokens}+{row.max_tokens}",
            _duration(row.age_s),
            str(row.num_preemptions),
        ]
        _add(table, [*cells, row.model] if with_model else cells)
    return table


def tiers(rows: Iterable[admin_pb2.TierInfo]) -> RenderableType:
    limits = [">MAX WAITING", ">PER CLIENT", ">MAX QUEUE"]
    table = _table(["TIER", ">TTFT", ">TPOT", *limits, "PREEMPTIBLE", ">MIN SHARE", "DEFAULT"])
    for row in rows:
        _add(
            table,
            [
                _tier(row.tier),
                f"{row.ttft_target_s:g} s" if row.HasField("ttft_target_s") else "-",
                f"{row.tpot_target_s:g} s" if row.HasField("tpot_target_s") else "-",
                str(row.max_waiting),
                str(row.max_waiting_per_client),
                f"{row.max_queue_s:g} s" if row.HasField("max_queue_s") else "-",
                "yes" if row.preemptible else "no",
                f"{row.min_share:g}",
                "yes" if row.is_default else "",
            ],
        )
    return table


def models(rows: Iterable[admin_pb2.Model]) -> RenderableType:
    table = _table(
        ["NAME", "STATE", "BACKEND", "DEVICE", ">SIZE", "KV", ">CAPACITY", "DESCRIPTION"]
    )
    for row in rows:
        _add(
            table,
            [
                f"{row.name} (default)" if row.is_default else row.name,
                _state(_model_state(row)),
                row.backend or "-",
                row.device or "-",
                _bytes(row.num_bytes) if row.num_bytes else "-",
                row.kv.effective_type or "-",
                f"{row.kv.capacity_tokens} tokens" if row.HasField("kv") else "-",
                row.failure or row.description or "-",
            ],
        )
    return table


def _model_details(model: admin_pb2.Model) -> list[RenderableType]:
    state = _model_state(model)
    head = Text.assemble(
        (harmless(model.name), "bold"), " (default)  " if model.is_default else "  ", _state(state)
    )
    if state == "loading":
        head.append(f" {model.load_progress:.0%}")
    if model.engine_pid:
        head.append(f"  engine {model.engine_pid}, {model.num_engine_losses} lost")
    lines: list[RenderableType] = [head]
    if model.failure:
        lines.append(Text(f"  {harmless(model.failure)}", style="red"))
    if model.description:
        what = f"{model.description}, {_bytes(model.num_bytes)}"
        lines.append(Text(f"  {harmless(what)}, {model.backend} on {model.device}"))
    if model.HasField("kv"):
        kv = model.kv
        lines.append(
            Text(
                f"  kv {kv.effective_type}, {kv.bytes_per_token} bytes per token: "
                f"{kv.used_tokens}/{kv.capacity_tokens} tokens, "
                f"{kv.used_slots}/{kv.num_slots} slots, {_bytes(kv.snapshot_bytes)} swapped"
            )
        )
        lines.append(
            Text(
                f"  {model.decode_tokens_per_s:.1f} tokens/s, {model.num_steps} steps, "
                f"{model.num_swaps} swaps, {model.num_recomputes} recomputes, "
                f"step time predicted within {model.cost_model_error:.0%}"
            )
        )
    if model.tiers:
        table = _table(
            ["  TIER", ">WAITING", ">RUNNING", ">PREEMPTED", ">FINISHED", ">GENERATED TOKENS"]
        )
        for tier in model.tiers:
            counts = (tier.num_waiting, tier.num_running, tier.num_preempted, tier.num_finished)
            cells = [str(count) for count in (*counts, tier.num_generated_tokens)]
            _add(table, [f"  {_tier(tier.tier)}", *cells])
        lines.append(table)
    return lines


def _table(heads: Sequence[str]) -> Table:
    """Columns two blanks apart; a head that begins with > is of a column of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        justify = "right" if head.startswith(">") else "left"
        table.add_column(head.removeprefix(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]  # a str, typed as one of five
    return table


def _add(table: Table, cells: Sequence[str | Text]) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else harmless(cell) for cell in cells))


def _state(name: str) -> Text:
    return Text(name, style=_STYLES.get(name, ""))


def _model_state(model: admin_pb2.Model) -> str:
    return enum_name(admin_pb2.ModelState.DESCRIPTOR, model.state)


def _tier(number: inference_pb2.Tier.ValueType) -> str:
    return enum_name(inference_pb2.Tier.DESCRIPTOR, number)


def _duration(seconds: float) -> str:
    """Rendered for a glance: "0.4s", "42s", "3m07s", "2h05m", "3d04h"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _bytes(number: int) -> str:
    """Rendered for a glance, in powers of 1024."""
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
