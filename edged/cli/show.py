"""What people read: the daemon's messages as text. Every function answers whole lines."""

from collections.abc import Mapping, Sequence

from edged.cli.as_json import enum_name
from edged.cli.columns import Cell, Column, Style, Styled, laid_out, painted
from edged.cli.show_kv import bar
from edged.cli.units import duration, size
from edged.v1 import admin_pb2, inference_pb2

_STATE_STYLES: Mapping[str, Style] = {
    "ready": Style.GREEN,
    "running": Style.GREEN,
    "loading": Style.YELLOW,
    "restarting": Style.YELLOW,
    "preempted": Style.YELLOW,
    "held": Style.YELLOW,
    "draining": Style.YELLOW,
    "unloading": Style.YELLOW,
    "failed": Style.RED,
    "waiting": Style.CYAN,
}


def status(status: admin_pb2.Status, *, colour: bool) -> str:
    state = _state(enum_name(admin_pb2.DaemonState.DESCRIPTOR, status.state))
    head = [
        painted(f"edged {status.version}", colour=colour),
        painted(state, colour=colour),
        painted(
            f"up {duration(status.uptime_s)}  policy {status.policy}  "
            f"{size(status.resident_bytes)} resident",
            colour=colour,
        ),
    ]
    listeners = painted(", ".join(status.listeners) or "nothing", colour=colour)
    text = f"{'  '.join(head)}\nlistening on {listeners}\n"
    for warning in status.warnings:
        text += painted(Styled(f"warning: {warning}", Style.YELLOW), colour=colour) + "\n"
    for model in status.models:
        text += "\n" + _model_details(model, colour=colour)
    return text


def requests(rows: Sequence[admin_pb2.RequestInfo], *, colour: bool) -> str:
    columns = [
        Column("ID"),
        Column("CLIENT"),
        Column("TIER"),
        Column("STATE"),
        Column("POSITION", is_number=True),
        Column("ETA", is_number=True),
        Column("PROMISED"),
        Column("TOKENS", is_number=True),
        Column("AGE", is_number=True),
        Column("PREEMPTIONS", is_number=True),
    ]
    with_model = len({row.model for row in rows}) > 1
    if with_model:
        columns.append(Column("MODEL"))
    cells: list[list[Cell]] = []
    for row in rows:
        of_row: list[Cell] = [
            row.request_id,
            row.client,
            _tier(row.tier),
            _state(enum_name(admin_pb2.RequestState.DESCRIPTOR, row.state)),
            str(row.position) if row.HasField("position") else "-",
            duration(row.eta_s) if row.HasField("eta_s") else "-",
            ("yes" if row.promised else "no") if row.HasField("promised") else "-",
            f"{row.num_computed_tokens}/{row.num_prompt_tokens}"
            + (f"+{row.max_tokens}" if row.HasField("max_tokens") else ""),
            duration(row.age_s),
            str(row.num_preemptions),
        ]
        cells.append([*of_row, row.model] if with_model else of_row)
    return laid_out(columns, cells, colour=colour)


def tiers(rows: Sequence[admin_pb2.TierInfo], *, colour: bool) -> str:
    columns = (
        Column("TIER"),
        Column("TTFT", is_number=True),
        Column("TPOT", is_number=True),
        Column("TTLT", is_number=True),
        Column("MAX WAITING", is_number=True),
        Column("PER CLIENT", is_number=True),
        Column("MAX QUEUE", is_number=True),
        Column("PREEMPTIBLE"),
        Column("MIN SHARE", is_number=True),
        Column("DEFAULT"),
    )
    cells: list[list[Cell]] = [
        [
            _tier(row.tier),
            f"{row.ttft_target_s:g} s" if row.HasField("ttft_target_s") else "-",
            f"{row.tpot_target_s:g} s" if row.HasField("tpot_target_s") else "-",
            f"{row.ttlt_target_s:g} s" if row.HasField("ttlt_target_s") else "-",
            str(row.max_waiting),
            str(row.max_waiting_per_client),
            f"{row.max_queue_s:g} s" if row.HasField("max_queue_s") else "-",
            "yes" if row.preemptible else "no",
            f"{row.min_share:g}",
            "yes" if row.is_default else "",
        ]
        for row in rows
    ]
    return laid_out(columns, cells, colour=colour)


def models(rows: Sequence[admin_pb2.Model], *, colour: bool) -> str:
    columns = (
        Column("NAME"),
        Column("STATE"),
        Column("BACKEND"),
        Column("DEVICE"),
        Column("SIZE", is_number=True),
        Column("KV"),
        Column("CAPACITY", is_number=True),
        Column("DESCRIPTION"),
    )
    cells: list[list[Cell]] = [
        [
            f"{row.name} (default)" if row.is_default else row.name,
            _state(_model_state(row)),
            row.backend or "-",
            row.device or "-",
            size(row.num_bytes) if row.num_bytes else "-",
            row.kv.effective_type or "-",
            f"{row.kv.capacity_tokens} tokens" if row.HasField("kv") else "-",
            row.failure or row.description or "-",
        ]
        for row in rows
    ]
    return laid_out(columns, cells, colour=colour)


def _model_details(model: admin_pb2.Model, *, colour: bool) -> str:
    state = _model_state(model)
    head = painted(Styled(model.name, Style.BOLD), colour=colour)
    head += " (default)  " if model.is_default else "  "
    head += painted(_state(state), colour=colour)
    if state == "loading":
        head += f" {model.load_progress:.0%}"
    if model.engine_pid:
        head += f"  engine {model.engine_pid}, {model.num_engine_losses} lost"
    lines: list[Cell] = []
    if model.failure:
        lines.append(Styled(model.failure, Style.RED))
    if model.description:
        what = f"{model.description}, {size(model.num_bytes)}"
        lines.append(f"{what}, {model.backend} on {model.device}")
    lines += [Styled(warning, Style.YELLOW) for warning in model.warnings]
    if model.HasField("kv"):
        lines += _kv_and_work(model)
    shown = "".join(f"  {painted(line, colour=colour)}\n" for line in lines)
    return f"{head}\n{shown}{_tier_loads(model, colour=colour)}"


def _kv_and_work(model: admin_pb2.Model) -> list[str]:
    kv = model.kv
    storage = f" ({kv.storage})" if kv.storage else ""
    lines = [
        f"kv {kv.effective_type}{storage}, {kv.bytes_per_token} bytes per token: "
        f"{bar(kv.used_tokens / max(1, kv.capacity_tokens))} "
        f"{kv.used_tokens}/{kv.capacity_tokens} tokens, {kv.used_slots}/{kv.num_slots} slots, "
        f"{size(kv.snapshot_bytes)} swapped"
    ]
    lines += [
        f"memory {use.pool}: {size(use.weights_bytes)} weights, {size(use.kv_bytes)} KV, "
        f"{size(use.compute_bytes)} computing"
        for use in model.memory
    ]
    kept = kv.parked_tokens or kv.cached_tokens or kv.cached_bytes or kv.disk_bytes
    if kept or model.num_cached_tokens:
        found = model.num_cached_tokens / max(1, model.num_prompt_tokens + model.num_cached_tokens)
        lines.append(
            f"kept: {kv.parked_tokens} tokens parked, {kv.cached_tokens} cached, "
            f"{size(kv.cached_bytes)} of memory, {size(kv.disk_bytes)} of disk; "
            f"{found:.0%} of prompts found computed"
        )
    if model.num_steps:
        lines.append(
            f"{model.decode_tokens_per_s:.1f} tokens/s, {model.num_steps} steps, "
            f"{model.num_interrupted_steps} cut short, {model.num_parks} parked, "
            f"{model.num_swaps} swaps, "
            f"{model.num_recomputes} recomputes, "
            f"step time predicted within {model.cost_model_error:.0%}"
        )
    return lines


def _tier_loads(model: admin_pb2.Model, *, colour: bool) -> str:
    if not model.tiers:
        return ""
    heads = (
        *("WAITING", "RUNNING", "PREEMPTED", "FINISHED", "GENERATED TOKENS"),
        *("PROMISED", "BROKEN", "RELEGATED"),
    )
    columns = (Column("  TIER"), *(Column(head, is_number=True) for head in heads))
    rows = [
        [
            f"  {_tier(tier.tier)}",
            str(tier.num_waiting),
            str(tier.num_running),
            str(tier.num_preempted),
            str(tier.num_finished),
            str(tier.num_generated_tokens),
            str(tier.num_promised),
            str(tier.num_broken),
            str(tier.num_relegated),
        ]
        for tier in model.tiers
    ]
    return laid_out(columns, rows, colour=colour)


def _state(name: str) -> Styled:
    return Styled(name, _STATE_STYLES.get(name))


def _model_state(model: admin_pb2.Model) -> str:
    return enum_name(admin_pb2.ModelState.DESCRIPTOR, model.state)


def _tier(number: inference_pb2.Tier.ValueType) -> str:
    return enum_name(inference_pb2.Tier.DESCRIPTOR, number)
