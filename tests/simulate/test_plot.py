"""The picture of a table."""

from pathlib import Path

from edged.simulate.measure import Measures
from edged.simulate.plot import plot
from edged.simulate.report import Row


def measures(violated: float, goodput: float) -> Measures:
    return Measures(
        violated=violated,
        violated_long=0.0,
        violated_light=0.0,
        missed_tpot=0.0,
        goodput=goodput,
        smooth_goodput=1.0,
        tokens_per_s=1.0,
        promised=0.0,
        broken=0.0,
        broken_ttft=0.0,
        bound_held=1.0,
        num_relegated=0,
        relegated_p99_s=0.0,
        num_turns=0,
        chunk_tokens=(1.0, 1.0, 1.0),
        num_swaps=0,
        num_recomputes=0,
        worst_wait_s=1.0,
        num_unfinished=0,
        fairness=1.0,
        tiers={},
    )


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
