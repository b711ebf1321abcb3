"""Tables of measures, as text and as JSON."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from edged.core.types import SloTier
from edged.simulate.measure import PERCENTILES, Measures


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one load: the measures of every seed."""

    policy: str
    rate: float
    """Jobs per second."""
    runs: tuple[Measures, ...]

    def mean(self, of: Callable[[Measures], float]) -> float:
        """Over the seeds that have it; nan if none has."""
        values = _known(map(of, self.runs))
        return fmean(values) if values else math.nan


def table(rows: Sequence[Row]) -> list[list[str]]:
    """What jobs got: a heading and a line for each row; parts in percent, times in seconds."""
    tiers = [tier for tier in SloTier if any(tier in run.tiers for row in rows for run in row.runs)]
    heading = ["POLICY", "RATE", "VIOLATED", *(f"{tier.upper()}" for tier in tiers), "LONG", "TPOT"]
    heading += ["GOODPUT", "SMOOTH", "TOKENS/S", "WORST WAIT", "UNFINISHED", "JAIN"]
    return [heading, *(_gains(row, tiers) for row in rows)]


def work_table(rows: Sequence[Row]) -> list[list[str]]:
    """What the scheduler did for that, as `table`."""
    heading = ["POLICY", "RATE", "PROMISED", "BROKEN", "RELEGATED", "THEIR P99", "TURNS"]
    heading += ["BOUND HELD", "SWAPS", "RECOMPUTES", "CHUNK P50", "CHUNK P99"]
    return [heading, *(_work(row) for row in rows)]


def tier_table(rows: Sequence[Row]) -> list[list[str]]:
    """Percentiles in seconds, a line for each row and tier."""
    spans = ("TTFT", "TPOT", "TTLT")
    heading = ["POLICY", "RATE", "TIER", *(f"{span} P{p}" for span in spans for p in PERCENTILES)]
    lines = [heading]
    for row in rows:
        for tier in SloTier:
            runs = [run.tiers[tier] for run in row.runs if tier in run.tiers]
            if runs:
                columns = zip(
                    *([*run.ttft_s, *run.tpot_s, *run.ttlt_s] for run in runs), strict=True
                )
                times_s = [fmean(known) if (known := _known(one)) else math.nan for one in columns]
                lines.append([row.policy, f"{row.rate:.3g}", tier, *map(_seconds, times_s)])
    return lines


def _gains(row: Row, tiers: Iterable[SloTier]) -> list[str]:
    def violated(tier: SloTier) -> Callable[[Measures], float]:
        return lambda run: run.tiers[tier].violated if tier in run.tiers else math.nan

    return [
        row.policy,
        f"{row.rate:.3g}",
        _part(row, lambda run: run.violated),
        *(_part(row, violated(tier)) for tier in tiers),
        _part(row, lambda run: run.violated_long),
        _part(row, lambda run: run.missed_tpot),
        f"{row.mean(lambda run: run.goodput):.2f}",
        f"{row.mean(lambda run: run.smooth_goodput):.0f}",
        f"{row.mean(lambda run: run.tokens_per_s):.0f}",
        _seconds(row.mean(lambda run: run.worst_wait_s)),
        f"{row.mean(lambda run: run.num_unfinished):.0f}",
        _seconds(row.mean(lambda run: run.fairness)),
    ]


def _work(row: Row) -> list[str]:
    return [
        row.policy,
        f"{row.rate:.3g}",
        _part(row, lambda run: run.promised),
        _part(row, lambda run: run.broken),
        f"{row.mean(lambda run: run.num_relegated):.0f}",
        _seconds(row.mean(lambda run: run.relegated_p99_s)),
        f"{row.mean(lambda run: run.num_turns):.0f}",
        _part(row, lambda run: run.bound_held),
        f"{row.mean(lambda run: run.num_swaps):.0f}",
        f"{row.mean(lambda run: run.num_recomputes):.0f}",
        f"{row.mean(lambda run: run.chunk_tokens[0]):.0f}",
        f"{row.mean(lambda run: run.chunk_tokens[-1]):.0f}",
    ]


def _part(row: Row, of: Callable[[Measures], float]) -> str:
    value = row.mean(of)
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def as_json(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Every measure of every seed; percentiles are lists, at `percentiles` of each row."""
    return [
        {
            "policy": row.policy,
            "rate": row.rate,
            "percentiles": list(PERCENTILES),
            "runs": [_plain(asdict(run)) for run in row.runs],
        }
        for row in rows
    ]


def _plain(value: object) -> object:
    """nan has no JSON: it becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
