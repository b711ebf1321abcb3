"""A picture of a table: what each policy keeps, against how fast requests come."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edged.simulate.report import Row

_SIZE_INCHES = (11.0, 4.5)
_DOTS_PER_INCH = 120


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: attainment and goodput against the rate, a line for each policy.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    attainment, goodput = figure.subplots(1, 2)
    for policy in dict.fromkeys(row.policy for row in rows):
        mine = sorted((row for row in rows if row.policy == policy), key=lambda row: row.rate)
        rates = [row.rate for row in mine]
        kept = [100 * (1 - row.mean(lambda run: run.violated)) for row in mine]
        attainment.plot(rates, kept, marker="o", label=policy)
        goodput.plot(rates, [row.mean(lambda run: run.goodput) for row in mine], marker="o")
    _label(attainment, "requests without a missed target, %")
    _label(goodput, "requests without a missed target, per second")
    attainment.set_ylim(0, 102)
    figure.legend(loc="outside right upper")
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)


def _label(axes: Axes, what: str) -> None:
    axes.set_xlabel("requests per second")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
