"""The memory of all models for people: where KV is, what is allocated, and why so much."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edged.cli.columns import Cell, Column, Style, Styled, laid_out
from edged.cli.output import harmless
from edged.cli.units import size
from edged.v1 import admin_pb2

_BAR_CELLS = 20


def kv(models: Sequence[admin_pb2.Model], *, colour: bool) -> str:
    """Only of models that are loaded."""
    loaded = [model for model in models if model.HasField("kv")]
    if not loaded:
        return "no model is loaded\n"
    parts = [_states(loaded, colour=colour)]
    if any(model.memory for model in loaded):
        parts.append(_pools(loaded, colour=colour))
        parts.append("".join(_reasons(model) for model in loaded))
    return "\n".join(parts)


def _states(models: Iterable[admin_pb2.Model], *, colour: bool) -> str:
    """What KV is held in which tier of memory."""
    columns = (
        *(Column("MODEL"), Column("TIER"), Column("STATE"), Column("")),
        *(Column(head, is_number=True) for head in ("SHARE", "TOKENS", "SIZE", "OF")),
    )
    rows = [row for model in models for row in _rows(model)]
    return laid_out(columns, rows, colour=colour)


def _rows(model: admin_pb2.Model) -> Iterable[Sequence[Cell]]:
    kv, running = model.kv, Styled("running", Style.GREEN)
    parked, swapped = Styled("parked", Style.YELLOW), Styled("swapped", Style.YELLOW)
    cached, free = Styled("cached", Style.CYAN), Styled("free", None)
    counts = {running: kv.used_tokens, parked: kv.parked_tokens, cached: kv.cached_tokens}
    counts[free] = max(0, kv.capacity_tokens - sum(counts.values()))
    for state, num_tokens in counts.items():
        held = _Held(num_tokens, kv.capacity_tokens, kv.bytes_per_token)
        yield (model.name, model.device, state, *held.cells(state))
    lower = [
        ("host", swapped, kv.snapshot_bytes, kv.max_snapshot_bytes),
        ("host", cached, kv.cached_bytes, kv.max_snapshot_bytes),
        ("disk", cached, kv.disk_bytes, kv.max_disk_bytes),
    ]
    for tier, state, num_bytes, max_bytes in lower:
        if max_bytes:
            per_token = max(1, kv.snapshot_bytes_per_token)
            held = _Held(num_bytes / per_token, max_bytes / per_token, per_token)
            yield (model.name, tier, state, *held.cells(state))


class _Held(NamedTuple):
    num_tokens: float
    max_tokens: float
    bytes_per_token: int

    def cells(self, state: Styled) -> tuple[Cell, ...]:
        share = self.num_tokens / self.max_tokens
        held, most = self.num_tokens * self.bytes_per_token, self.max_tokens * self.bytes_per_token
        shown = Styled(bar(share), state.style)
        return (shown, f"{share:.0%}", f"{self.num_tokens:.0f}", size(held), size(most))


def bar(share: float) -> str:
    """Something is never shown as nothing, nor anything less than all as all."""
    filled = round(share * _BAR_CELLS)
    if 0.0 < share < 1.0:
        filled = min(max(filled, 1), _BAR_CELLS - 1)
    filled = min(filled, _BAR_CELLS)
    return f"[{'#' * filled}{'-' * (_BAR_CELLS - filled)}]"


def _pools(models: Sequence[admin_pb2.Model], *, colour: bool) -> str:
    """What is allocated, by pool, and of each pool in all."""
    heads = ("WEIGHTS", "KV", "COMPUTING", "SAVED KV", "SUM")
    columns = (
        *(Column("POOL"), Column("MODEL")),
        *(Column(head, is_number=True) for head in heads),
    )
    rows: list[list[Cell]] = []
    uses = {(use.pool, model.name): use for model in models for use in model.memory}
    uses |= {
        ("host", model.name): admin_pb2.MemoryUse(pool="host")
        for model in models
        if _saved_bytes(model) and ("host", model.name) not in uses
    }
    for pool in dict.fromkeys(pool for pool, _ in uses):
        parts = {
            model.name: _parts(model, uses[pool, model.name])
            for model in models
            if (pool, model.name) in uses
        }
        if len(parts) > 1:
            sums = [sum(column) for column in zip(*parts.values(), strict=True)]
            parts["(all)"] = (sums[0], sums[1], sums[2], sums[3])
        for name, part in parts.items():
            figures = [size(number) for number in (*part, sum(part))]
            rows.append([pool, name, *figures])
    return laid_out(columns, rows, colour=colour)


def _saved_bytes(model: admin_pb2.Model) -> int:
    return model.kv.snapshot_bytes + model.kv.cached_bytes


def _parts(model: admin_pb2.Model, use: admin_pb2.MemoryUse) -> tuple[int, int, int, int]:
    saved = _saved_bytes(model) if use.pool == "host" else 0
    return use.weights_bytes, use.kv_bytes, use.compute_bytes, saved


def _reasons(model: admin_pb2.Model) -> str:
    """The sum that led to the size of the KV cache."""
    kv = model.kv
    most = size(kv.max_bytes)
    if not kv.max_bytes_is_auto:
        return f"{harmless(model.name)}: at most {most} of KV, as kv_memory says\n"
    text = ""
    for pool in model.pools_at_load:
        terms = [f"{size(pool.free_bytes)} free"]
        for what, number in (
            ("reserved for other models", pool.reserved_bytes),
            ("margin", pool.margin_bytes),
            ("weights", pool.weights_bytes),
            ("computing", pool.compute_bytes),
        ):
            if number:
                terms.append(f"{size(number)} {what}")
        where = f"{harmless(model.name)} on {harmless(pool.name)}"
        text += f"{where}: {' - '.join(terms)}\n"
    used = size(kv.capacity_tokens * kv.bytes_per_token)
    return (
        f"{text}{harmless(model.name)}: so KV can have {most}; {kv.capacity_tokens} tokens of "
        f"{kv.effective_type} take {used}\n"
    )
