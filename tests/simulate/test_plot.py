"""The picture of a table."""

from pathlib import Path

from edged.simulate.measure import Measures
from edged.simulate.plot import plot
from edged.simulate.report import Row


def measures(violated: float, goodput: float) -> Measures:
    return Measures(violated, 0.0, 0.0, goodput, 1.0, 1.0, 0, 0, 1.0, 0, 1.0, {})


def test_a_picture_has_a_line_for_each_policy_that_rates_change(tmp_path: Path) -> None:
    rows = [
        Row(policy, rate, (measures(rate / 10, rate),))
        for rate in (1.0, 2.0)
        for policy in ("strict", "fcfs")
    ]
    two, one = tmp_path / "two.png", tmp_path / "one.png"
    plot(rows, two)
    plot([row for row in rows if row.policy == "fcfs"], one)
    assert two.read_bytes().startswith(b"\x89PNG\r\n")
    assert two.read_bytes() != one.read_bytes()
